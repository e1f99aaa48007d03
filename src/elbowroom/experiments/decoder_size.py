"""Section 5.4: does a more capable decoder lower the approximation gap?"""

from .claims import Claim, decide
from .experiment import Experiment, Findings, Lab
from .figures import draw_gaps
from .tables import LADDER_HEADER, ladder_rows_of, own_fit

__all__ = ["DECODER_SIZE"]

SMALL, LARGE = "fashion-decoder-0", "fashion-decoder-4"
CLAIM = Claim(
    name="larger-decoder-lowers-approximation",
    says="a more capable decoder lowers the approximation gap",
    estimand="approximation gap of a linear decoder minus that of a decoder of four hidden layers, both with q_FFG",
    data="training images of Fashion-MNIST",
)


def _run(lab: Lab) -> Findings:
    """Measure both models, and compare what a diagonal Gaussian loses datum by datum."""
    found = {model: lab.gaps(model) for model in (SMALL, LARGE)}
    small, large = found[SMALL]["train"], found[LARGE]["train"]
    decision = decide(CLAIM, small.approximation - large.approximation, own_fit(small), own_fit(large))
    return Findings(
        header=LADDER_HEADER,
        rows=ladder_rows_of(found),
        decisions=[decision],
        draw=lambda figure: draw_gaps(figure, found),
    )


DECODER_SIZE = Experiment(
    name="decoder-size",
    section="5.4",
    question="Does a more capable decoder lower the approximation gap?",
    how="Two models of Fashion-MNIST, trained alike for 150 epochs, whose decoders have no and four hidden layers.",
    models=(SMALL, LARGE),
    claims=[CLAIM],
    run=_run,
)
