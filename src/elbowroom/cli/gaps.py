"""`elbowroom gaps`: the ladder of a model on data."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from cyclopts.types import PositiveInt

from ..measure import BlockKey, PlanName, Share, forecast, kept_run
from ..models import device_and_dtype
from ..results import Gaps
from ..scale import Cluster, Crew, Report
from .dry_run import dry_run_of
from .early_start import n_cores, start_method
from .measuring import follow_sets, measure_sets, work
from .model_spec import checked
from .options import NO_CHOICE, DataChoice, Switch, command_of
from .request import Opened, Request, SentData, measurement_of, opened, sent
from .run_folders import reserved
from .show import runs_record, show_verdict
from .terminal import UserError, json_object, say

__all__ = ["gaps_command"]

WORTH_IT = 4  # blocks from which on workers are started unasked: a start takes as long as a block or two


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
    workers: PositiveInt | None = None,
    part: str | None = None,
    ray: str | None = None,
    ray_gpus: float = 0.0,
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
        workers: Number of processes that measure. By default as many as there are cores, and one if the model is on a
            GPU or the data are few. Numbers do not depend on it.
        part: K/N: Measure only the K-th of N parts of the data into --out. N such commands, on any machines that share
            the folder, measure all, and the last to end prints the table.
        ray: Measure on the cluster of Ray at this address; without an address, on one of this machine alone, which is
            started. All nodes must see --out and the files that are named here.
        ray_gpus: The share of a GPU that each of its tasks needs, such as 0.25.
        threads: Number of CPU threads of each process. The last digits of the numbers depend on it, and one is fastest
            where there are as many workers as cores.
        device: Torch device to move the networks to, such as cuda. By default they stay where the factory put them.
        kl_weight: The beta of the beta-VAE that was trained. If it is not 1, amortization is split into encoder and
            mismatch.
        objective: Name of any other training objective, such as iwae. It is printed with the table.
        out: Folder in which the run is saved, block by block as it is measured. If it is stopped or killed, the same
            command goes on with it, and the same command in another terminal or on another machine helps; with a larger
            --n it adds data. Each set that has a name, such as test, has a folder of that name in it.
        overwrite: Measure anew what is already there, and replace it.
        weights: A .safetensors file to load into the factory's networks, with names that start with "model." and "q.".
        unfinished: Measure a model whose training has not ended, from its last checkpoint.
        dry_run: Measure 8 data, print the time and the standard errors to expect, and stop.
        json: Print one JSON object on standard output, and the table on standard error.
    """
    command = command_of("gaps", gaps_command, locals(), without={"json", "workers", "part", "ray", "ray_gpus"})
    share = _share(part, out, overwrite)
    _refuse_without_folder(ray, out)
    torch.set_num_threads(threads)
    with json_object(json) as record:
        request = Request(
            model=model, choice=choice, n=n, first=first, seed=seed, plan=plan, refine_on=refine_on,
            refine_plan=refine_plan, device=device, kl_weight=kl_weight, objective=objective, weights=weights,
            unfinished=unfinished,
        )  # fmt: skip
        it = opened(request)
        checked(it.loaded, next(iter(it.chosen.values())).x, seed)
        if dry_run:
            foretell = partial(forecast, it.loaded.model, it.loaded.q, seed=seed, kl_weight=kl_weight)
            can = workers or _n_processes(it, threads)
            record |= {"dry_run": dry_run_of(foretell, it.chosen, plan, refine_on, refine_plan, can)}
            return
        folders = {} if out is None else {name: out if it.found.is_one_file else out / name for name in it.chosen}
        finish = partial(_with_origin, notes=it.loaded.notes, command=command, origin=it.found.origin)
        follow_sets(it.measurements, {} if overwrite else folders)
        with reserved(folders.values(), overwrite), ExitStack() as stack:
            n_workers = _n_workers(workers, it, threads)
            crew: Crew | Cluster | None = None
            places = folders or (_temporary(it, stack) if n_workers > 1 else {})
            if ray is not None:
                job, cores = partial(_work_on_node, request, places, threads), workers or _n_processes(it, threads)
                crew = stack.enter_context(Cluster(job, sent(it.chosen), ray, cores, ray_gpus))
            elif n_workers > 1:
                crew = stack.enter_context(_crew(partial(work, request, places, share, threads), n_workers))
            runs = measure_sets(it.measurements, places, finish, share, crew, stays=bool(folders))
        if len(runs) == len(it.chosen):
            show_verdict(runs)
        record |= runs_record(runs, folders)
        if folders and runs:
            say("\nsaved in " + " and ".join(str(folders[name]) for name in runs))


def _refuse_without_folder(ray: str | None, out: Path | None) -> None:
    if ray is not None and out is None:
        raise UserError(f"--ray {ray}: expected --out FOLDER, which all nodes of the cluster see; got none")


def _share(part: str | None, out: Path | None, overwrite: bool) -> Share | None:
    """The share of the blocks that --part names. UserError for one that is none, or for options that forbid it."""
    if part is None:
        return None
    words = part.split("/")
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not 1 <= int(words[0]) <= int(words[1]):
        raise UserError(f"--part {part}: expected K/N with K from 1 to N, such as 3/40")
    if out is None:
        raise UserError(f"--part {part}: expected --out FOLDER, which all parts share; got none")
    if overwrite:
        raise UserError(f"--part {part}: --overwrite would remove the other parts; remove {out} before the first part")
    return int(words[0]), int(words[1])


def _n_workers(wanted: int | None, it: Opened, threads: int) -> int:
    """How many processes measure: at most one for each block."""
    n_blocks = sum(phase.n_blocks for asked in it.measurements.values() for phase in asked.phases)
    if wanted is None and n_blocks < WORTH_IT:
        return 1
    return min(wanted or _n_processes(it, threads), n_blocks)


def _n_processes(it: Opened, threads: int) -> int:
    """How many processes suit this machine: one for each core, and one where the model is on a device of its own."""
    device, _ = device_and_dtype(it.loaded.model, it.loaded.q)
    is_elsewhere = device is not None and device.type != "cpu"
    return 1 if is_elsewhere else max(1, n_cores() // threads)


def _crew(job: Callable[[Report], None], n_workers: int) -> Crew:
    return Crew(job, n_workers, start_method())


def _temporary(it: Opened, stack: ExitStack) -> dict[str, Path]:
    """Folders for a run that is not saved."""
    base = Path(stack.enter_context(TemporaryDirectory(prefix="elbowroom-")))
    return {name: base / name for name in it.chosen}


def _work_on_node(
    request: Request, places: Mapping[str, Path], threads: int, data: SentData, name: str, key: BlockKey
) -> None:
    """What a task of a cluster does: it measures one block."""
    torch.set_num_threads(threads)
    with kept_run(measurement_of(request, name, data), places[name]) as run:
        run.measure_block(key)


def _with_origin(name: str, gaps: Gaps, notes: tuple[str, ...], command: str, origin: Mapping[str, Any]) -> Gaps:
    """A run that also says where its data come from, and which command measured it."""
    data = {**gaps.provenance["data"], **origin, "set": name}
    return replace(gaps, notes=gaps.notes + notes, provenance={**gaps.provenance, "data": data, "command": command})
