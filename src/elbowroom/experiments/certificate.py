"""Appendix: how closely is log p(x) known? Sandwiches on simulated data, beside the published way with no less work."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..evidence import GROUP, AnnealingSchedule, EvidencePlan
from ..measure import Plan, Sandwich, sandwich
from ..posteriors import Budget, DiagonalGaussian
from ..results import Estimate
from .claims import Claim, decide
from .experiment import Experiment, Findings, Lab, NamedArrays, Trained
from .figures import COLORS, label
from .gap_sizes import DATA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CERTIFICATE"]

SANDWICH = "sandwich"  # the name of arrays
EVERY_MODEL = (
    "mnist-ffg", "mnist-af", "fashion-ffg", "fashion-af", "fashion-brief", "fashion-large-encoder", "fashion-decoder-0",
    "fashion-decoder-4", "fashion-no-annealing", "cifar-ffg", "cifar-af",
)  # fmt: skip
IMAGES_FOR_EACH = 5  # a datum is simulated for every five images of the scale, since a sandwich costs more
CLOSELY = 0.1  # nats, small beside the gaps
LEAPFROG, CHAINS = 10, 16  # of the published way; its chains were 100
PILOTS = 2  # that tune the chains, as for the fitted Gaussian; another shows what they reached
EVIDENCE_IS_KNOWN = {
    data: Claim(
        name=f"evidence-is-known-{data}",
        says="annealed importance sampling gives log p(x) closely, as bounds from both sides show",
        estimand=f"{CLOSELY} nats minus the width of the sandwich, of the model trained with q_FFG",
        data=f"images simulated from a model of {name}",
    )
    for data, name in DATA.items()
}
CHEAPER = {
    data: Claim(
        name=f"local-bases-are-narrower-{data}",
        whose="We expected",
        says="annealing from a fitted Gaussian bounds log p(x) more closely than annealing from the prior",
        estimand="width of the sandwich from the prior minus that from the fitted Gaussian, of no less work",
        data=f"images simulated from a model of {name}",
    )
    for data, name in DATA.items()
}


def _run(lab: Lab) -> Findings:
    """Bound log p(x) of simulated images from both sides, in two ways."""
    found = lab.arrays_of(EVERY_MODEL, SANDWICH, _sandwiches)
    decisions = []
    for data in DATA:
        own, other = (_estimate(found[f"{data}-ffg"], way) for way in ("own", "prior"))
        decisions.append(decide(EVIDENCE_IS_KNOWN[data], Estimate("close", np.full(len(own), CLOSELY)) - own))
        decisions.append(decide(CHEAPER[data], other - own))
    return Findings(
        header=(
            "model", "n", "log p(x) at least", "width", "widest", "gradients", "width from the prior", "widest",
            "gradients", "temperatures",
        ),
        rows=[_row(model, each) for model, each in found.items()],
        decisions=decisions,
        draw=partial(_draw, found),
    )  # fmt: skip


def _sandwiches(trained: Trained) -> NamedArrays:
    """Bounds of simulated images, from the fitted Gaussian, and from the prior with as much work or a little more.

    The temperatures are as many as chains and pilots can afford. On top comes what does not depend on them: the first
    moves of reverse chains, importance samples, and a search for modes where there are few latents.

    Returns:
        "lower", "upper" and "width": (2, N) in nats, of the two ways. "work": (2,) gradients of the decoder
        per datum. "temperatures": the number of temperatures from the prior.
    """
    n = max(1, len(trained.images["train"]) // IMAGES_FOR_EACH)
    own = sandwich(trained.model, n, check=False)
    of_each = LEAPFROG * (2 * CHAINS + GROUP * (PILOTS + 1))  # gradients of a temperature: both ways, and in pilots
    temperatures = max(2, int(own.work // of_each))
    both = (own, sandwich(trained.model, n, plan=_published(temperatures), check=False))
    return {
        **{name: np.stack([_values(each, name) for each in both]) for name in ("lower", "upper", "width")},
        "work": np.array([each.work for each in both]),
        "temperatures": np.array(temperatures),
    }


def _values(of: Sandwich, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    estimate: Estimate = getattr(of, name)
    return estimate.values


def _published(temperatures: int) -> Plan:
    """Annealing from the prior with many leapfrog steps, and no fits."""
    annealing = AnnealingSchedule(n_temperatures=temperatures, n_leapfrog=LEAPFROG, n_chains=CHAINS, n_pilots=PILOTS)
    evidence = EvidencePlan(n_importance=128, n_pilot=128, n_others=16, base="prior", annealing=annealing)
    unfitted = Budget(n_steps=0, n_samples=4, learning_rate=0.01)
    name = DiagonalGaussian.name
    return Plan(name="prior", rungs=(name,), budgets={name: unfitted}, multistart=None, evidence=evidence)


def _estimate(found: NamedArrays, way: str) -> Estimate:
    return Estimate(f"width, {way}", found["width"][("own", "prior").index(way)])


def _row(model: str, found: NamedArrays) -> list[str]:
    own, other = (_estimate(found, way) for way in ("own", "prior"))
    return [
        model, f"{len(own):,}", f"{found['lower'][0].mean():.2f}", f"{own.mean:.3f} ({own.se:.3f})",
        f"{own.values.max():.2f}", f"{found['work'][0]:,.0f}", f"{other.mean:.2f} ({other.se:.2f})",
        f"{other.values.max():.2f}", f"{found['work'][1]:,.0f}", f"{int(found['temperatures']):,}",
    ]  # fmt: skip


def _draw(found: Mapping[str, NamedArrays], figure: "Figure") -> None:
    """The widths of all images, of both ways, on an axis that is linear below a tenth of a nat."""
    figure.set_size_inches(6.5, 0.8 + 0.36 * len(found))
    axes = figure.subplots()
    for at, each in enumerate(found.values()):
        for way, (color, shift) in enumerate(zip(COLORS, (-0.17, 0.17), strict=False)):
            widths = each["width"][way]
            axes.plot(widths, np.full(len(widths), at + shift), "|", color=color, markersize=7, alpha=0.6)
            axes.plot(widths.mean(), at + shift, "o", color=color, markersize=4)
    axes.set_xscale("symlog", linthresh=CLOSELY)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    label(axes, "width in nats: each image, and the mean")
    handles = [axes.plot([], [], "o", color=color)[0] for color in COLORS[:2]]
    words = ["from the fitted Gaussian", "from the prior, with no less work"]
    axes.legend(handles, words, frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


CERTIFICATE = Experiment(
    name="certificate",
    section="appendix",
    question="How closely is log p(x) known?",
    how="Images that each model simulates, of which log p(x) is bounded from below by annealing and importance "
    "sampling, and from above by annealing back from the latents that made them. Beside it stands annealing from the "
    "prior with 10 leapfrog steps at each temperature. It has as much work, or a little more.",
    models=EVERY_MODEL,
    claims=[*EVIDENCE_IS_KNOWN.values(), *CHEAPER.values()],
    run=_run,
    takes=(SANDWICH,),
)
