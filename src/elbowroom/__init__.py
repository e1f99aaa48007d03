"""A posterior is a module that returns a distribution; an inference gap is what changes when you swap two of them."""

__version__ = "0.1.0"
