"""CPython's ``_test_multiprocessing`` once per start method (installations may lack CPython's own modules for this)."""
