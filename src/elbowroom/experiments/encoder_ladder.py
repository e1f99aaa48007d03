"""Beyond the paper: of encoders with equally many parameters, which family of q loses least?"""

from .claims import Claim, decide
from .experiment import Experiment, Findings, Lab, measurable
from .tables import findings_of, own_fit, parameters_of

__all__ = ["ENCODER_LADDER"]

DIAGONAL, FULL, FLOW = "fashion-encoder-diagonal", "fashion-encoder-full", "fashion-encoder-flow"
WORDS = {FULL: "a full-covariance Gaussian", FLOW: "a coupling flow"}
HIGHER = {
    model: Claim(
        name=f"{model}-has-the-higher-elbo",
        whose="We expected",
        says=f"parameters are better spent on {words} than on a wider encoder of a diagonal Gaussian",
        estimand=f"L[q] of an encoder of {words} minus that of one of a diagonal Gaussian with as many parameters",
        data="held-out images of Fashion-MNIST",
        models=(DIAGONAL, model),
    )
    for model, words in WORDS.items()
}
LOWER = Claim(
    name="flow-lowers-amortization-at-equal-size",
    says="a flexible q lowers the amortization gap too, not only the approximation gap",
    estimand="amortization gap with a diagonal Gaussian minus that with a coupling flow, on one frozen decoder, with "
    "equally many parameters",
    data="training images of Fashion-MNIST",
    models=(DIAGONAL, FLOW),
)


def _run(lab: Lab) -> Findings:
    """Measure the encoders, which share a decoder and so log p(x), and compare them datum by datum."""
    found = lab.gaps_of(measurable(ENCODER_LADDER, lab))
    held = {model: sets["heldout"].elbo for model, sets in found.items()}
    decisions = [decide(claim, held[model] - held[DIAGONAL]) for model, claim in HIGHER.items() if model in found]
    if FLOW in found:
        plain, flow = found[DIAGONAL]["train"], found[FLOW]["train"]
        decisions.append(decide(LOWER, plain.amortization - flow.amortization, own_fit(plain), own_fit(flow)))
    return findings_of(found, decisions, parameters_of(found, lab))


ENCODER_LADDER = Experiment(
    name="encoder-ladder",
    section="beyond the paper",
    question="Of encoders with equally many parameters, which family of q loses least?",
    how="Three encoders for the frozen decoder of one model of Fashion-MNIST, trained alike for 150 epochs, with "
    "numbers of parameters that differ by less than one percent: a diagonal Gaussian (hidden layers of 200), a "
    "full-covariance Gaussian (98) and a coupling flow (184). The last column has the number of each encoder.",
    models=(DIAGONAL, FULL, FLOW),
    claims=[*HIGHER.values(), LOWER],
    run=_run,
)
