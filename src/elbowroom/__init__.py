"""A posterior is a module that returns a distribution; an inference gap is what changes when you swap two of them.

What is here is loaded when it is first used: `__init__.pyi` says where each name lives.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
