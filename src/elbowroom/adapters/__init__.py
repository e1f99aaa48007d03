"""Adapters: models of other libraries and of the usual repository as (model, q). They contain no statistics."""

from .plain import plain
from .pythae import pythae

__all__ = ["plain", "pythae"]
