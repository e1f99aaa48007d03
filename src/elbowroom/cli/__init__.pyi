__all__ = ["main"]

from .app import main as main
