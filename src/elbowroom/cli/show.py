"""What the commands that measure print: each run's ladder, then the verdict in words."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..results import Gaps, Verdict, judge
from .terminal import say

__all__ = ["runs_record", "show", "show_ladder", "show_verdict", "verdict_lines"]

def show(runs: Mapping[str, Gaps]) -> None:
    """Print each run's ladder under its name, then the verdict, which compares held-out with training data if both are
    there.
    """
    for name, gaps in runs.items():
        show_ladder(name, gaps)
    show_verdict(runs)


def show_ladder(name: str, gaps: Gaps) -> None:
    """Print one run's ladder under its name."""
    say(f"{name}: {len(gaps)} data, plan {gaps.plan}, seed {gaps.seed}\n")
    say(f"{gaps}\n")


def show_verdict(runs: Mapping[str, Gaps]) -> None:
    """Print the verdict on all runs."""
    for line in verdict_lines(runs):
        say(line)


def runs_record(runs: Mapping[str, Gaps], folders: Mapping[str, Path]) -> dict[str, Any]:
    """What --json prints of runs: each ladder with the folder in which it is saved, and the verdicts."""
    ladders = {
        name: gaps.to_dict() | {"folder": str(folders[name].resolve()) if name in folders else None}
        for name, gaps in runs.items()
    }
    verdicts = {name: [asdict(finding) for finding in verdict] for name, verdict in _verdicts(runs)}
    return {"runs": ladders, "verdict": verdicts}


def verdict_lines(runs: Mapping[str, Gaps]) -> Iterator[str]:
    """The lines of the verdict. The other runs are compared with one that is named "train"."""
    for i, (name, verdict) in enumerate(_verdicts(runs)):
        if i:
            yield ""
        yield "verdict" if len(runs) == 1 else f"verdict on {name}"
        for finding in verdict:
            yield from finding.lines("  ")


def _verdicts(runs: Mapping[str, Gaps]) -> Iterator[tuple[str, Verdict]]:
    named = {Path(name).name: gaps for name, gaps in runs.items()}
    train = named.get("train") if len(named) == len(runs) > 1 else None
    for name, gaps in runs.items():
        if gaps is not train:
            yield name, judge(gaps, train)
