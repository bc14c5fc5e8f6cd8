"""Loaded by every Python process below a compatibility run, before the suite or anything else is imported.

The runner puts this folder on ``PYTHONPATH``, so that the processes that a test starts (``spawn``, ``forkserver``,
``python -c``, distpool's own node and workers) see the suite exactly as the test process does.
"""

import os
import sys

_root = os.environ.get("COMPAT_ROOT")
if _root:
    # Last, so that an installed distpool wins over the source tree next to compat_tests.
    sys.path.append(_root)
    from compat_tests.runner import bootstrap

    bootstrap.apply()
