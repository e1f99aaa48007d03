"""Adapters: models of other libraries and of the usual repository as (model, q). They contain no statistics."""

from .plain import plain
from .pyro import pyro
from .pythae import pythae
from .scvi import scvi

__all__ = ["plain", "pyro", "pythae", "scvi"]
