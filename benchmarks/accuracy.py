"""What fits still lack beside what they say they lack, and the figures that others published of their checkpoints."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import elbowroom as er
from elbowroom.core import Block, iterate_blocks
from elbowroom.datasets import binarize, fashion_mnist, mnist
from elbowroom.evidence import GROUP
from elbowroom.fits import assess, fit_block
from elbowroom.measure import PLANS, fit_rungs
from elbowroom.training import load_model
from tests.external import bdmc_mnist, jax_mnist, mnist_images, torch_mnist100

from .hard import linear

__all__ = ["checkpoints", "shortfall_table"]

FIRST, N = 300, 100
PART = 50  # data of a block
DRAWS = 7 * GROUP  # as a plan's own estimate
LONG = {"diagonal": 40, "full": 20}  # rounds of the long run
ZOO = Path(__file__).resolve().parent.parent / "zoo"


class Setting(NamedTuple):
    """A model, its encoder and the data to measure."""

    name: str
    model: Any
    q: Any
    x: Tensor


def shortfall_table(folder: Path) -> dict[str, Any]:
    """Shortfall that finished and unfinished fits estimate, beside what a run of ten times the work still gains."""
    torch.set_num_threads(1)
    rows = []
    for setting in _settings(folder):
        parts = [_gains(setting, block) for block in iterate_blocks(setting.x, PART)]
        for key in parts[0]:
            estimated, errors, gained, of_gain = np.concatenate([part[key] for part in parts], axis=1)
            known = np.isfinite(estimated) & np.isfinite(gained)
            rows.append(
                [
                    f"{setting.name}, {key}",
                    _with_error(estimated[known], errors[known]),
                    _with_error(gained[known], of_gain[known]),
                    f"{np.corrcoef(estimated[known], gained[known])[0, 1]:.2f}",
                ]
            )
            print(" | ".join(rows[-1]), flush=True)
    return {"rows": rows}


def checkpoints(folder: Path) -> dict[str, Any]:
    """The ladder of the public checkpoints beside the figures of their owners, and the sandwich of one of them."""
    torch.set_num_threads(1)
    model, q = bdmc_mnist(folder)
    small, of_small, own, _ = torch_mnist100(folder)
    rows = []
    for name, wanted, setting in (
        ("bdmc_mnist", "-89.245, -88.345, -88.163", (model, q, mnist_images(folder, "test", 100, 255))),
        ("torch_mnist100", "-88.46, -, -", (small, of_small, own)),
        ("jax_mnist_ffg", "-90.275, -, -", (*jax_mnist(folder), mnist_images(folder, "train", 1000, 256))),
    ):
        gaps = er.decompose(*setting, seed=0)
        values = [gaps.local["diagonal"], gaps.local["full"], gaps.log_evidence]
        found = ", ".join(f"{value.mean:.3f}" for value in values)
        lacks = ", ".join(f"{short.mean:.4f}" for short in gaps.shortfall.values())
        rows.append([name, str(len(gaps)), found, wanted, lacks, f"{sum(gaps.work.values()):,.0f}"])
        print(" | ".join(rows[-1]), flush=True)
    notes = []
    for seed in range(3):
        width = er.sandwich(model, 200, q=q, seed=seed).width
        notes.append(f"sandwich of bdmc_mnist, seed {seed}: width and 2 errors {width.mean + 2 * width.se:.4f} nats")
        print(notes[-1], flush=True)
    return {"rows": rows, "notes": notes}


def _settings(folder: Path) -> Iterator[Setting]:
    x = mnist_images(folder, "test", FIRST + N, 255)[FIRST:]
    yield Setting("bdmc_mnist", *bdmc_mnist(folder), x)
    yield Setting("jax_mnist_ffg", *jax_mnist(folder), (x > 0.5).float())
    small, of_small, own, _ = torch_mnist100(folder)
    yield Setting("torch_mnist100", small, of_small, own[:N])
    fashion, digits = binarize(fashion_mnist("test"))[:N], binarize(mnist("test", folder))[:N]
    for name, images in (("fashion-ffg", fashion), ("mnist-ffg", digits), ("fashion-decoder-4", fashion)):
        model, q, _ = load_model(ZOO / name)
        yield Setting(name, model, q, images)
    problem = linear(50, 100.0)(0)
    yield Setting("linear, condition 100", problem.model, problem.q, problem.x)


def _gains(setting: Setting, block: Block) -> dict[str, NDArray[np.float64]]:
    """(4, B): the shortfall, its error, what the long run gains and the error of that, for each fit and its state."""
    for parameter in getattr(setting.model, "parameters", list)():
        parameter.requires_grad_(False)
    standard = PLANS["standard"]
    families = {family.name: family for family in (er.DiagonalGaussian(1), er.FullGaussian(1))}
    once = {name: replace(family.budget, max_rounds=1) for name, family in families.items()}
    finished = fit_rungs(setting.model, setting.q, block, standard, 0, None)
    unfinished = fit_rungs(setting.model, setting.q, block, replace(standard, budgets=once), 0, None)
    found = {}
    for name, rounds in LONG.items():
        family = finished[name].family
        budget = replace(family.budget, min_rounds=rounds, max_rounds=rounds, n_evaluation=128)
        best, _ = fit_block(family, setting.model, block, dict(finished["full"].params), 5, budget)
        for state, fitted in (("finished", finished[name]), ("one round", unfinished[name])):
            told = assess(setting.model, block, family, fitted.params, DRAWS, 11, "own", fitted.metric)
            pair = [
                assess(setting.model, block, family, params, 2048, 12, "pair", fitted.metric).values
                for params in (best, fitted.params)
            ]
            gain, errors = pair[0] - pair[1], told.deviations.std(0) / len(told.deviations) ** 0.5
            of_gain = gain.std(0) / len(gain) ** 0.5
            found[f"{name}, {state}"] = torch.stack([told.shortfall, errors, gain.mean(0), of_gain]).double().numpy()
    return found


def _with_error(values: NDArray[np.float64], errors: NDArray[np.float64]) -> str:
    return f"{values.mean():.4f} +- {np.sqrt((errors**2).sum()) / len(values):.4f}"
