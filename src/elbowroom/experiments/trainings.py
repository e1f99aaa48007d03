"""One experiment on several trainings of its models."""

from collections.abc import Sequence
from dataclasses import replace

from .claims import decide_over
from .experiment import Findings

__all__ = ["over_trainings"]


def over_trainings(found: Sequence[Findings]) -> Findings:
    """What an experiment found of each training as one: the table has all rows, the figure is that of the first."""
    rows = [(_name(row[0], seed), *row[1:]) for seed, each in enumerate(found) for row in each.rows]
    decisions = [decide_over(each) for each in zip(*(one.decisions for one in found), strict=True)]
    return replace(found[0], rows=rows, decisions=decisions)


def _name(of: str, seed: int) -> str:
    return f"{of}, seed {seed}" if seed else of
