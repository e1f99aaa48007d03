"""The command line: one file per command, which reads its arguments, calls one function and prints what came back.

Nothing is loaded before it is used: a process that measures blocks for a command does not load the commands.
"""

import lazy_loader as _lazy_loader

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
