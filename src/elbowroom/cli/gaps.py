"""`elbowroom gaps`: the ladder of a model on data."""

from functools import partial
from pathlib import Path

from ..measure import PlanName, decompose
from ..results import Gaps
from .dry_run import dry_run_of
from .inputs import checked, load_weights, open_with_sets, samples, to_device
from .options import Switch
from .run_folders import reserved, save
from .show import show_ladder, show_verdict
from .terminal import UserError, bars, say

__all__ = ["gaps_command"]


def gaps_command(
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
    overwrite: Switch = False,
    weights: Path | None = None,
    dry_run: Switch = False,
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        model: package.module:factory, file.py:factory, or the folder of a trained model. A factory returns (model, q),
            or (model, q, {"train": ..., "test": ...}); every set is then measured.
        data: Array with one datum per row (.npy, .npz, .safetensors or .pt), in place of the factory's sets.
        n: Measure a random sample of N rows. Files are often sorted, so this is safer than --first.
        first: Measure the first FIRST rows.
        seed: Random seed of the sample and of the measurement.
        plan: Which posteriors are fitted to each datum, and how long. quick: a diagonal Gaussian; standard: also a
            full Gaussian; flow: also a coupling flow; precise: as standard, for an error of 0.05 nats for each
            datum, or a flag; published: the protocol of the paper, with 10 million gradients per datum.
        refine_on: Measure this many of the data, drawn at random, by --refine-plan too, and correct the others by the
            mean difference. Means are then those of that plan, at a fraction of its cost.
        refine_plan: The more costly plan of --refine-on.
        device: Torch device to move the networks to, such as cuda. By default they stay where the factory put them.
        kl_weight: The beta of the beta-VAE that was trained. If it is not 1, amortization is split into encoder and
            mismatch.
        objective: Name of any other training objective, such as iwae. It is printed with the table.
        out: Folder in which the run is saved. If there are several sets, each has a folder within it.
        overwrite: Replace a run that is already there.
        weights: A .safetensors file to load into the factory's networks, with names that start with "model." and "q.".
        dry_run: Measure one block of 50 data, print the time, memory and standard errors to expect, and stop.
    """
    loaded, sets = open_with_sets(model, data)
    if weights is not None:
        load_weights(loaded, weights)
    if device is not None:
        to_device(loaded, device)
    chosen = samples(sets, n, first, seed)
    folders = {} if out is None else {name: out if data is not None else out / name for name in chosen}
    for name, sample in chosen.items():
        if refine_on is not None and not 2 <= refine_on <= len(sample.ids):
            raise UserError(f"--refine-on {refine_on}: expected 2 to {len(sample.ids)}, the number of data of {name}")
    checked(loaded, next(iter(chosen.values())).x, seed)
    measure = partial(
        decompose, loaded.model, loaded.q, seed=seed, kl_weight=kl_weight, objective=objective, check=False
    )
    if dry_run:
        return dry_run_of(measure, chosen, seed, plan, refine_plan, refine_on)
    measure = partial(measure, plan=plan, refine_on=refine_on, refine_plan=refine_plan)
    runs: dict[str, Gaps] = {}
    with reserved(folders.values(), overwrite):
        for name, sample in chosen.items():
            with bars("data") as add:
                runs[name] = measure(sample.x, ids=sample.ids.tolist(), progress=add(name, len(sample.ids)))
            show_ladder(name, runs[name])  # before it is saved: what is on the screen cannot be lost
            if name in folders:
                save(runs[name], folders[name], overwrite)
    show_verdict(runs)
    if folders:
        say("\nsaved in " + " and ".join(map(str, folders.values())))
