"""Where an error was raised: by this package, whose messages address the user, or by foreign code."""

import dis
from collections.abc import Mapping
from pathlib import Path

__all__ = ["kind_of", "raised_here"]

RAISE = dis.opmap["RAISE_VARARGS"]
PACKAGE = Path(__file__).resolve().parents[1]


def raised_here(error: BaseException) -> bool:
    """Whether a `raise` of elbowroom raised this error, and not torch or a user's model that it called.

    An error that Python raises in a line of elbowroom, such as one that iterates over a user's None, is not its own.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    return PACKAGE in Path(code.co_filename).resolve().parents and code.co_code[trace.tb_lasti] == RAISE


def kind_of(value: object) -> str:
    """How a message names what it got: its type, and the keys of a mapping."""
    return f"a mapping of {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
