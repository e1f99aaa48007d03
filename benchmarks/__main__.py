"""`make bench`: what the estimators cost and reach, side by side; writes docs/benchmarks.md and a figure.

    python -m benchmarks [arithmetic] [evidence] [fits] [training] [sizes] [growth] [hard]
        [shortfall] [checkpoints] [faults] [scale]

Where none is named, the first four are run.

Ratios are medians over interleaved repeats with pinned threads; those of Ray are means over pairs of runs. The model is
the public `bdmc_mnist.pth` (50 latents) on MNIST test images, gray / 255; its files lie under $ELBOWROOM_DATA. A
section that is run replaces its rows in docs/benchmarks.json; the others stay. `scale` takes some 40 minutes, `growth`
and `hard` 20 each, `shortfall` and `checkpoints` ten.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

import elbowroom as er
from elbowroom.cli.dry_run import peak_memory
from elbowroom.core import iterate_blocks
from elbowroom.datasets import binarize, mnist
from elbowroom.evidence import (
    GROUP,
    AnnealingPath,
    AnnealingSchedule,
    EvidencePlan,
    PriorBase,
    anneal,
    block_evidence,
    gaussian_base,
    inverse_temperatures,
    tune,
)
from elbowroom.fits import fit_block, start_of
from elbowroom.measure import PLANS, fit_rungs
from elbowroom.models import CompiledModel, log_joint_and_grad
from elbowroom.posteriors import Local
from elbowroom.training import Architecture, Settings, adam, build, fit, run_epoch, step_of
from tests.external import bdmc_mnist, jax_mnist, mnist_images, torch_mnist100

from .accuracy import checkpoints, shortfall_table
from .faults import faults
from .hard import errors_of, hard, joined
from .scale import scale

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = DOCS / "benchmarks.json"
FIRST, N = 300, 50  # images 300 to 349: a block that no tuning has seen
PUBLISHED_UNITS = 100 * 10_000 * 10
THREADS = 2
BATCH, N_STEPS = 100, 60
CHECKPOINT_SEEDS = 10
PIXELS = (784, 3072, 12_288)
Rows = list[list[str]]


def main() -> None:
    folder = os.environ.get("ELBOWROOM_DATA", "")
    has_files = (Path(folder) / "external" / "bdmc_mnist.pth").exists()
    if not has_files and sys.argv[1:] != ["hard"]:
        sys.exit("bench needs the folder that holds external/bdmc_mnist.pth and mnist/: set ELBOWROOM_DATA")
    torch.set_num_threads(THREADS)
    if sys.argv[1:2] == ["--measure"]:
        return print(json.dumps(_measure(Path(folder), int(sys.argv[2]))))
    known = {
        "arithmetic": arithmetic, "evidence": evidence, "fits": fits, "training": training, "sizes": sizes,
        "growth": growth,
        "hard": hard_models, "shortfall": shortfall_table, "checkpoints": checkpoints,
        "faults": faults, "scale": scale,
    }  # fmt: skip
    chosen = sys.argv[1:] or ["arithmetic", "evidence", "fits", "training"]
    if unknown := set(chosen) - set(known):
        sys.exit(f"sections are {', '.join(known)}; got {', '.join(sorted(unknown))}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in chosen:
        print(f"{name} ...", flush=True)
        results[name] = known[name](Path(folder))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    page = _page(results)
    (DOCS / "benchmarks.md").write_text(page)
    print(page)
    if "evidence" in chosen:
        _figure(results["evidence"]["points"])


# ---- sections


def arithmetic(folder: Path) -> dict[str, Any]:
    """Fractions of the float32 matmul rate: matmul operations alone, against a large product measured between them."""
    model, q, block = _setting(folder)
    base, kernels = _annealing(model, q, block)
    compiled = CompiledModel(model)
    fast = gaussian_base(compiled, block.x, _params(base))
    z = torch.randn(GROUP, N, 50)
    square = torch.randn(2048, 2048)
    rows, sizes = GROUP * N, [(50, 200), (200, 200), (200, 784)]
    flops = 2 * 2 * rows * sum(a * b for a, b in sizes)  # forward, and the gradient in the input alone
    steps = kernels.n_leapfrog * (len(kernels.betas) - 2) + 1
    work: dict[str, tuple[float, Callable[[], Any]]] = {
        "large product": (2 * 2048.0**3, lambda: square @ square),
        "the decoder's products alone": (flops, _products(sizes, rows)),
        "gradient, eager": (flops, lambda: log_joint_and_grad(model, block.x, z)),
        "gradient, compiled": (flops, lambda: compiled.joint_and_grad(block.x, z)),
        "inner loop of AIS, eager": (flops * steps, lambda: anneal(base, kernels, GROUP, 0, ("bench",))),
        "inner loop of AIS, compiled": (flops * steps, lambda: anneal(fast, kernels, GROUP, 0, ("bench",))),
    }
    start = time.perf_counter()
    compiled.joint_and_grad(block.x, z)
    compilation = time.perf_counter() - start
    seconds = _interleaved({name: thunk for name, (_, thunk) in work.items()}, 15)
    rates = {name: work[name][0] / seconds[name] / 1e9 for name in work}
    saved = seconds["gradient, eager"] - seconds["gradient, compiled"]
    half = _bfloat16_gain(model, block, z)
    return {
        "rows": [[name, f"{rate:.0f}", f"{rate / rates['large product']:.2f}"] for name, rate in rates.items()],
        "notes": [
            f"compilation (or reading torch's cache of it) takes {compilation:.0f} s, won back in "
            f"{compilation / max(saved, 1e-9):,.0f} gradient calls",
            f"a bfloat16 decoder's gradient takes {half:.2f} times the float32 one's time",
        ],
    }


def evidence(folder: Path) -> dict[str, Any]:
    """Log evidence: error against work from both starts, and the published protocol's cost by its cost per
    temperature.
    """
    model, q, block = _setting(folder)
    plan = PLANS["standard"]
    start = time.perf_counter()
    gaps = er.decompose(model, q, block.x)
    ours = (time.perf_counter() - start) / N
    truth = _reference(model, q, block)
    error = np.abs(gaps.log_evidence.values - truth).mean()
    prior = PriorBase(model, block.x, N)
    per_temperature = _prior_cost(prior, 10)
    points: dict[str, list[list[float]]] = {"prior": [], "q*": []}
    for n_temperatures in (10, 30, 100):
        schedule = AnnealingSchedule(n_temperatures=n_temperatures, n_leapfrog=10, kind="linear", n_pilots=4)
        path, _ = tune(prior, schedule, N, block.like.new_empty(N, 50), ("bench",))
        found = _value(anneal(prior, path, 16, 1, ("bench", "prior")).log_w)
        points["prior"].append([16 * 10 * n_temperatures, float(np.abs(found - truth).mean())])
    for share in (0.125, 0.5, 1, 4):
        schedule = AnnealingSchedule(n_temperatures=max(3, int(10 * share)))
        evidence_plan = EvidencePlan(n_importance=int(2000 * share), annealing=schedule)
        rungs = fit_rungs(model, q, block, plan, 5, q.family)
        made = block_evidence(model, block, rungs["full"].params, evidence_plan, 5)
        spent = sum(made.work.values()) + gaps.work["fit full"]
        points["q*"].append([spent, float(np.abs(made.estimate.values - truth).mean())])
    spent = sum(gaps.work.values())
    published = per_temperature * 10_000 * 100 / GROUP
    reached = points["prior"][-1]
    return {
        "points": points,
        "rows": [
            ["standard", f"{spent:,.0f}", f"{ours:.2f}", f"{error:.3f}"],
            ["published (scaled)", f"{PUBLISHED_UNITS:,}", f"{published:,.0f}", "-"],
            [f"from the prior, {reached[0]:,} units", f"{reached[0]:,}", "-", f"{reached[1]:.2f}"],
            ["published / standard", f"{PUBLISHED_UNITS / spent:,.0f}", f"{published / ours:,.0f}", ""],
        ],
    }


def fits(folder: Path) -> dict[str, Any]:
    """Local fits against the published optimizer on this engine: Adam at 1e-3, 100 samples, 10 checks without gain."""
    model, q, whole = _setting(folder)
    (block,) = iterate_blocks(whole.x[:5], 5)
    settings = PLANS["published"].budgets["diagonal"]
    rows: Rows = []
    diagonal, full = er.DiagonalGaussian(50), er.FullGaussian(50)
    for family in (diagonal, full):
        zero = start_of(family, None, model, block, 0)
        encoder = start_of(family, q, model, block, 0)
        for label, begin, budget in (("elbowroom", encoder, family.budget), ("published", zero, settings)):
            start = time.perf_counter()
            params, report = fit_block(family, model, block, dict(begin), 0, budget)
            seconds = (time.perf_counter() - start) / 5
            reached = er.elbo(model, Local(family, 5, params), block.x, 4000, seed=9)
            rows.append(
                [
                    f"{family.name}, {label}", f"{report.work.mean():,.0f}", f"{seconds:.2f}", f"{reached.mean:.3f}",
                    f"{int((report.outcome == 0).sum())} of 5",
                ]
            )  # fmt: skip
    return {"rows": rows}


def training(folder: Path) -> dict[str, Any]:
    """A step of the paper's VAE at batch 100, against its matmuls alone and against a DataLoader with a plain loop."""
    x = binarize(mnist("train", folder))
    sizes = [(784, 200), (200, 200), (200, 100), (50, 200), (200, 200), (200, 784)]
    flops = 2 * BATCH * (3 * sum(a * b for a, b in sizes) - 784 * 200)  # no gradient in the images
    square = torch.randn(2048, 2048)
    rows = []
    for threads, words in ((1, "one thread"), (THREADS, f"{THREADS} threads")):
        torch.set_num_threads(threads)
        thunks: dict[str, Callable[[], Any]] = {
            "the products alone": _repeated(_training_products(sizes)),
            "elbowroom train": _steps(x, compiled=False),
            "elbowroom train --compile": _steps(x, compiled=True),
            "DataLoader and a plain loop": _plain_steps(x),
        }
        seconds = {name: taken / N_STEPS for name, taken in _interleaved(thunks, 15).items()}
        large = 2 * 2048.0**3 / _interleaved({"product": lambda: square @ square}, 15)["product"]
        floor = seconds["the products alone"]
        for name, t in seconds.items():
            shares = (f"{t / floor:.2f}", f"{flops / t / large:.2f}")
            rows.append([f"{name}, {words}", f"{1000 * t:.2f}", f"{BATCH / t:,.0f}", *shares])
    model, q = build(Architecture(), 0)
    first, *others = [e.seconds for e in fit(model, q, x, Settings(epochs=21, schedule="stepped", compiled=True))]
    epoch = statistics.mean(others)
    hours = (first + epoch * 3279) / 3600
    notes = [
        f"20 epochs of 60,000 images with --compile, after one that compiles ({first:.0f} s): {epoch:.2f} s each on "
        f"{THREADS} threads, so the paper's 3,280 take {hours:.1f} h"
    ]
    return {"rows": rows, "notes": notes}


def growth(folder: Path) -> dict[str, Any]:
    """Time and peak memory of plan "standard" at three sizes, each in a process of its own."""
    rows: Rows = []
    for n in (1000, 3000, 10_000):
        command = [sys.executable, "-m", "benchmarks", "--measure", str(n)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        per_datum = 1000 * found["seconds"] / n
        rows.append([f"{n:,}", f"{found['seconds']:.0f}", f"{per_datum:.1f}", f"{found['peak']:.0f}", found["log_p"]])
        print(rows[-1], flush=True)
    return {"rows": rows}


def sizes(folder: Path) -> dict[str, Any]:
    """Time and work of plan "standard" against the numbers of latents and of pixels, on decoders of random weights."""
    rows: Rows = []
    notes = []
    for what, pairs in (("latents", [(d, 784) for d in (10, 30, 100, 300)]), ("pixels", [(50, p) for p in PIXELS])):
        seconds = []
        for d, p in pairs:
            taken, units = _time_of_size(d, p)
            seconds.append(taken)
            rows.append([f"{d} latents, {p:,} pixels", f"{taken:.3f}", f"{units:,.0f}", f"{1e6 * taken / units:.0f}"])
            print(rows[-1], flush=True)
        place = 0 if what == "latents" else 1
        x, y = np.log([pair[place] for pair in pairs]), np.log(seconds)
        notes.append(f"time grows as the number of {what} to the power {np.polyfit(x, y, 1)[0]:.2f}")
    return {"rows": rows, "notes": notes}


def _time_of_size(n_latent: int, n_pixels: int) -> tuple[float, float]:
    """Seconds and units per datum, on one thread, of 50 data that the model simulates."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    first = nn.Linear(n_latent, 200)
    nn.init.normal_(first.weight, std=2 / np.sqrt(3 * n_latent))
    decoder = nn.Sequential(first, nn.ELU(), nn.Linear(200, 200), nn.ELU(), nn.Linear(200, n_pixels))
    model = er.DecoderModel(decoder, "bernoulli", n_latent)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, n_latent, generator=generator)
    x = model.sample_data(z, None, generator)
    q = er.Amortized(lambda x: torch.zeros(len(x), 2 * n_latent), er.DiagonalGaussian(n_latent))
    start = time.perf_counter()
    gaps = er.decompose(model, q, x)
    taken = (time.perf_counter() - start) / N
    torch.set_num_threads(THREADS)
    return taken, sum(gaps.work.values())


def hard_models(folder: Path) -> dict[str, Any]:
    """Models with a known log p(x) that are hard to measure, and three public checkpoints beside them."""
    rows = hard([])
    if not (folder / "external" / "bdmc_mnist.pth").exists():
        return {"rows": rows}
    torch.set_num_threads(1)
    x = mnist_images(folder, "test", FIRST + N, 255)[FIRST:]
    binary = (x > 0.5).float()
    small, of_small, own, _ = torch_mnist100(folder)
    models = {"bdmc_mnist": (*bdmc_mnist(folder), x), "jax_mnist_ffg": (*jax_mnist(folder), binary)}
    for name, (model, q, data) in {**models, "torch_mnist100": (small, of_small, own[:N])}.items():
        (block,) = iterate_blocks(data, N)
        truth = _reference(model, q, block)
        parts = [errors_of(er.decompose(model, q, data, seed=s), truth) for s in range(CHECKPOINT_SEEDS)]
        rows.append([f"{name}, 50 latents", *joined(parts).row()])
    return {"rows": rows}


# ---- parts


def _setting(folder: Path) -> tuple[Any, Any, Any]:
    model, q = bdmc_mnist(folder)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    (block,) = iterate_blocks(mnist_images(folder, "test", FIRST + N, 255)[FIRST:], N)
    return model.eval(), q.eval(), block


def _measure(folder: Path, n: int) -> dict[str, Any]:
    model, q = bdmc_mnist(folder)
    x = mnist_images(folder, "test", n, 255)
    start = time.perf_counter()
    gaps = er.decompose(model, q, x)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": peak_memory() / 2**20, "log_p": f"{gaps.log_evidence.mean:.3f}"}


def _annealing(model: Any, q: Any, block: Any) -> tuple[Any, AnnealingPath]:
    rungs = fit_rungs(model, q, block, PLANS["standard"], 0, q.family)
    base = gaussian_base(model, block.x, rungs["full"].params)
    kernels, _ = tune(base, AnnealingSchedule(), N, base.coordinates.center, ("bench",))
    return base, kernels


def _params(base: Any) -> dict[str, Tensor]:
    scale = base.coordinates.scale
    log_scale = scale.diagonal(dim1=-2, dim2=-1).log()
    return {"mean": base.coordinates.center, "log_scale": log_scale, "lower": scale.tril(-1)}


def _products(sizes: list[tuple[int, int]], rows: int) -> Callable[[], None]:
    """The matmuls of a forward pass and of the gradient in its input, and nothing else."""
    made = [(torch.randn(rows, a), torch.randn(a, b), torch.randn(rows, b)) for a, b in sizes]

    def run() -> None:
        for h, w, g in made:
            torch.mm(h, w)
            torch.mm(g, w.T)

    return run


def _training_products(sizes: list[tuple[int, int]]) -> Callable[[], None]:
    """The matmuls of one training step: forward, gradients of weights, gradients of inputs but the images."""
    made = [(torch.randn(BATCH, a), torch.randn(b, a), torch.randn(BATCH, b)) for a, b in sizes]

    def run() -> None:
        for i, (h, w, g) in enumerate(made):
            torch.mm(h, w.T)
            torch.mm(g.T, h)
            if i:
                torch.mm(g, w)

    return run


def _repeated(step: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(N_STEPS):
            step()

    return run


def _steps(x: Tensor, compiled: bool) -> Callable[[], Any]:
    """N_STEPS steps of `training.fit`, its own start left out: the loop of an epoch."""
    model, q = build(Architecture(), 0)
    settings = Settings(epochs=1, compiled=compiled)
    parameters = [*q.parameters(), *model.parameters()]
    optimizer, step = adam(parameters, settings), step_of(model, q, settings)
    few = x[: N_STEPS * BATCH]
    return lambda: run_epoch(step, few, optimizer, 50, 1, settings)


def _plain_steps(x: Tensor) -> Callable[[], None]:
    """What is written first: a shuffling DataLoader, torch.distributions and an eager Adam."""
    model, q = build(Architecture(), 0)
    optimizer = torch.optim.Adam([*q.parameters(), *model.parameters()], lr=1e-3, eps=1e-4)
    loader = DataLoader(TensorDataset(x[: N_STEPS * BATCH]), batch_size=BATCH, shuffle=True)

    def run() -> None:
        for (batch,) in loader:
            mean, log_var = q.net(batch).chunk(2, dim=1)
            posterior = Normal(mean, (0.5 * log_var).exp())
            z = posterior.rsample()
            log_likelihood = Bernoulli(logits=model.decoder(z), validate_args=False).log_prob(batch).sum(1)
            loss = (kl_divergence(posterior, Normal(0.0, 1.0)).sum(1) - log_likelihood).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _bfloat16_gain(model: Any, block: Any, z: Tensor) -> float:
    """Time of a gradient with the decoder's products in bfloat16, over that in float32."""

    def half() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            log_joint_and_grad(model, block.x, z)

    seconds = _interleaved({"half": half, "full": lambda: log_joint_and_grad(model, block.x, z)}, 9)
    return seconds["half"] / seconds["full"]


def _prior_cost(prior: PriorBase, n_temperatures: int) -> float:
    """Seconds per datum, temperature and group of chains, with 10 leapfrog steps."""
    like = torch.empty(N, 50)
    betas = inverse_temperatures("linear", n_temperatures, N, like)
    kernels = AnnealingPath(betas, torch.full(betas.shape, 0.05, dtype=torch.float64), 10)
    seconds = _interleaved({"prior": lambda: anneal(prior, kernels, GROUP, 0, ("bench",))}, 5)["prior"]
    return seconds / N / (n_temperatures - 1)


def _reference(model: Any, q: Any, block: Any) -> Any:
    """IWAE_20000 and AIS from the full Gaussian of another seed, weighted by their errors."""
    rungs = fit_rungs(model, q, block, replace(PLANS["precise"], rungs=("diagonal", "full")), 99, q.family)
    full = Local(er.FullGaussian(50), N, rungs["full"].params)
    several = [er.iwae(model, full, block.x, 20_000, seed=98), er.ais(model, block.x, full, 60, 2, 64, seed=97)]
    weights = np.stack([1 / made.mc_errors**2 for made in several])
    return (weights * np.stack([made.values for made in several])).sum(0) / weights.sum(0)


def _value(log_w: Tensor) -> Any:
    return (torch.logsumexp(log_w, 0) - np.log(len(log_w))).numpy()


def _interleaved(thunks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turn so that a slow moment of the machine meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in thunks}
    for repeat in range(repeats + 1):
        for name, thunk in thunks.items():
            start = time.perf_counter()
            thunk()
            if repeat:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


# ---- what is written


TITLES = {
    "arithmetic": (
        "Arithmetic",
        ["", "GFLOP/s", "of the large product"],
        "Matmul operations alone are counted: densities, activations, momenta and tests are the rest of the time.",
    ),
    "evidence": (
        "Log evidence, against the published protocol",
        ["", "gradients per datum", "seconds per datum", "mean error per datum, nats"],
        "AIS from the prior, 100 chains x 10,000 temperatures x 10 leapfrog steps: its cost is linear in the number of "
        "temperatures, measured at 10 and scaled. Its accuracy is out of reach here; the third row is the largest run "
        "made. Work of `standard` counts everything: fits, pilots, ELBOs. The reference is IWAE_20000 and AIS from "
        "another fit.",
    ),
    "fits": (
        "Local fits, against the published optimizer",
        ["", "gradients per datum", "seconds per datum", "ELBO reached, nats", "converged"],
        "Five images. Published: Adam at 1e-3 from the prior, 100 samples a step, until 10 checks of 100 steps bring "
        "nothing (100 checks at most).",
    ),
    "training": (
        "Training",
        ["", "ms per step", "images per second", "times the products alone", "of the float32 matmul rate"],
        "The paper's VAE, 784-200-200-(50 + 50) and 50-200-200-784, on thresholded MNIST, 100 images a step.",
    ),
    "sizes": (
        "Growth with the numbers of latents and pixels",
        ["", "seconds per datum", "gradients per datum", "microseconds per gradient"],
        "Plan `standard` on one thread, on 50 data that a random decoder simulates, D-200-200-P. The work of "
        "the full Gaussian's fit is proportional to D.",
    ),
    "hard": (
        "Hard models",
        ["", "bias", "mean error", "worst", "flagged", "beyond 3 errors", "means within 2 errors", "believed"],
        "Error of log p(x) by plan `standard`, in nats, on models for which it is known in closed form or by "
        "quadrature: 50 data and 20 seeds each (60 for the funnel, 5 for 400 latents, 10 for the public "
        "checkpoints, whose reference is IWAE_20000 and AIS from another fit). Beyond 3 errors: of the data that are "
        "not flagged (promised: at most 3%). The mean of 50 data is within 2 of its errors where it should be in 90% "
        "of the seeds; it is taken without the data of unknown error, where there are any. Believed: in how many seeds "
        "there were none.",
    ),
    "shortfall": (
        "What fits say they lack, and what a long run gains",
        ["", "shortfall told, nats", "gained by a run of ten times the work, nats", "correlation over data"],
        "Means over 100 data (50 of the linear model) with their Monte Carlo errors: the estimate on the draws that a "
        "plan takes, and the gain of 20 rounds more from the best fit (40 for diagonal Gaussians). A fit of one round "
        "is not finished.",
    ),
    "checkpoints": (
        "Public checkpoints",
        ["", "data", "diagonal, full, log p(x)", "published", "shortfalls", "gradients per datum"],
        "Plan `standard`, in nats per datum, beside the figures that the project was given for them: best diagonal and "
        "full Gaussians that others found, and log p(x).",
    ),
    "faults": (
        "Faults that `check` finds",
        ["", "alone", "with the own number", "what it says"],
        "Each fault is planted in a small trained VAE, whose own ELBO is given as a function with `own_elbo=` in the "
        "second column.",
    ),
    "scale": (
        "Many processes",
        ["", ""],
        "The command `gaps --workers` on the public MNIST model, from its start to the printed table, and a "
        "simulation: processes that fill one folder on this machine's disk with blocks that only sleep. A block that "
        "was being measured when its process was killed is measured twice. Against Ray stands the mean difference of "
        "pairs of runs, whose order alternates, with its standard error.",
    ),
    "growth": (
        "Growth with the number of data",
        ["data", "seconds", "ms per datum", "peak memory, MiB", "log p(x), nats"],
        "Plan `standard` (amortized, diagonal, full, log evidence), each size in a process of its own.",
    ),
}


def _page(results: dict[str, Any]) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {THREADS} CPU threads. Model: `bdmc_mnist.pth`, 50 latents, MNIST test images. "
        "Ratios are worth more than seconds: machines are noisy.",
    ]
    for name, (title, head, text) in TITLES.items():
        if name not in results:
            continue
        rows = results[name]["rows"]
        lines += ["", f"## {title}", "", text, "", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
        lines += [_row(row) for row in rows]
        lines += ["", *(f"- {note}" for note in results[name].get("notes", []))] if results[name].get("notes") else []
        if name == "evidence":
            lines += ["", "![error of log p(x) against decoder gradients per datum](benchmarks.svg)"]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _figure(points: dict[str, list[list[float]]]) -> None:
    """Error of log p(x) against work, log-log, from both starts."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "elbowroom"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    for label, marker, color in (("prior", "s", "#b5532a"), ("q*", "o", "#1f5f8b")):
        work, error = zip(*points[label], strict=True)
        axes.plot(work, error, marker=marker, color=color, label=f"from {'the prior' if label == 'prior' else label}")
    axes.axvline(PUBLISHED_UNITS, color="#888888", linestyle=":")
    axes.text(0.8 * PUBLISHED_UNITS, 0.03, "published\nprotocol", ha="right")
    axes.set(xscale="log", yscale="log", xlabel="decoder gradients per datum", ylabel="mean error of log p(x), nats")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "benchmarks.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
