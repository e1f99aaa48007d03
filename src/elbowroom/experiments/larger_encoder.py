"""Section 5.2: what does a larger encoder do for amortization, on training data and on others?"""

from .claims import Claim, Decision, decide, decide_between
from .experiment import Experiment, Findings, Lab
from .tables import findings_of, own_fit

__all__ = ["LARGER_ENCODER"]

PLAIN, LARGE = "fashion-brief", "fashion-large-encoder"
LOWERS = Claim(
    name="larger-encoder-lowers-amortization",
    says="a larger encoder lowers the amortization gap on training data",
    estimand="amortization gap with an encoder of 200-200 minus that with one of 500-500",
    data="training images of Fashion-MNIST",
)
OVERFITS = Claim(
    name="larger-encoder-overfits",
    says="a larger encoder can overfit",
    estimand="amortization gap on held-out minus that on training images with an encoder of 500-500, less the same "
    "with one of 200-200",
    data="held-out and training images of Fashion-MNIST",
)


def _run(lab: Lab) -> Findings:
    """Measure both models, and compare their amortization gaps datum by datum."""
    found = {model: lab.gaps(model) for model in (PLAIN, LARGE)}
    saved = {name: found[PLAIN][name].amortization - found[LARGE][name].amortization for name in ("train", "heldout")}
    fits = {name: [own_fit(found[model][name]) for model in (PLAIN, LARGE)] for name in ("train", "heldout")}
    decisions: list[Decision] = [
        decide(LOWERS, saved["train"], *fits["train"]),
        decide_between(OVERFITS, [saved["train"]], [saved["heldout"]], *fits["train"], *fits["heldout"]),
    ]
    return findings_of(found, decisions)


LARGER_ENCODER = Experiment(
    name="larger-encoder",
    section="5.2",
    question="What does a larger encoder do for the amortization gap, on training and on held-out images?",
    how="Two models of Fashion-MNIST, trained alike for 150 epochs, with encoders of 200-200 and 500-500. The claim "
    "that a larger one overfits is about two samples of images, whose errors add.",
    models=(PLAIN, LARGE),
    claims=[LOWERS, OVERFITS],
    run=_run,
)
