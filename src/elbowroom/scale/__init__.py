"""The same work in more than one process. Nothing is loaded before it is used: to join a cluster takes no torch."""

import lazy_loader as _lazy_loader

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
