"""The protocol: one module per arrow of the architecture picture, and the channel that carries it.

Reading this folder is reading the specification.  A message is a ``msgspec.Struct``; its docstring says who sends it
and when.  User data (pickles, buffers) travels as opaque frames behind the message and is never looked into here.
"""
