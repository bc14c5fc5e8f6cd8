"""What CPython's ``test_multiprocessing_fork`` does: the tests, with ``fork`` as the start method."""

from __future__ import annotations

import importlib

importlib.import_module("test._test_multiprocessing").install_tests_in_module_dict(globals(), "fork")
