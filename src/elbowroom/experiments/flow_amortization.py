"""Section 5.3: what do the parameters of a flexible q do for amortization?"""

from .claims import Claim, Decision, decide
from .experiment import Experiment, Findings, Lab, measurable
from .tables import findings_of, own_fit, parameters_of

__all__ = ["FLOW_AMORTIZATION"]

OF_GAUSSIAN = "fashion-linear-ffg"
OF_FLEXIBLE = {
    "fashion-linear-full": "a full-covariance Gaussian",
    "fashion-linear-af": "q_AF",
    "fashion-linear-flow": "a coupling flow",
}
LOWERS_TOO = {
    (model, name): Claim(
        name=f"{model}-lowers-amortization-{name}",
        says="a flexible q lowers the amortization gap too, not only the approximation gap",
        estimand=f"amortization gap with q_FFG minus that with {words}, on one frozen decoder, with linear encoders",
        data=f"{which} images of Fashion-MNIST",
        models=(OF_GAUSSIAN, model),
    )
    for model, words in OF_FLEXIBLE.items()
    for name, which in (("train", "training"), ("heldout", "held-out"))
}


def _run(lab: Lab) -> Findings:
    """Measure the encoders, which share a decoder and so log p(x), and compare them datum by datum."""
    found = lab.gaps_of(measurable(FLOW_AMORTIZATION, lab))
    decisions: list[Decision] = []
    for (model, name), claim in LOWERS_TOO.items():
        if model in found:
            ffg, other = found[OF_GAUSSIAN][name], found[model][name]
            decisions.append(decide(claim, ffg.amortization - other.amortization, own_fit(ffg), own_fit(other)))
    return findings_of(found, decisions, parameters_of(found, lab))


FLOW_AMORTIZATION = Experiment(
    name="flow-amortization",
    section="5.3",
    question="Do the parameters of a flexible q lower the amortization gap too?",
    how="Linear encoders that were trained on one frozen decoder, so that the true posteriors are the same: those of a "
    "factorized Gaussian q_FFG, a full-covariance Gaussian, an auxiliary flow q_AF and a coupling flow. The last "
    "column has the number of parameters of each encoder. The terms that are compared come from the same images.",
    models=(OF_GAUSSIAN, *OF_FLEXIBLE),
    claims=list(LOWERS_TOO.values()),
    run=_run,
)
