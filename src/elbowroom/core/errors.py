"""Where an error was raised: by this package, whose messages address the user, or by foreign code."""

import traceback
from pathlib import Path

__all__ = ["raised_here"]

PACKAGE = Path(__file__).resolve().parents[1]


def raised_here(error: BaseException) -> bool:
    """Whether elbowroom itself raised this error, and not torch or a user's model that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PACKAGE in Path(frames[-1].filename).resolve().parents
