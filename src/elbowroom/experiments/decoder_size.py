"""Section 5.4: does a more capable decoder lower the approximation gap?"""

from .claims import Claim, decide
from .experiment import Experiment, Findings, Lab
from .tables import findings_of, own_fit

__all__ = ["DECODER_SIZE"]

SMALL, MIDDLE, LARGE = "fashion-decoder-0", "fashion-brief", "fashion-decoder-4"
CLAIM = Claim(
    name="larger-decoder-lowers-approximation",
    says="a more capable decoder lowers the approximation gap",
    estimand="approximation gap of a linear decoder minus that of a decoder of four hidden layers, both with q_FFG",
    data="training images of Fashion-MNIST",
)


def _run(lab: Lab) -> Findings:
    """Measure the models, and compare what a diagonal Gaussian loses datum by datum on the smallest and the largest."""
    found = lab.gaps_of((SMALL, MIDDLE, LARGE))
    small, large = found[SMALL]["train"], found[LARGE]["train"]
    decision = decide(CLAIM, small.approximation - large.approximation, own_fit(small), own_fit(large))
    return findings_of(found, [decision])


DECODER_SIZE = Experiment(
    name="decoder-size",
    section="5.4",
    question="Does a more capable decoder lower the approximation gap?",
    how="Three models of Fashion-MNIST, trained alike for 150 epochs, whose decoders have 0, 2 and 4 hidden layers.",
    models=(SMALL, MIDDLE, LARGE),
    claims=[CLAIM],
    run=_run,
)
