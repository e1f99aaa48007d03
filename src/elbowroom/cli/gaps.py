"""`elbowroom gaps`: the ladder of a model on data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cyclopts.types import PositiveInt

from ..measure import PlanName, decompose, forecast
from ..results import Gaps, RunError
from .data_spec import Sample, open_sets, samples
from .dry_run import dry_run_of
from .model_spec import checked, load_weights, open_model, to_device
from .options import NO_CHOICE, DataChoice, Switch, command_of
from .run_folders import begin_anew, blocks_in, reserved, save
from .show import runs_record, show_ladder, show_verdict
from .terminal import UserError, bars, json_object, say

__all__ = ["gaps_command"]


def gaps_command(
    *,
    model: str,
    choice: DataChoice = NO_CHOICE,
    n: int | None = None,
    first: int | None = None,
    seed: int = 0,
    plan: PlanName = "standard",
    refine_on: int | None = None,
    refine_plan: PlanName = "standard",
    threads: PositiveInt = 1,
    device: str | None = None,
    kl_weight: float = 1.0,
    objective: str | None = None,
    out: Path | None = None,
    overwrite: Switch = False,
    weights: Path | None = None,
    unfinished: Switch = False,
    dry_run: Switch = False,
    json: Switch = False,
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        model: package.module:factory, file.py:factory, or the folder of a trained model. A factory returns (model, q),
            or (model, q, {"train": ..., "test": ...}); every set is then measured.
        n: Measure a random sample of N rows of each set. Files are often sorted, so this is safer than --first.
        first: Measure only the first rows of each set, this many.
        seed: Random seed of the sample and of the measurement.
        plan: Which posteriors are fitted to each datum, and how long. quick: a diagonal Gaussian; standard: also a
            full Gaussian; flow: also a coupling flow; precise: as standard, for an error of 0.05 nats for each
            datum, or a flag; published: the protocol of the paper, with 10 million gradients per datum.
        refine_on: Measure this many of the data, drawn at random, by --refine-plan too, and correct the others by the
            mean difference. Means are then those of that plan, at a fraction of its cost.
        refine_plan: The more costly plan of --refine-on.
        threads: Number of CPU threads. Two take two thirds of the time on an idle machine, but several times as long
            as one where other programs are running. The last digits of the numbers depend on it.
        device: Torch device to move the networks to, such as cuda. By default they stay where the factory put them.
        kl_weight: The beta of the beta-VAE that was trained. If it is not 1, amortization is split into encoder and
            mismatch.
        objective: Name of any other training objective, such as iwae. It is printed with the table.
        out: Folder in which the run is saved, block by block as it is measured. If it is stopped or killed, the same
            command goes on with it; with a larger --n it adds data. Each set that has a name, such as test, has a
            folder of that name in it.
        overwrite: Measure anew what is already there, and replace it.
        weights: A .safetensors file to load into the factory's networks, with names that start with "model." and "q.".
        unfinished: Measure a model whose training has not ended, from its last checkpoint.
        dry_run: Measure 8 data, print the time and the standard errors to expect, and stop.
        json: Print one JSON object on standard output, and the table on standard error.
    """
    command = command_of("gaps", gaps_command, locals(), without={"json"})
    torch.set_num_threads(threads)
    with json_object(json) as record:
        loaded = open_model(model, unfinished)
        found = open_sets(loaded, choice, model, seed)
        if weights is not None:
            load_weights(loaded, weights)
        if device is not None:
            to_device(loaded, device)
        chosen = samples(found, n, first, seed)
        for name, sample in chosen.items():
            if refine_on is not None and not 2 <= refine_on <= len(sample.ids):
                many = len(sample.ids)
                raise UserError(f"--refine-on {refine_on}: expected 2 to {many}, the number of data of {name}")
        checked(loaded, next(iter(chosen.values())).x, seed)
        if dry_run:
            foretell = partial(forecast, loaded.model, loaded.q, seed=seed, kl_weight=kl_weight)
            record |= {"dry_run": dry_run_of(foretell, chosen, plan, refine_on, refine_plan)}
            return
        measure = partial(
            decompose, loaded.model, loaded.q, plan=plan, seed=seed, kl_weight=kl_weight, objective=objective,
            refine_on=refine_on, refine_plan=refine_plan, check=False,
        )  # fmt: skip
        folders = {} if out is None else {name: out if found.is_one_file else out / name for name in chosen}
        finish = partial(_with_origin, notes=loaded.notes, command=command, origin=found.origin)
        runs = _measured(measure, finish, chosen, folders, overwrite)
        show_verdict(runs)
        record |= runs_record(runs, folders)
        if folders:
            say("\nsaved in " + " and ".join(map(str, folders.values())))


def _measured(
    measure: Callable[..., Gaps],
    finish: Callable[[str, Gaps], Gaps],
    chosen: Mapping[str, Sample],
    folders: Mapping[str, Path],
    overwrite: bool,
) -> dict[str, Gaps]:
    """Measure every set, print its ladder, and save it. `finish` adds what only the command knows."""
    runs: dict[str, Gaps] = {}
    with reserved(folders.values(), overwrite):
        if overwrite:
            for folder in folders.values():
                begin_anew(folder)
        for name, sample in chosen.items():
            gaps = _measured_set(measure, name, sample, folders.get(name))
            runs[name] = finish(name, gaps)
            try:
                show_ladder(name, runs[name])  # before it is saved: what is on the screen cannot be lost
            finally:  # and saved though the screen be gone
                if name in folders:
                    save(runs[name], folders[name], overwrite=True, keep_blocks=True)
    return runs


def _measured_set(measure: Callable[..., Gaps], name: str, sample: Sample, folder: Path | None) -> Gaps:
    """Measure one set into its folder, or go on with what the folder holds."""
    try:
        with bars("data") as add:
            return measure(sample.x, ids=sample.ids.tolist(), progress=add(name, len(sample.ids)), out=folder)
    except KeyboardInterrupt:
        kept = 0 if folder is None else blocks_in(folder)
        blocks = "1 block is" if kept == 1 else f"{kept} blocks are"
        what = f"{blocks} kept in {folder}; the same command goes on" if kept else "nothing was saved"
        raise KeyboardInterrupt(f"while it measured {name}, of which {what}") from None
    except RunError as error:
        raise UserError(f"{error} Or add --overwrite to measure anew and replace what is there.") from None


def _with_origin(name: str, gaps: Gaps, notes: tuple[str, ...], command: str, origin: Mapping[str, Any]) -> Gaps:
    """A run that also says where its data come from, and which command measured it."""
    data = {**gaps.provenance["data"], **origin, "set": name}
    return replace(gaps, notes=gaps.notes + notes, provenance={**gaps.provenance, "data": data, "command": command})
