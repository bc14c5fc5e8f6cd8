"""How code that lives in the driver's program comes to workers: by name, when it is first used.

``definitions`` answers workers' questions in the driver, ``loader`` asks them in the worker; ``pickler`` writes
what has no name by value, ``rebuild`` makes it again on the other side.  ``diagnosis`` says why a value cannot be
carried.
"""
