"""Section 5.2: what does a larger encoder do for amortization, on training data and on others?"""

from functools import partial

from .claims import Claim, Decision, decide, decide_between
from .experiment import Experiment, Findings, Lab
from .tables import findings_of, own_fit

__all__ = ["LARGE", "LARGER_ENCODER", "PLAIN", "WIDE_ENCODER"]

PLAIN, LARGE = "fashion-brief", "fashion-large-encoder"


def _run(plain: str, large: str, lowers: Claim, overfits: Claim, lab: Lab) -> Findings:
    """Measure both models, and compare their amortization gaps datum by datum."""
    found = lab.gaps_of((plain, large))
    saved = {name: found[plain][name].amortization - found[large][name].amortization for name in ("train", "heldout")}
    fits = {name: [own_fit(found[model][name]) for model in (plain, large)] for name in ("train", "heldout")}
    decisions: list[Decision] = [
        decide(lowers, saved["train"], *fits["train"]),
        decide_between(overfits, [saved["train"]], [saved["heldout"]], *fits["train"], *fits["heldout"]),
    ]
    return findings_of(found, decisions)


def _experiment(name: str, data: str, plain: str, large: str, sizes: tuple[str, str], how: str) -> Experiment:
    """The experiment on two models of one data set, with encoders of these sizes."""
    lowers = Claim(
        name=f"{name}-lowers-amortization",
        says="a larger encoder lowers the amortization gap on training data",
        estimand="amortization gap with an encoder of {} minus that with one of {}".format(*sizes),
        data=f"training images of {data}",
    )
    overfits = Claim(
        name=f"{name}-overfits",
        says="a larger encoder can overfit",
        estimand="amortization gap on held-out minus that on training images with an encoder of {1}, less the same "
        "with one of {0}".format(*sizes),
        data=f"held-out and training images of {data}",
    )
    return Experiment(
        name=name,
        section="5.2",
        question=f"What does a {' '.join(name.split('-'))} do for amortization, on training and on held-out images?",
        how=f"Two models of {data}, trained alike for {how}. The claim that a larger one overfits is about two samples "
        "of images, whose errors add.",
        models=(plain, large),
        claims=[lowers, overfits],
        run=partial(_run, plain, large, lowers, overfits),
    )


LARGER_ENCODER = _experiment(
    "larger-encoder", "Fashion-MNIST", PLAIN, LARGE, ("200-200", "500-500"),
    "150 epochs, with encoders of 200-200 and 500-500",
)  # fmt: skip
WIDE_ENCODER = _experiment(
    "wide-encoder", "3-bit CIFAR-10", "cifar-ffg", "cifar-wide-encoder", ("64-128-256", "128-256-512"),
    "20 epochs, with convolutional encoders of 64-128-256 and 128-256-512 channels",
)  # fmt: skip
