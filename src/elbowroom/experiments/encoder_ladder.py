"""Beyond the paper: of encoders with equally many parameters, which family of q loses least?"""

from .claims import Claim, Decision, decide
from .experiment import Experiment, Findings, Lab
from .tables import WITH_SIZES, findings_of, own_fit, parameters_of

__all__ = ["ENCODER_LADDER"]

DIAGONAL, FULL, FLOW = "fashion-encoder-diagonal", "fashion-encoder-full", "fashion-encoder-flow"
WORDS = {FULL: "a full-covariance Gaussian", FLOW: "a coupling flow"}
BESIDE_DIAGONAL = {model: (DIAGONAL, model) for model in WORDS}
HIGHER = {
    model: Claim(
        name=f"{model}-has-the-higher-elbo",
        whose="We expected",
        says=f"parameters are better spent on {words} than on a wider encoder of a diagonal Gaussian",
        estimand=f"L[q] of an encoder of {words} minus that of one of a diagonal Gaussian with as many parameters",
        data="held-out images of Fashion-MNIST",
    )
    for model, words in WORDS.items()
}
LOWER = Claim(
    name="flow-lowers-amortization-at-equal-size",
    says="a flexible q lowers the amortization gap too, not only the approximation gap",
    estimand="amortization gap with a diagonal Gaussian minus that with a coupling flow, on one frozen decoder, with "
    "equally many parameters",
    data="training images of Fashion-MNIST",
)


def _run(lab: Lab) -> Findings:
    """Measure the encoders, which share a decoder and so log p(x), and compare them datum by datum."""
    models = (DIAGONAL, *(model for model, pair in BESIDE_DIAGONAL.items() if lab.has(pair, WITH_SIZES)))
    parameters, found = parameters_of(models, lab), lab.gaps_of(models)
    held = {model: sets["heldout"].elbo for model, sets in found.items()}
    decisions: list[Decision] = [decide(HIGHER[model], held[model] - held[DIAGONAL]) for model in models[1:]]
    if FLOW in found:
        plain, flow = found[DIAGONAL]["train"], found[FLOW]["train"]
        decisions.append(decide(LOWER, plain.amortization - flow.amortization, own_fit(plain), own_fit(flow)))
    return findings_of(found, decisions, parameters)


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
    takes=WITH_SIZES,
    enough=list(BESIDE_DIAGONAL.values()),
)
