"""`elbowroom paper`: the experiments of the paper, each by one command."""

import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from cyclopts.types import PositiveInt
from numpy.typing import NDArray
from torch import Tensor

from ..core import write_atomically
from ..experiments import (
    EXPERIMENTS,
    SCALES,
    Decision,
    Experiment,
    Findings,
    NamedArrays,
    Scale,
    Trained,
    claims_page,
    experiment_page,
)
from ..models import DecoderModel
from ..posteriors import Amortized
from ..results import Gaps, RunError, duration, load_gaps
from ..scale import Crew
from .early_start import n_cores
from .measuring import measure_sets, work
from .options import DataChoice
from .request import Request, opened
from .run_folders import reserved
from .terminal import UserError, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["paper_command"]

DATA, RUNS = "data", "runs"  # folders below --out: rows that are kept, and runs that may go on
HELDOUT = "test"  # the set that is measured as held-out
ORIGIN, WEIGHTS = "weights", "model.safetensors"  # of arrays that are kept: the checksum of this file


def paper_command(
    name: str = "list",
    /,
    *,
    scale: Literal["quick", "cpu"] = "quick",
    out: Path = Path("elbowroom-paper"),
    zoo: Path = Path("zoo"),
    rows: Path | None = None,
    data_dir: Path | None = None,
    workers: PositiveInt | None = None,
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        name: An experiment, all, claims (the page of all claims, of what was measured before), or list.
        scale: quick: 20 images of each set, 2 of CIFAR-10, by plan quick; cpu: 250 and 100 images by plan standard.
        out: Folder for the pages and figures. What is measured is kept in it, and the same command goes on with it.
        zoo: Folder of the trained models.
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
        return _decide_all(_Lab(SCALES[scale], zoo, out, rows or out / DATA, data_dir, 1), out)
    lab = _Lab(SCALES[scale], zoo, out, rows, data_dir, workers or n_cores())
    for each in names:
        start, experiment = time.perf_counter(), EXPERIMENTS[each]
        findings = experiment.run(lab)
        seconds = None if rows else time.perf_counter() - start
        _write(experiment, findings, out, _facts(f"elbowroom paper {each} --scale {scale}", seconds), _figure())
        _say(each, findings.decisions)


def _decide_all(lab: "_Lab", out: Path) -> None:
    """Write the page of all claims that can be decided by what was measured before."""
    decided: dict[str, Sequence[Decision]] = {}
    for name, experiment in EXPERIMENTS.items():
        try:
            decided[name] = experiment.run(lab).decisions
        except RunError as error:
            say(f"\n{name}\n  not decided: {error}")
        else:
            _say(name, decided[name])
    if not decided:
        raise UserError("paper claims: no experiment was measured at this scale; run elbowroom paper all first")
    out.mkdir(parents=True, exist_ok=True)
    (out / "claims.md").write_text(claims_page(decided))
    say(f"\nwritten to {out / 'claims.md'}")


class _Lab:
    """Measures models of the zoo, or reads what was measured of them."""

    def __init__(
        self, scale: Scale, zoo: Path, out: Path, rows: Path | None, data_dir: Path | None, workers: int
    ) -> None:
        self.scale = scale
        self._zoo, self._out, self._rows, self._workers = zoo, out, rows, workers
        self._choice = DataChoice(data_dir=data_dir)
        self._found: dict[str, Mapping[str, Gaps]] = {}
        self._seen: dict[tuple[str, str], tuple[str, NDArray[np.int64] | None]] = {}

    def gaps(self, model: str) -> Mapping[str, Gaps]:
        """As `experiments.Lab` says."""
        if model not in self._found:
            found = self._read(model, self._rows) if self._rows is not None else self._measured(model)
            self._refuse_other_images(model, found)
            self._found[model] = found
        return self._found[model]

    def arrays(self, model: str, name: str, make: Callable[[Trained], NamedArrays]) -> NamedArrays:
        """As `experiments.Lab` says."""
        kept = (self._rows or self._out / DATA) / self.scale.name / model / f"{name}.npz"
        if kept.exists():
            with np.load(kept) as file:
                found = dict(file)
            origin = str(found.pop(ORIGIN))
            if self._rows is not None or origin == self._origin(model):
                return found
        elif self._rows is not None:
            raise RunError(f"{kept} does not exist; run elbowroom paper without --rows first")
        made = make(self._trained(model))
        content: dict[str, Any] = {**made, ORIGIN: self._origin(model)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, partial(np.savez_compressed, **content))
        return made

    def _origin(self, model: str) -> str:
        """Which weights they are."""
        return hashlib.sha256((self._zoo / model / WEIGHTS).read_bytes()).hexdigest()

    def _trained(self, model: str) -> Trained:
        it = opened(self._request(model))
        images = {_common(name): sample.x for name, sample in it.chosen.items() if isinstance(sample.x, Tensor)}
        assert isinstance(it.loaded.model, DecoderModel)
        assert isinstance(it.loaded.q, Amortized)
        return Trained(model=it.loaded.model, q=it.loaded.q, images=images)

    def _refuse_other_images(self, model: str, found: Mapping[str, Gaps]) -> None:
        """Models of one data set are compared datum by datum, so they must have seen the same data."""
        for name, gaps in found.items():
            data = (model.split("-")[0], name)
            first, before = self._seen.setdefault(data, (model, gaps.fingerprint))
            now = gaps.fingerprint
            if before is not None and now is not None and not np.array_equal(before, now):
                raise UserError(f"{model} and {first} were measured on different images of {name}; measure both anew")

    def _read(self, model: str, rows: Path) -> Mapping[str, Gaps]:
        return {name: load_gaps(rows / self.scale.name / model / name) for name in ("train", "heldout")}

    def _request(self, model: str) -> Request:
        if not (self._zoo / model / "config.json").exists():
            raise UserError(f"{self._zoo / model}: there is no such model. Name the folder of the models with --zoo")
        is_large = model.startswith("cifar")
        return Request(
            model=str(self._zoo / model), choice=self._choice, n=self.scale.n_large if is_large else self.scale.n,
            first=None, seed=0, plan=self.scale.plan, refine_on=None, refine_plan="standard", device=None,
            kl_weight=1.0, objective=None, weights=None, unfinished=False,
        )  # fmt: skip

    def _measured(self, model: str) -> Mapping[str, Gaps]:
        request = self._request(model)
        measurements = opened(request).measurements
        places = {name: self._out / RUNS / self.scale.name / model / name for name in measurements}
        with ExitStack() as stack:
            stack.enter_context(reserved(places.values(), overwrite=False))
            crew = stack.enter_context(Crew(partial(work, request, places, None, 1), self._workers))
            show = partial(_say_gaps, model)
            helpers = crew if self._workers > 1 else None
            found = measure_sets(measurements, places, crew=helpers, show=show, advice="Or name another --out.")
        named = {_common(name): gaps for name, gaps in found.items()}
        for name, gaps in named.items():
            place = self._out / DATA / self.scale.name / model / name
            if not _holds(place, gaps):
                gaps.save(place, overwrite=True)
        return named


def _common(name: str) -> str:
    """The name of a set as the experiments have it."""
    return "heldout" if name == HELDOUT else name


def _holds(folder: Path, gaps: Gaps) -> bool:
    """Whether these gaps are saved there already."""
    try:
        return bool(load_gaps(folder) == gaps)
    except RunError:
        return False


def _list() -> None:
    """Print the experiments."""
    longest = max(map(len, EXPERIMENTS))
    for each in EXPERIMENTS.values():
        say(f"{each.name:{longest}}  {each.section}  {each.question}")


def _say_gaps(model: str, name: str, gaps: Gaps) -> None:
    steps = (gaps.amortization, gaps.approximation)
    terms = ", ".join(f"{step.name} {step.mean:.2f} +- {step.se:.2f}" for step in steps)
    say(f"{model}, {len(gaps)} of {name}: {terms}, log p(x) {gaps.log_evidence.mean:.2f}")


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
        figure.savefig(out / f"{experiment.name}.{ending}")
    page = experiment_page(experiment, findings, f"{experiment.name}.png", facts)
    (out / f"{experiment.name}.md").write_text(page)
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
