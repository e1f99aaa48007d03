"""The command line: each command reads its arguments, calls one function of the package and prints what came back."""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any, Literal

import numpy as np
import torch
from cyclopts import App, CycloptsError, Parameter

from . import __version__, data, listing, making, selftest, sources
from . import demo as demo_runs
from .blocks import BLOCK, n_data, take
from .checks import check as check_model
from .gaps import decompose
from .ladder import Gaps, load_gaps
from .model import latent_size
from .terminal import UserError, bars, columns, duration, fail, is_message, say, show
from .twophase import combine, expected_se, second_seed

__all__ = ["app", "main"]

PlanName = Literal["quick", "standard", "flow", "precise", "published"]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Hidden = Parameter(show=False)
DRY_RUN_SIZES = (100, 1000)

app = App(
    name="elbowroom",
    help="Inference gaps of a trained VAE: which assumption about q(z|x) loses how many nats.",
    version=__version__,
    version_flags=["--version"],
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command -> exit code: 0, 1 where a selftest fails, 2 for an error that the user can mend."""
    try:
        code = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, UserError) as error:
        return fail(error)
    except (ValueError, TypeError, FloatingPointError, FileNotFoundError) as error:
        if not is_message(error):
            raise
        return fail(error)
    except BrokenPipeError:  # whoever read standard output has gone, as in `elbowroom report ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("elbowroom: interrupted", file=sys.stderr)
        return 130
    return code if isinstance(code, int) else 0


@app.command
def demo(
    *,
    out: Path = Path("elbowroom-demo"),
    n: Annotated[int, Hidden] = 250,
    plan: Annotated[PlanName, Hidden] = "standard",
    workers: Annotated[int, Hidden] = 2,
) -> None:
    """Measure the VAE that is shipped, trained on Fashion-MNIST, on 250 training and 250 held-out images.

    Takes about a minute. Prints both ladders, from the ELBO up to log p(x), and a verdict.

    Args:
        out: Folder for the runs, OUT/train and OUT/heldout. Those of an earlier demo are replaced.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)
    images = data.demo_images()
    if not 1 <= n <= len(images["train"]):
        raise UserError(f"--n {n}: expected 1 to {len(images['train'])}, the number of images of each set")
    for name in images:
        _check_out(out / name, overwrite=True)
    with bars("images") as add:
        runs = demo_runs.run(n, plan, workers, {name: add(name, n) for name in images})
    for name, gaps in runs.items():
        _save(gaps, out / name, overwrite=True)
    show(runs)
    say(f"\nruns saved in {out / 'train'} and {out / 'heldout'}; {duration(time.perf_counter() - start)}")


@app.command(name="selftest")
def selftest_(*, seed: int = 0) -> int:
    """Measure models whose every number is known in closed form, and print truth beside estimate.

    Takes about ten seconds. Exits with 1 if a number is off by more than chance explains.

    Args:
        seed: Of the models, the data and every draw.
    """
    torch.set_num_threads(1)  # on models this small more threads only wait for each other
    with bars("models") as add:
        rows = selftest.run(seed, add("selftest", len(selftest.CASES) + 1))
    failed, limit = selftest.off(rows), selftest.limit_of(len(rows))
    table: list[tuple[str, ...]] = [("model", "quantity", "", "truth", "estimate", "error", "distance", "")]
    for row in rows:
        numbers = (f"{row.truth:.4f}", f"{row.estimate:.4f}", f"{row.error:.1e}", f"{row.distance:.1f}")
        table.append((row.model, row.quantity, selftest.SIDES[row.side], *numbers, "OFF" if row in failed else "ok"))
    for line in columns(table, 2):
        say(line)
    say(f"\n{len(rows) - len(failed)} of {len(rows)} lie within {limit:.1f} standard errors of the truth.")
    say(f"Chance alone puts one of them further off in one selftest of {1 / selftest.FALSE_ALARM:,.0f}.")
    say(f"Distances leave out up to {selftest.SHORTFALL:g} nats by which a bound may fall short: fits may end early.")
    return 1 if failed else 0


@app.command
def check(*, model: str, data: Path | None = None, seed: int = 0) -> None:
    """Look for what makes a model unmeasurable: shapes, values that are not finite, gradients, modes, batch dependence.

    Args:
        model: package.module:factory, file.py:factory, or the folder of a trained model.
        data: Array with one datum per row (.npy, .npz, .safetensors or .pt), in place of the factory's own sets.
        seed: Of the draws.
    """
    source, sets = _opened(model, data)
    for name, x in sets.items():
        notes = _checked(source, x, seed)
        say(f"OK: {name}, {n_data(x)} data, {latent_size(source.model)} latents")
        for note in notes:
            say(f"  note: {note}")


@app.command
def gaps(
    *,
    model: str,
    data: Path | None = None,
    n: int | None = None,
    first: int | None = None,
    seed: int = 0,
    plan: PlanName = "standard",
    refine_on: int | None = None,
    refine_plan: PlanName = "standard",
    device: str | None = None,
    kl_weight: float = 1.0,
    objective: str | None = None,
    out: Path | None = None,
    overwrite: Flag = False,
    weights: Path | None = None,
    dry_run: Flag = False,
) -> None:
    """Measure where a VAE's ELBO loses nats against log p(x), and print the ladder and the verdict.

    Args:
        model: package.module:factory, file.py:factory, or the folder of a trained model. A factory returns (model, q),
            or (model, q, {"train": ..., "test": ...}); every set is then measured.
        data: Array with one datum per row (.npy, .npz, .safetensors or .pt), in place of the factory's sets.
        n: Measure a random sample of N rows. Files are often sorted, so this is safer than --first.
        first: Measure the first FIRST rows.
        seed: Of the sample and of every draw.
        plan: What is fitted to each datum: quick (a diagonal Gaussian), standard (also a full one), flow
            (also a coupling flow), precise (as standard, for an error of 0.05 nats
            for each datum), published (the paper's protocol: 10 million gradients per datum).
        refine_on: Measure this many of the data, drawn at random, by --refine-plan too, and correct the others by the
            mean difference. Means are then those of that plan, at a fraction of its cost.
        refine_plan: The dearer plan of --refine-on.
        device: Torch device to move the networks to, such as cuda. By default they stay where the factory put them.
        kl_weight: The beta that q was trained with. Other than 1, amortization is split into encoder and mismatch.
        objective: Name of any other training objective, such as iwae; printed with the table.
        out: Folder to save the run in; with several sets, one folder each within it.
        overwrite: Replace a run that is already there.
        weights: A .safetensors file to load into the factory's networks, with names that start with "model." and "q.".
        dry_run: Measure one block, print the expected time, memory and standard errors, and stop.
    """
    source, sets = _opened(model, data)
    if weights is not None:
        sources.read_weights(source, weights)
    if device is not None:
        sources.put_on(source, device)
    chosen = sources.samples(sets, n, first, seed)
    folders = {} if out is None else {name: out if data is not None else out / name for name in chosen}
    for folder in folders.values():
        _check_out(folder, overwrite)
    for name, sample in chosen.items():
        if refine_on is not None and not 2 <= refine_on <= len(sample.ids):
            raise UserError(f"--refine-on {refine_on}: expected 2 to {len(sample.ids)}, the number of data of {name}")
    _checked(source, next(iter(chosen.values())).x, seed)
    measure = partial(decompose, source.model, source.q, seed=seed, kl_weight=kl_weight, objective=objective)
    if dry_run:
        if "published" in (plan, refine_plan if refine_on is not None else plan):
            raise UserError("--dry-run measures one block, and plan published takes an hour or more; time standard")
        dear = None if refine_on is None else partial(measure, plan=refine_plan, seed=second_seed(seed))
        return _dry_run(partial(measure, plan=plan), chosen, dear, refine_on)
    measure = partial(measure, plan=plan, refine_on=refine_on, refine_plan=refine_plan)
    runs: dict[str, Gaps] = {}
    with bars("data") as add:
        for name, sample in chosen.items():
            runs[name] = measure(sample.x, ids=sample.ids.tolist(), progress=add(name, len(sample.ids)))
            if name in folders:
                _save(runs[name], folders[name], overwrite)
    show(runs)
    if folders:
        say("\nsaved in " + " and ".join(map(str, folders.values())))


app.command(making.train_, name="train")
app.command(making.repair_, name="repair")
app.command(listing.data_, name="data")


@app.command
def report(*folders: Annotated[Path, Parameter(name="FOLDER")]) -> None:
    """Print the tables and the verdict of saved runs again.

    Args:
        folders: Run folders, or folders of run folders such as that of the demo.
    """
    if not folders:
        raise UserError("report needs the folder of a run")
    show({str(run): load_gaps(run) for folder in folders for run in _runs_in(folder)})


def _opened(model: str, path: Path | None) -> tuple[sources.Source, Mapping[str, Any]]:
    """The source, and the sets to measure: those of the file where one is named, else the factory's own."""
    sets = {} if path is None else {"data": data.load_array(path)}
    source = sources.open_source(model, with_sets=path is None)
    sets = sets or dict(source.sets)
    if not sets:
        raise UserError(f"--data is needed: {model} brings no data of its own")
    return source, sets


def _checked(source: sources.Source, x: Any, seed: int) -> list[str]:
    """The notes of `check`; they are printed with the table, not as warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check_model(source.model, source.q, x, seed)


def _check_out(folder: Path, overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder that could not be written at the end."""
    if (folder / "run.json").exists():
        if not overwrite:
            raise UserError(f"{folder} holds a run already; add --overwrite to replace it, or name another folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run; name an empty or a new folder")
    elif any(parent.exists() and not parent.is_dir() for parent in (folder, *folder.parents)):
        raise UserError(f"{folder}: a run is saved as a folder, and there is a file in its place")


def _save(gaps: Gaps, folder: Path, overwrite: bool) -> None:
    """Save a run; where that fails, the folders that were made for it are gone again."""
    with _made_or_gone(folder):
        gaps.save(folder, overwrite)


@contextmanager
def _made_or_gone(folder: Path) -> Iterator[None]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException as error:
        if missing:
            rmtree(missing[-1], ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{folder}: {error.strerror or error}; nothing was saved") from None
        raise


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself where it is a run or nothing better, else the runs directly in it."""
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    return [folder] if (folder / "run.json").exists() or not inside else inside


def _dry_run(
    measure: Callable[..., Gaps], chosen: Mapping[str, sources.Sample], dear: Callable[..., Gaps] | None, n_refined: Any
) -> None:
    """One block of the first set, measured by the plan of all data and by that of the refined, and what it says of
    more.
    """
    name, sample = next(iter(chosen.items()))
    n = len(sample.ids)
    x = take(sample.x, torch.arange(min(BLOCK, n)))
    found, seconds = _timed(measure, x)
    refined, dear_seconds = {}, 0.0
    sizes = sorted({*(size for size in DRY_RUN_SIZES if size < n), n})
    if dear is not None:
        best, dear_seconds = _timed(dear, x)
        found = combine(found, best, np.arange(len(found)))
        refined = {size: min(n_refined, size) for size in sizes}
    table = [("data", *(f"{size:,}" for size in sizes))]
    if dear is not None:
        table.append(("refined", *(f"{refined[size]:,}" for size in sizes)))
    times = [seconds * -(-size // BLOCK) + dear_seconds * -(-refined.get(size, 0) // BLOCK) for size in sizes]
    table.append(("time", *map(duration, times)))
    for label, estimate in {"L[q]": found.elbo, **found.steps, "log p(x)": found.log_evidence}.items():
        errors = [expected_se(estimate, size, refined.get(size, size)) for size in sizes]
        table.append((f"se of {label}", *(f"{error:.3f}" for error in errors)))
    say(f"{name}: {len(found)} data took {duration(seconds + dear_seconds)}; to expect, errors in nats:\n")
    for line in columns(table):
        say(line)
    say(f"\nmemory: {_peak_memory()} for any number of data, which are measured {BLOCK} at a time")
    others = [f"{other} ({len(s.ids):,})" for other, s in chosen.items() if other != name]
    if others:
        say(f"as long for each datum of {', '.join(others)}")


def _timed(measure: Callable[..., Gaps], x: Any) -> tuple[Gaps, float]:
    """What was measured, and in how many seconds."""
    start = time.perf_counter()
    return measure(x), time.perf_counter() - start


def _peak_memory() -> str:
    """The most memory that this process has held so far."""
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    text = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        text += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the device"
    return text
