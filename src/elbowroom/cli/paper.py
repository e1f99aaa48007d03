"""`elbowroom paper`: the experiments of the paper, each by one command."""

import platform
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from cyclopts import Parameter
from cyclopts.types import PositiveInt

from ..core import write_atomically
from ..experiments import (
    EXPERIMENTS,
    SCALES,
    Decision,
    Experiment,
    Findings,
    claims_page,
    experiment_page,
    over_trainings,
)
from ..results import RunError, duration
from .early_start import n_cores
from .lab import KEPT_ROWS, ZooLab
from .terminal import UserError, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["paper_command"]

def paper_command(
    name: str = "list",
    /,
    *,
    scale: Literal["quick", "cpu", "full"] = "quick",
    out: Path = Path("elbowroom-paper"),
    zoo: Path = Path("zoo"),
    rows: Annotated[Path | None, Parameter(name="--from")] = None,
    data_dir: Path | None = None,
    workers: PositiveInt | None = None,
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        name: An experiment, all, claims (the page of all claims, of what was measured before), or list.
        scale: quick: 12 images of each set, 2 of CIFAR-10, by plan quick with short fits of flows; cpu: 250 and 100
            images by plan standard; full: the paper's own lengths of training and its protocol on 1,000 and 100
            images, which takes weeks.
        out: Folder for the pages and figures. What is measured is kept in it, and the same command goes on with it.
        zoo: Folder of the trained models. One that is missing is trained into it, for minutes up to hours; with quick
            only where that takes seconds. The same model trained with seed 1 too is in a folder NAME-seed-1.
        rows: Make the pages from the rows in this folder, such as docs/results/data, and measure nothing.
        data_dir: Folder of the data sets' files. It is looked in before the usual places.
        workers: Number of processes, by default as many as there are cores. Numbers do not depend on it.
    """
    if name == "list":
        return _list()
    names = list(EXPERIMENTS) if name in ("all", "claims") else [name]
    if unknown := [each for each in names if each not in EXPERIMENTS]:
        raise UserError(f"paper {unknown[0]}: expected list, all, claims or one of {', '.join(EXPERIMENTS)}")
    _figure()  # refused before anything is measured
    torch.set_num_threads(1)
    if name == "claims":
        return _decide_all(ZooLab(SCALES[scale], zoo, out, rows or out / KEPT_ROWS, data_dir, 1), out)
    lab = ZooLab(SCALES[scale], zoo, out, rows, data_dir, workers or n_cores())
    for each in names:
        start, experiment = time.perf_counter(), EXPERIMENTS[each]
        findings = _run(experiment, lab)
        seconds = None if rows else time.perf_counter() - start
        _write(experiment, findings, out, _facts(f"elbowroom paper {each} --scale {scale}", seconds), _figure())
        _say(each, findings.decisions)


def _run(experiment: Experiment, lab: ZooLab) -> Findings:
    """What the experiment finds of the models of the zoo, and of the same models trained with other seeds."""
    lab.train_missing(experiment.models)
    found = [experiment.run(lab)]
    for further in lab.further_trainings(experiment):
        try:
            found.append(experiment.run(further))
        except RunError as error:
            say(f"{experiment.name}: seed {len(found)} and those after it are left out: {error}")
            break
    return over_trainings(found)


def _decide_all(lab: ZooLab, out: Path) -> None:
    """Write the page of all claims that can be decided by what was measured before."""
    decided: dict[str, Sequence[Decision]] = {}
    for name, experiment in EXPERIMENTS.items():
        try:
            decided[name] = _run(experiment, lab).decisions
        except RunError as error:
            say(f"\n{name}\n  not decided: {error}")
        else:
            _say(name, decided[name])
    if not decided:
        raise UserError("paper claims: no experiment was measured at this scale; run elbowroom paper all first")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "claims.md", claims_page(decided).encode())
    say(f"\nwritten to {out / 'claims.md'}")


def _list() -> None:
    """Print the experiments."""
    longest = max(map(len, EXPERIMENTS))
    for each in EXPERIMENTS.values():
        say(f"{each.name:{longest}}  {each.section}  {each.question}")


def _say(name: str, decisions: Sequence[Decision]) -> None:
    say(f"\n{name}")
    for decision in decisions:
        say(
            f"  {decision.verdict}: {decision.claim.says} ({decision.claim.data}): {decision.mean:+.2f} "
            f"+- {decision.se:.2f} nats, {decision.errors:+.1f} standard errors"
        )


def _write(experiment: Experiment, findings: Findings, out: Path, facts: Mapping[str, str], figure: "Figure") -> None:
    """Write the page and its figure."""
    out.mkdir(parents=True, exist_ok=True)
    findings.draw(figure)
    for ending in ("png", "pdf"):
        save = partial(figure.savefig, format=ending, metadata={"CreationDate": None})  # the same rows, the same bytes
        write_atomically(out / f"{experiment.name}.{ending}", save)
    page = experiment_page(experiment, findings, f"{experiment.name}.png", facts)
    write_atomically(out / f"{experiment.name}.md", page.encode())
    say(f"\nwritten to {out / experiment.name}.md")


def _figure() -> "Figure":
    """An empty figure. UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("paper needs matplotlib for its figures: pip install elbowroom[paper]") from None
    return Figure(layout="constrained", dpi=200)


def _facts(command: str, seconds: float | None) -> dict[str, str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("elbowroom", "torch", "numpy"))
    facts = {"command": f"`{command}`", "versions": f"Python {platform.python_version()}, {packages}"}
    return facts if seconds is None else facts | {"time of this call": duration(seconds)}
