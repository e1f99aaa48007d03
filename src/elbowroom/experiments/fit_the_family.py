"""Beyond the paper: which family of q is worth its cost, per nat and per microsecond?"""

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..core import normal, seeded
from ..evidence import elbo
from ..fits import fit_local
from ..models import latent_size
from ..posteriors import AuxiliaryFlow, CouplingFlow, DiagonalGaussian, Family, FullGaussian, PosteriorLike
from ..results import Estimate, FitReport
from .claims import Claim, decide
from .experiment import LADDERS, Experiment, Findings, Lab, NamedArrays, Trained
from .figures import COLORS, label
from .larger_encoder import PLAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIT_THE_FAMILY"]

CHOICES: dict[str, type[Family]] = {
    "diagonal Gaussian": DiagonalGaussian,
    "full Gaussian": FullGaussian,
    "coupling flow": CouplingFlow,
    "auxiliary flow": AuxiliaryFlow,
}
FITTED_FAMILIES = "families"  # the name of arrays
IMAGES_FOR_A_FIT = 5  # an image is fitted for every five of the scale, since flows cost more
N_TIMED, N_OF_ELBO = 100, 400  # draws of q: those that are timed, and those behind an ELBO
MOST_BY_A_FULL_ONE = Claim(
    name="full-gaussian-recovers-most",
    whose="We expected",
    says="a full Gaussian recovers most of what a factorized one loses",
    estimand="L[q*_full] - L[q*_FFG] minus half of log p(x) - L[q*_FFG]",
    data="held-out images of Fashion-MNIST",
)


def _run(lab: Lab) -> Findings:
    """Fit every family to the same images, and compare what is left of log p(x) with what q costs."""
    found = lab.arrays(PLAIN, FITTED_FAMILIES, _fitted)
    n = found["elbo"].shape[1]
    log_p = lab.gaps(PLAIN)["heldout"].log_evidence[:n]
    best = {
        name: Estimate(f"L[q*], {name}", values, noise={("family", name): noise}, ids=log_p.ids)
        for name, values, noise in zip(CHOICES, found["elbo"], found["noise"], strict=True)
    }
    left = {name: log_p - estimate for name, estimate in best.items()}
    fits = [FitReport(outcome, np.zeros_like(outcome), np.zeros(n)) for outcome in found["outcome"]]
    rows = [
        [
            name, f"{n:,}", f"{gap.mean:.2f} ({gap.se:.2f})", f"{1e3 * fitting:.1f}", f"{1e6 * drawing:.2f}",
            f"{fit.counts().get('ran out', 0)} of {n}",
        ]
        for (name, gap), fitting, drawing, fit in zip(
            left.items(), found["seconds_to_fit"], found["seconds_to_draw"], fits, strict=True
        )
    ]  # fmt: skip
    diagonal, full = (left[name] for name in ("diagonal Gaussian", "full Gaussian"))
    more = Estimate("recovered, less half", 0.5 * diagonal.values - full.values, ids=log_p.ids)
    return Findings(
        header=("q", "n", "log p(x) - L[q*]", "ms to fit an image", "microseconds for a draw", "ran out"),
        rows=rows,
        decisions=[decide(MOST_BY_A_FULL_ONE, more, *fits[:2])],
        draw=partial(_draw, left, found),
    )


def _fitted(trained: Trained) -> NamedArrays:
    """The best member of every family for some held-out images, and what it costs on one core.

    Returns:
        "elbo": (K, N) in nats. "noise": (K, G, N) its Monte Carlo deviations, as in `Estimate`. "outcome": (K, N) how
        the fits ended. "seconds_to_fit": (K,) for an image. "seconds_to_draw": (K,) for one draw with its density.
    """
    x = trained.images["heldout"]
    x = x[: max(1, len(x) // IMAGES_FOR_A_FIT)]
    names = ("elbo", "noise", "outcome", "seconds_to_fit", "seconds_to_draw")
    known: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]] = {name: [] for name in names}
    begun: PosteriorLike = trained.q
    for make in CHOICES.values():
        family = make(latent_size(trained.model))
        start = time.perf_counter()
        fit = fit_local(family, trained.model, x, begun, check=False)
        begun = fit.q if family.is_gaussian else begun  # flows start at the full Gaussian, as in `decompose`
        known["seconds_to_fit"].append(np.array((time.perf_counter() - start) / len(x)))
        found = elbo(trained.model, fit.q, x, N_OF_ELBO, check=False)
        known["elbo"].append(found.values)
        known["noise"].extend(found.noise.values())
        known["outcome"].append(fit.outcome)
        dist = fit.q(x)
        noise = normal((N_TIMED, len(x), dist.noise_size), seeded(0, "timed"), x)
        start = time.perf_counter()
        dist.rsample_and_log_q(noise)
        known["seconds_to_draw"].append(np.array((time.perf_counter() - start) / (N_TIMED * len(x))))
    return {name: np.stack(parts) for name, parts in known.items()}


def _draw(left: dict[str, Estimate], found: NamedArrays, figure: "Figure") -> None:
    """What is left against the time to fit and against the time of a draw."""
    figure.set_size_inches(6.5, 3.0)
    panels = figure.subplots(1, 2, sharey=True)
    times = (
        ("seconds_to_fit", 1e3, "milliseconds to fit an image"),
        ("seconds_to_draw", 1e6, "microseconds for a draw"),
    )
    for axes, (key, unit, words) in zip(panels, times, strict=True):
        for (name, gap), seconds, color in zip(left.items(), found[key], COLORS, strict=False):
            axes.errorbar(unit * seconds, gap.mean, yerr=gap.se, marker="o", capsize=2, color=color, label=name)
        axes.set_xscale("log", subs=(3,))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", length=3.5, pad=3.5)
        label(axes, words, "" if axes is panels[1] else "log p(x) - L[q*] (nats)")
    panels[0].set_ylim(bottom=0)
    panels[1].legend(frameon=False, fontsize=8)


FIT_THE_FAMILY = Experiment(
    name="fit-the-family",
    section="beyond the paper",
    question="Which family of q is worth its cost, per nat and per microsecond?",
    how="One decoder of Fashion-MNIST, trained with a factorized Gaussian for 150 epochs, and the best member of each "
    "family for each of some held-out images. Each fit starts at the one before it, and both flows at the full "
    "Gaussian; their times leave out the fits before. Times are of one core, and are not measured again when a page is "
    "made from rows that are kept.",
    models=(PLAIN,),
    claims=[MOST_BY_A_FULL_ONE],
    run=_run,
    takes=(LADDERS, FITTED_FAMILIES),
)
