"""Measures sets of data, by one process or by several that share a folder for each set, and prints and saves each set
as soon as it is whole.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from ..measure import Measurement, Share, follow, kept_run, reporting, unkept_run
from ..results import BlockNotKept, Gaps, RunError, RunningMeans
from ..scale import Cluster, Crew, Report, WorkersError
from .request import Request, SentData, measurements_of, opened
from .run_folders import blocks_in, save_kept
from .show import show_ladder
from .terminal import FactoryError, UserError, bars, say, show_warning

__all__ = ["fill_sets", "follow_sets", "measure_sets", "refuse_other_runs", "work", "work_on_models"]

OVERWRITE = "Or add --overwrite to measure anew and replace what is there."


def fill_sets(
    measurements: Mapping[str, Measurement], places: Mapping[str, Path], share: Share | None, report: Report
) -> None:
    """What a worker does: it measures blocks of each set into the folder of that set, without a result.

    Args:
        share: which blocks of each set it is to measure; None for all.
        report: called with the name of a set and the number of its data that are done.
    """
    try:
        for waits in (False, True):  # nobody waits for the last blocks of one set while there are blocks of another
            for name, asked in measurements.items():
                with kept_run(asked, places[name], share) as run:
                    run.fill(partial(report, name), waits)
    except BlockNotKept as error:  # whoever started this worker goes on, and tells
        warnings.warn(str(error), stacklevel=2)


def work(request: Request, places: Mapping[str, Path], share: Share | None, threads: int, report: Report) -> None:
    """What a worker does that is given a request: it opens the same model and data, and measures blocks of each set."""
    torch.set_num_threads(threads)
    warnings.showwarning = show_warning
    fill_sets(opened(request).measurements, places, share, report)


def work_on_models(
    models: Mapping[str, tuple[Request, SentData]], places: Mapping[str, Path], report: Report
) -> None:
    """What a worker does that is given several models, and the data of each."""
    torch.set_num_threads(1)
    warnings.showwarning = show_warning
    measurements = {
        f"{model}/{name}": measurement
        for model, (request, data) in models.items()
        for name, measurement in measurements_of(request, data).items()
    }
    fill_sets(measurements, places, None, report)


def follow_sets(measurements: Mapping[str, Measurement], places: Mapping[str, Path]) -> None:
    """Give the folder of each set to its measurement, if its plan adds a flow to that of the run there."""
    for name, place in places.items():
        with _refusals(name, place):
            follow(measurements[name], place)


def refuse_other_runs(measurements: Mapping[str, Measurement], places: Mapping[str, Path], advice: str) -> None:
    """Raise UserError, with what can be done, if one of these folders holds another run than is to be measured."""
    for name, asked in measurements.items():
        with _refusals(name, places[name], advice), kept_run(asked, places[name]):
            pass


def measure_sets(
    measurements: Mapping[str, Measurement],
    places: Mapping[str, Path],
    finish: Callable[[str, Gaps], Gaps] = lambda name, gaps: gaps,
    share: Share | None = None,
    crew: Crew | Cluster | None = None,
    show: Callable[[str, Gaps], None] = show_ladder,
    advice: str = OVERWRITE,
    stays: bool = True,
) -> dict[str, Gaps]:
    """Measure every set, and print and save the ladders of those that are whole -> these ladders.

    Args:
        places: the folder of each set; of a set without one nothing is saved.
        finish: adds what only the command knows.
        share: which blocks of each set are measured; None for all.
        crew: the processes that help.
        show: prints a ladder.
        advice: what can be done about a folder that holds another run.
        stays: whether the same command, run again, goes on with the folders.
    Raises:
        UserError: a folder holds another run, or workers cannot go on.
    """
    runs: dict[str, Gaps] = {}
    for name, asked in measurements.items():
        folder, means = places.get(name), RunningMeans()
        with _refusals(name, folder if stays else None, advice):
            if folder is None:
                with _progress(name, asked, None, means) as report:
                    gaps = unkept_run(asked, report, means=means)
                runs[name] = finish(name, gaps)
                show(name, runs[name])
                continue
            with kept_run(asked, folder, share, means) as run:
                with _progress(name, asked, folder, means) as report:
                    found = run.measure(report, helpers=None if crew is None else partial(crew.work, name))
                if found is None:
                    say(f"{name}: part of it is measured, {run.missing()} blocks of other parts are not there yet\n")
                    continue
                runs[name] = finish(name, found)
                try:
                    show(name, runs[name])  # before it is saved: what is on the screen cannot be lost
                finally:  # and saved though the screen be gone
                    save_kept(run, runs[name], stays)
    return runs


@contextmanager
def _refusals(name: str, folder: Path | None, advice: str = OVERWRITE) -> Iterator[None]:
    """What stops the measurement of a set, in words that say what can be done. Without a folder nothing is left."""
    try:
        yield
    except KeyboardInterrupt:
        kept = 0 if folder is None else blocks_in(folder)
        blocks = "1 block is" if kept == 1 else f"{kept} blocks are"
        what = f"{blocks} kept in {folder}; the same command goes on" if kept else "nothing was saved"
        raise KeyboardInterrupt(f"while it measured {name}, of which {what}") from None
    except RunError as error:
        raise UserError(f"{str(error).rstrip('.')}. {advice}") from None
    except WorkersError as error:
        text = str(error)
        if folder is not None:
            text = f"{text.rstrip('.')}. What is finished is kept, and the same command goes on"
        raise (FactoryError(text, error.shown) if error.shown else UserError(text)) from None


@contextmanager
def _progress(
    name: str, asked: Measurement, folder: Path | None, means: RunningMeans
) -> Iterator[Callable[[float], None]]:
    """A bar with the means below it, and a log in the run folder."""
    with bars("data") as add:
        advance = add(name, asked.total)

        def draw(done: int, total: int) -> None:
            advance(done, total, below=str(means))

        with reporting(draw, asked.total, folder=folder, means=means) as report:
            yield report
