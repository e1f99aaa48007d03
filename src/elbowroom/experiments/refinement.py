"""Beyond the paper: what do a few steps for each datum recover, against what a larger encoder does?"""

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..evidence import elbo
from ..fits import refine
from ..posteriors import DiagonalGaussian
from ..results import Estimate, Gaps
from .claims import Claim, decide
from .experiment import LADDERS, Experiment, Findings, Lab, NamedArrays, Trained
from .figures import COLORS, label
from .larger_encoder import LARGE, PLAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["REFINEMENT"]

REFINED = "refined"  # the name of arrays
STEPS_TAKEN = (0, 1, 5, 20, 80)
STEPS_COMPARED = 20  # the steps that are compared with the larger encoder
N_ELBO_DRAWS = 400  # of q, by which each ELBO is estimated
MORE_THAN_AN_ENCODER = Claim(
    name="refinement-recovers-more-than-a-larger-encoder",
    whose="We expected",
    says=f"{STEPS_COMPARED} steps of gradient ascent for each image recover more than a larger encoder does",
    estimand=f"L[q] after {STEPS_COMPARED} steps minus L[q] of the encoder of 200-200, less the "
    "difference of the amortization gaps of the encoders of 200-200 and of 500-500",
    data="held-out images of Fashion-MNIST",
)


def _run(lab: Lab) -> Findings:
    """Refine the smaller encoder's answers, and compare the gap that is left with the larger encoder's."""
    found = lab.arrays(PLAIN, REFINED, _refined)
    ladders = {name: sets["heldout"] for name, sets in lab.gaps_of((PLAIN, LARGE)).items()}
    fits = [gaps.fits[DiagonalGaussian.name] for gaps in ladders.values()]
    cost = lab.arrays(LARGE, REFINED, _refined)["seconds"][0]
    best = ladders[PLAIN].local[DiagonalGaussian.name]
    left = [
        best - Estimate(f"L[q], {k} steps", values, noise={("refined", k): noise}, ids=best.ids)
        for k, values, noise in zip(STEPS_TAKEN, found["elbo"], found["noise"], strict=True)
    ]
    saved = ladders[PLAIN].amortization - ladders[LARGE].amortization
    recovered = left[0] - left[STEPS_TAKEN.index(STEPS_COMPARED)]
    rows = [
        [
            f"{PLAIN}, {k} {'step' if k == 1 else 'steps'}",
            f"{len(best):,}",
            f"{each.mean:.2f} ({each.se:.2f})",
            f"{1e3 * seconds:.2f}",
        ]
        for k, each, seconds in zip(STEPS_TAKEN, left, found["seconds"], strict=True)
    ]
    large = ladders[LARGE].amortization
    gap = f"{large.mean:.2f} ({large.se:.2f})"
    rows.append([f"{LARGE}, encoder alone", f"{len(large):,}", gap, f"{1e3 * cost:.2f}"])
    return Findings(
        header=("q", "n", "amortization gap left", "ms per image"),
        rows=rows,
        decisions=[decide(MORE_THAN_AN_ENCODER, recovered - saved, *fits)],
        draw=partial(_draw, found, left, ladders, cost),
    )


def _refined(trained: Trained) -> NamedArrays:
    """ELBOs of held-out images after some steps of gradient ascent from the encoder's answer.

    Returns:
        "elbo": (K, N) in nats. "noise": (K, G, N) its Monte Carlo deviations, as in `Estimate`. "seconds": (K,) for
        each image, the encoder included.
    """
    x = trained.images["heldout"]
    values, noises, seconds = [], [], []
    for k in STEPS_TAKEN:
        start = time.perf_counter()
        q = refine(trained.model, trained.q, x, k, check=False) if k else trained.q
        if not k:
            trained.q(x)
        seconds.append((time.perf_counter() - start) / len(x))
        found = elbo(trained.model, q, x, N_ELBO_DRAWS, seed=k, check=False)
        (noise,) = found.noise.values()
        values.append(found.values)
        noises.append(noise)
    return {"elbo": np.stack(values), "noise": np.stack(noises), "seconds": np.array(seconds)}


def _draw(found: NamedArrays, left: list[Estimate], ladders: Mapping[str, Gaps], cost: float, figure: "Figure") -> None:
    """The gap that is left against the time for each image."""
    figure.set_size_inches(6.5, 3.2)
    axes = figure.subplots()
    axes.errorbar(
        1e3 * found["seconds"], [gap.mean for gap in left], yerr=[gap.se for gap in left], color=COLORS[0], marker="o",
        capsize=2, label=f"{PLAIN}, with steps",
    )  # fmt: skip
    for k, seconds, gap in zip(STEPS_TAKEN, found["seconds"], left, strict=True):
        axes.annotate(str(k), (1e3 * seconds, gap.mean), textcoords="offset points", xytext=(5, 5), fontsize=8)
    large = ladders[LARGE].amortization
    axes.errorbar(1e3 * cost, large.mean, yerr=large.se, color=COLORS[1], marker="s", capsize=2, label=LARGE)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    label(axes, "milliseconds for each image", "amortization gap left (nats)")
    axes.legend(frameon=False, fontsize=8)


REFINEMENT = Experiment(
    name="refinement",
    section="beyond the paper",
    question="What do a few steps of gradient ascent for each image recover, against what a larger encoder does?",
    how="Two models of Fashion-MNIST, trained alike for 150 epochs, with encoders of 200-200 and 500-500. The answers "
    "of the smaller one are refined on held-out images by steps with 4 draws each. Times are of one core, and are not "
    "measured again when a page is made from rows that are kept.",
    models=(PLAIN, LARGE),
    claims=[MORE_THAN_AN_ENCODER],
    run=_run,
    takes=(LADDERS, REFINED),
)
