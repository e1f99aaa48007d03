"""Adapters: models of other libraries and of the usual repository as (model, q). They contain no statistics."""

from .plain import plain
from .pyro import pyro
from .pythae import pythae
from .registry import Adapter, load_foreign
from .scvi import scvi

__all__ = ["Adapter", "load_foreign", "plain", "pyro", "pythae", "scvi"]
