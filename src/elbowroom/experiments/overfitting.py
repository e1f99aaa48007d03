"""Section 5.5: which part of a model overfits, over the epochs of its training?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..results import Estimate, FitReport, Gaps
from .claims import Claim, Decision, decide, decide_between
from .experiment import Experiment, Findings, Lab, measurable
from .figures import COLORS, label
from .tables import own_fit, with_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["OVERFITTING"]

STANDARD, LARGER_DECODER, LARGER_ENCODER = "standard", "larger decoder", "larger encoder"
OF_VARIANT = {
    STANDARD: "fashion-epochs",
    "coupling flow": "fashion-epochs-flow",
    LARGER_DECODER: "fashion-epochs-large-decoder",
    LARGER_ENCODER: "fashion-epochs-large-encoder",
}
AFTER = {1: "/epoch-1", 3: "/epoch-3", 10: "/epoch-10", 30: "/epoch-30", 100: ""}  # and where their models are
MIDDLE, LAST = 10, 100
AT = {
    (variant, epoch): model + place for variant, model in OF_VARIANT.items() for epoch, place in AFTER.items()
}  # the models in the zoo
IN_WORDS = {"train": "training images", "heldout": "held-out images"}
Curves: TypeAlias = Mapping[str, Mapping[int, Mapping[str, Gaps]]]  # the gaps by variant, epoch and set
BOTH = "held-out and training images of Fashion-MNIST"
ENCODER_OVERFITS = Claim(
    name="the-encoder-overfits",
    says="an encoder overfits",
    estimand=f"amortization gap on held-out images minus that on training images, of the standard model after {LAST} "
    "epochs",
    data=BOTH,
    models=(AT[STANDARD, LAST],),
)
MORE_WITH_TIME = Claim(
    name="the-encoder-overfits-more-with-time",
    whose="We expected",
    says="an encoder overfits more, the longer it is trained",
    estimand=f"amortization gap on held-out images minus that on training images, of the standard model after {LAST} "
    f"epochs, less the same after {MIDDLE}",
    data=BOTH,
    models=(AT[STANDARD, MIDDLE], AT[STANDARD, LAST]),
)
LARGER_ENCODER_OVERFITS = Claim(
    name="a-larger-encoder-overfits-more",
    says="a larger encoder can overfit more",
    estimand=f"amortization gap on held-out images minus that on training images, with the larger encoder, less the "
    f"same of the standard model, both after {LAST} epochs",
    data=BOTH,
    models=(AT[STANDARD, LAST], AT[LARGER_ENCODER, LAST]),
)
LARGER_ENCODER_FITS = Claim(
    name="a-larger-encoder-loses-less-in-training",
    says="a larger encoder lowers amortization on training data",
    estimand=f"amortization gap of the standard model minus that with the larger encoder, both after {LAST} epochs",
    data="training images of Fashion-MNIST",
    models=(AT[STANDARD, LAST], AT[LARGER_ENCODER, LAST]),
)
DECODER = Claim(
    name="the-decoder-overfits-with-time",
    whose="We expected",
    says="a larger decoder overfits, the longer it is trained",
    estimand=f"log p(x) of training images minus that of held-out ones, with the larger decoder after {LAST} epochs, "
    f"less the same after {MIDDLE}",
    data=BOTH,
    models=(AT[LARGER_DECODER, MIDDLE], AT[LARGER_DECODER, LAST]),
)


def _run(lab: Lab) -> Findings:
    """Measure each model after some epochs, always on the same images; quickly after those of the claims alone."""
    asked = {each: model for each, model in AT.items() if lab.scale.name != "quick" or each[1] in (MIDDLE, LAST)}
    ladders = lab.gaps_of([model for model in measurable(OVERFITTING, lab) if model in asked.values()])
    found: dict[str, dict[int, Mapping[str, Gaps]]] = {}
    for (variant, epoch), model in asked.items():
        if model in ladders:
            found.setdefault(variant, {})[epoch] = ladders[model]
    return Findings(
        header=(
            "model", "epochs", "data", "n", "log p(x)", "L[q*]", "L[q]", "approximation", "amortization", "ran out",
        ),
        rows=[_row(variant, epoch, name, gaps) for variant, epoch, name, gaps in _each(found)],
        decisions=_decisions(found),
        draw=lambda figure: _draw(figure, found),
    )  # fmt: skip


def _decisions(found: Curves) -> list[Decision]:
    """What the models that are there decide, in the order of the claims."""
    standard, decoder = (found.get(variant, {}) for variant in (STANDARD, LARGER_DECODER))
    decisions: list[Decision] = []
    if LAST in standard:
        now = _amortization(standard[LAST])
        fits = _fits(standard[LAST])
        decisions.append(decide_between(ENCODER_OVERFITS, [now["heldout"]], [now["train"]], *fits))
        if MIDDLE in standard:
            before = _amortization(standard[MIDDLE])
            more = {name: now[name] - before[name] for name in IN_WORDS}
            fits_before = _fits(standard[MIDDLE])
            decisions.append(decide_between(MORE_WITH_TIME, [more["heldout"]], [more["train"]], *fits, *fits_before))
        if LARGER_ENCODER in found:
            decisions += _of_a_larger_encoder(standard[LAST], found[LARGER_ENCODER][LAST])
    if decoder:
        learned = {name: decoder[LAST][name].log_evidence - decoder[MIDDLE][name].log_evidence for name in IN_WORDS}
        decisions.append(decide_between(DECODER, [learned["train"]], [learned["heldout"]]))
    return decisions


def _of_a_larger_encoder(sets: Mapping[str, Gaps], larger_sets: Mapping[str, Gaps]) -> list[Decision]:
    """What a larger encoder overfits more than the standard one, and what it loses less in training."""
    standard, larger = _amortization(sets), _amortization(larger_sets)
    fits, fits_larger = _fits(sets), _fits(larger_sets)
    more = {name: larger[name] - standard[name] for name in IN_WORDS}
    return [
        decide_between(LARGER_ENCODER_OVERFITS, [more["heldout"]], [more["train"]], *fits, *fits_larger),
        decide(LARGER_ENCODER_FITS, standard["train"] - larger["train"], fits[0], fits_larger[0]),
    ]


def _fits(sets: Mapping[str, Gaps]) -> list[FitReport]:
    return [own_fit(sets[name]) for name in IN_WORDS]


def _amortization(sets: Mapping[str, Gaps]) -> dict[str, Estimate]:
    return {name: sets[name].amortization for name in IN_WORDS}


def _each(found: Curves) -> list[tuple[str, int, str, Gaps]]:
    return [
        (variant, epoch, name, gaps)
        for variant, epochs in found.items()
        for epoch, sets in epochs.items()
        for name, gaps in sets.items()
    ]


def _row(variant: str, epoch: int, name: str, gaps: Gaps) -> Sequence[str]:
    counts = own_fit(gaps).counts()
    bounds = (gaps.log_evidence, gaps.elbo + gaps.amortization, gaps.elbo)
    return (
        variant, f"{epoch}", name, f"{len(gaps):,}", *(f"{bound.mean:.2f}" for bound in bounds),
        with_error(gaps.approximation), with_error(gaps.amortization),
        f"{counts.get('ran out', 0)} of {sum(counts.values())}",
    )  # fmt: skip


def _draw(figure: "Figure", found: Curves) -> None:
    """A column for each variant, a row for each set: the three bounds over the epochs, and the gaps between them."""
    figure.set_size_inches(6.5, 4.2)
    places = figure.subplots(len(IN_WORDS), len(found), sharex=True, sharey=True)
    for column, (variant, epochs) in enumerate(found.items()):
        for row, (name, words) in enumerate(IN_WORDS.items()):
            axes = places[row][column]
            _draw_bounds(axes, {epoch: sets[name] for epoch, sets in epochs.items()})
            axes.set_title(variant if row == 0 else "", fontsize=9)
            label(axes, "epochs" if row else "", f"{words}\n(nats)" if column == 0 else "")
    handles, words_of = places[0][0].get_legend_handles_labels()
    figure.legend(handles, words_of, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=8)


def _draw_bounds(axes: "Axes", over: Mapping[int, Gaps]) -> None:
    """log p(x), the best q and q by the epoch."""
    epochs = list(over)
    top = [gaps.log_evidence.mean for gaps in over.values()]
    best = [(gaps.elbo + gaps.amortization).mean for gaps in over.values()]
    own = [gaps.elbo.mean for gaps in over.values()]
    axes.fill_between(epochs, best, top, color=COLORS[1], alpha=0.35, linewidth=0, label="approximation")
    axes.fill_between(epochs, own, best, color=COLORS[0], alpha=0.35, linewidth=0, label="amortization")
    for values, words, style in ((top, "log p(x)", "-"), (best, "best q", "--"), (own, "q of the encoder", ":")):
        axes.plot(epochs, values, style, color="#333333", linewidth=1.2, label=words)
    axes.set_xscale("log")
    axes.set_xticks(epochs, [str(epoch) for epoch in epochs])
    axes.minorticks_off()


def _in_words(numbers: Mapping[int, str]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}"


OVERFITTING = Experiment(
    name="overfitting",
    section="5.5",
    question="Which part of a model overfits, over the epochs of its training?",
    how="Four models of Fashion-MNIST with 20 latents, trained in batches of 50 at a constant learning rate without "
    "annealing, so that nothing but time changes. The standard model has networks of 200-200, the flow is a coupling "
    f"flow with the same encoder, and the larger networks have 500-500-500. After {_in_words(AFTER)} epochs they are "
    "measured on the same images each time. L[q*] is the best member of q's own family. What a decoder overfits is in "
    "log p(x), what an encoder overfits is in the amortization gap.",
    models=list(AT.values()),
    claims=[ENCODER_OVERFITS, MORE_WITH_TIME, LARGER_ENCODER_OVERFITS, LARGER_ENCODER_FITS, DECODER],
    run=_run,
)
