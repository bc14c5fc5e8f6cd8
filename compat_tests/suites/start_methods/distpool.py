"""The tests of CPython's ``_test_multiprocessing``, with ``distpool`` as the start method."""

from __future__ import annotations

import importlib

importlib.import_module("test._test_multiprocessing").install_tests_in_module_dict(globals(), "distpool")
