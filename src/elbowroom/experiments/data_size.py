"""Beyond the paper: what is amortization made of, by the number of images that an encoder was trained on?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..results import Estimate, Gaps
from .claims import Claim, Decision, decide, decide_between
from .experiment import Experiment, Findings, Lab, measurable
from .figures import COLORS, label
from .tables import own_fit, with_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DATA_SIZE"]

TRAINED_ON = {
    1_000: "fashion-data-1000", 4_000: "fashion-data-4000", 15_000: "fashion-data-15000",
    60_000: "fashion-encoder-diagonal",
}  # fmt: skip
FEWEST, MOST = min(TRAINED_ON), max(TRAINED_ON)
BOTH_ENDS = (TRAINED_ON[FEWEST], TRAINED_ON[MOST])
GENERALIZES = Claim(
    name="more-images-lower-amortization-heldout",
    whose="We expected",
    says="an encoder that saw more images loses less on those that it did not see",
    estimand=f"amortization gap with an encoder trained on {FEWEST:,} images, minus that with one trained on {MOST:,}",
    data="held-out images of Fashion-MNIST",
    models=BOTH_ENDS,
)
FEW_ARE_OVERFITTED = Claim(
    name="few-images-are-overfitted",
    whose="We expected",
    says="an encoder of few images loses more on others than on those, compared with one of many",
    estimand=f"amortization gap on held-out images minus that on an encoder's own training images, with an encoder "
    f"trained on {FEWEST:,}, less the same with one trained on {MOST:,}",
    data="held-out and training images of Fashion-MNIST",
    models=BOTH_ENDS,
)
CAPACITY = Claim(
    name="with-all-images-amortization-is-capacity",
    whose="We expected",
    says="what an encoder that saw all images loses is mostly what it cannot express",
    estimand=f"amortization gap on training images minus what held-out images lose more, with an encoder trained on "
    f"{MOST:,}",
    data="training and held-out images of Fashion-MNIST",
    models=(TRAINED_ON[MOST],),
)


def _run(lab: Lab) -> Findings:
    """Measure the encoders on images that each was trained on, and on the same held-out images."""
    ladders = lab.gaps_of(measurable(DATA_SIZE, lab))
    found = {n: ladders[model] for n, model in TRAINED_ON.items() if model in ladders}
    return Findings(
        header=(
            "q", "training images", "n of each set", "L[q], training", "L[q], held-out", "capacity", "generalization",
            "ran out",
        ),
        rows=[_row(n, sets) for n, sets in found.items()],
        decisions=_decisions(found),
        draw=lambda figure: _draw(figure, found),
    )  # fmt: skip


def _decisions(found: Mapping[int, Mapping[str, Gaps]]) -> list[Decision]:
    """What is decided by the encoders that are there. That of most images always is, as every claim takes it."""
    gaps = {n: {name: each.amortization for name, each in sets.items()} for n, sets in found.items()}
    fits = {n: {name: own_fit(each) for name, each in sets.items()} for n, sets in found.items()}
    all_ = gaps[MOST]
    capacity = decide_between(CAPACITY, [all_["train"] + all_["train"]], [all_["heldout"]], *fits[MOST].values())
    if FEWEST not in found:
        return [capacity]
    few, more = gaps[FEWEST], gaps[FEWEST]["heldout"] - all_["heldout"]
    return [
        decide(GENERALIZES, more, *(fits[n]["heldout"] for n in (FEWEST, MOST))),
        decide_between(
            FEW_ARE_OVERFITTED, [more, all_["train"]], [few["train"]], *fits[FEWEST].values(), *fits[MOST].values()
        ),
        capacity,
    ]


def _row(n: int, sets: Mapping[str, Gaps]) -> tuple[str, ...]:
    train, heldout = sets["train"], sets["heldout"]
    capacity, others = train.amortization, heldout.amortization
    more = f"{others.mean - capacity.mean:.2f} ({_se_between(others, capacity):.2f})"
    counts = [own_fit(gaps).counts() for gaps in sets.values()]
    ran_out = sum(each.get("ran out", 0) for each in counts)
    return (
        TRAINED_ON[n], f"{n:,}", f"{len(train):,}", f"{train.elbo.mean:.2f}", f"{heldout.elbo.mean:.2f}",
        with_error(capacity), more, f"{ran_out} of {sum(sum(each.values()) for each in counts)}",
    )  # fmt: skip


def _se_between(one: Estimate, other: Estimate) -> float:
    return float((one.se**2 + other.se**2) ** 0.5)


def _draw(figure: "Figure", found: Mapping[int, Mapping[str, Gaps]]) -> None:
    """The amortization gap on both sets by the number of training images."""
    figure.set_size_inches(6.5, 3.2)
    axes = figure.subplots()
    for name, words, color, mark in (
        ("heldout", "held-out images", COLORS[1], "s"),
        ("train", "training images: capacity", COLORS[0], "o"),
    ):
        gaps = [sets[name].amortization for sets in found.values()]
        means, errors = [gap.mean for gap in gaps], [gap.se for gap in gaps]
        axes.errorbar(list(found), means, yerr=errors, color=color, marker=mark, capsize=2, label=words)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xticks(list(found), [f"{n:,}" for n in found])
    axes.minorticks_off()
    label(axes, "images that the encoder was trained on", "amortization gap (nats)")
    axes.legend(frameon=False, fontsize=8)


DATA_SIZE = Experiment(
    name="data-size",
    section="beyond the paper",
    question="How much of amortization is what an encoder cannot express, and how much is what it did not see?",
    how="Four encoders of 200-200 for the frozen decoder of one model of Fashion-MNIST, each trained on a number of "
    "images for as many steps. True posteriors and best q are the same for all. The amortization gap on the "
    "images that an encoder was trained on is what it cannot express, its capacity part; what held-out images lose "
    "more is the part of generalization, whose two samples of images have errors that add. The decoder saw all 60,000 "
    "training images and no held-out one, so that this part contains what is harder about images that the decoder did "
    "not see, alike for all four.",
    models=tuple(TRAINED_ON.values()),
    claims=[GENERALIZES, FEW_ARE_OVERFITTED, CAPACITY],
    run=_run,
)
