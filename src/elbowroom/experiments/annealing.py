"""Section 5.6: does annealing the entropy during training help a flexible q to be used?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..results import Gaps
from .claims import Claim, Decision, decide
from .experiment import Experiment, Findings, Lab, NamedArrays, measurable
from .figures import COLORS, draw_gaps, label
from .gap_sizes import FFG, misfit
from .latent_use import ACTIVE, latent_use
from .tables import LADDER_HEADER, NOT_KEPT, ladder_rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ANNEALING"]

LATENTS = "latents"  # the name of arrays
ANNEALED = {"FFG": "fashion-brief", "AF": "fashion-brief-af"}
PLAIN = {"FFG": "fashion-no-annealing", "AF": "fashion-no-annealing-af"}
TRAINED_WITH = {q: (ANNEALED[q], PLAIN[q]) for q in ("AF", "FFG")}
RICHER = {
    q: Claim(
        name=f"annealing-makes-posteriors-less-gaussian-{q.lower()}",
        says=f"annealing the entropy during training helps {words} to be used",
        estimand=f"log p(x) - L[q*_FFG] of the decoder trained with q_{q} and annealing, minus that of the one trained "
        f"with q_{q} without it",
        data="training images of Fashion-MNIST",
        models=TRAINED_WITH[q],
    )
    for q, words in (("AF", "a flexible q"), ("FFG", "the latent code"))
}
BETTER = {
    q: Claim(
        name=f"annealing-raises-elbo-{q.lower()}",
        says=f"models trained with q_{q} are better for annealing",
        estimand=f"L[q] with q_{q} and annealing, minus that with q_{q} without it",
        data="held-out images of Fashion-MNIST",
        models=TRAINED_WITH[q],
    )
    for q in ANNEALED
}


def _run(lab: Lab) -> Findings:
    """Measure the four models, and compare those of one q image by image.

    No claim takes the latents, so they may be missing for a further training.
    """
    found = lab.gaps_of(measurable(ANNEALING, lab))
    decisions: list[Decision] = []
    for q, pair in TRAINED_WITH.items():
        if pair[0] not in found:
            continue
        annealed, plain = (found[model] for model in pair)
        train, other = annealed["train"], plain["train"]
        decisions.append(decide(RICHER[q], misfit(train) - misfit(other), train.fits[FFG], other.fits[FFG]))
        held, others = annealed["heldout"], plain["heldout"]
        decisions.append(decide(BETTER[q], held.elbo - others.elbo))
    use = {model: lab.arrays(model, LATENTS, latent_use) for model in found if lab.has([model], [LATENTS])}
    active = {model: f"{(each['spread'] > ACTIVE).sum()} of {len(each['spread'])}" for model, each in use.items()}
    return Findings(
        header=(*LADDER_HEADER, "active latents"),
        rows=[(*row, active.get(row[0], NOT_KEPT)) for row in ladder_rows_of(found)],
        decisions=decisions,
        draw=lambda figure: _draw(figure, found, use),
    )


def _draw(figure: "Figure", found: Mapping[str, Mapping[str, Gaps]], use: Mapping[str, NamedArrays]) -> None:
    """The gaps, and below them the KL divergence of each latent, the largest first."""
    figure.set_size_inches(6.5, 5.6)
    above, below = figure.subplots(2, 1)
    draw_gaps(above, found)
    _draw_latents(below, use)


def _draw_latents(axes: "Axes", use: Mapping[str, NamedArrays]) -> None:
    for (model, each), color, style in zip(use.items(), COLORS, ("-", "--", "-", "--"), strict=False):
        kl = np.sort(each["kl"])[::-1]
        axes.plot(np.arange(1, len(kl) + 1), kl, style, color=color, linewidth=1.2, label=model)
    label(axes, "latents, the most used first", "KL from the prior (nats)")
    axes.legend(frameon=False, fontsize=8)


ANNEALING = Experiment(
    name="annealing",
    section="5.6",
    question="Does annealing the entropy during training help a flexible q to be used?",
    how="Four models of Fashion-MNIST, trained alike for 150 epochs: with q_FFG and with q_AF, each with and without "
    "annealing of the entropy over the first eighth of the epochs. A decoder that uses its latents more, or whose q "
    "is more flexible, has true posteriors that are less Gaussian, so that the best q_FFG loses more of log p(x).",
    models=[model for pair in TRAINED_WITH.values() for model in pair],
    claims=[*RICHER.values(), *BETTER.values()],
    run=_run,
)
