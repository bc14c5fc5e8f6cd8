"""What CPython's ``test_multiprocessing_spawn`` does: the tests, with ``spawn`` as the start method."""

from __future__ import annotations

import importlib

importlib.import_module("test._test_multiprocessing").install_tests_in_module_dict(globals(), "spawn")
