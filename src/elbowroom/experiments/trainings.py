"""One experiment on several trainings of its models."""

from collections.abc import Sequence
from dataclasses import replace

from .claims import decide_over
from .experiment import Findings

__all__ = ["over_trainings"]


def over_trainings(found: Sequence[Findings]) -> Findings:
    """What an experiment found of each training as one: the table has all rows, the figure is that of the first.

    A further training may decide some of the claims alone.
    """
    rows = [(_name(row[0], seed), *row[1:]) for seed, each in enumerate(found) for row in each.rows]
    decided = [{decision.claim.name: decision for decision in one.decisions} for one in found]
    decisions = [decide_over([each[name] for each in decided if name in each]) for name in decided[0]]
    return replace(found[0], rows=rows, decisions=decisions)


def _name(of: str, seed: int) -> str:
    return f"{of}, seed {seed}" if seed else of
