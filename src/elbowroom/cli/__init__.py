"""The command line: one file per command, which reads its arguments, calls one function and prints what came back."""

from .app import main

__all__ = ["main"]
