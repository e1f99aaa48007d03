"""Whose error it is: the package's own, which is a sentence to its user, or that of foreign code."""

import traceback
from pathlib import Path

__all__ = ["raised_here"]

PACKAGE = Path(__file__).resolve().parents[1]


def raised_here(error: BaseException) -> bool:
    """Whether elbowroom raised this itself; an error inside torch or a user's model is not ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PACKAGE in Path(frames[-1].filename).resolve().parents
