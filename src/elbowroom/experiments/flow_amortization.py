"""Section 5.3: what do the parameters of a flow do for amortization?"""

from .claims import Claim, Decision, decide
from .experiment import Experiment, Findings, Lab
from .tables import findings_of, own_fit

__all__ = ["FLOW_AMORTIZATION"]

ENCODERS = ("fashion-linear-ffg", "fashion-linear-af")
LOWERS_TOO = {
    name: Claim(
        name=f"flow-lowers-amortization-{name}",
        says="a flexible q lowers the amortization gap too, not only the approximation gap",
        estimand="amortization gap with q_FFG minus that with q_AF, on one frozen decoder, with linear encoders",
        data=f"{words} images of Fashion-MNIST",
    )
    for name, words in (("train", "training"), ("heldout", "held-out"))
}


def _run(lab: Lab) -> Findings:
    """Measure the encoders, which share a decoder and so log p(x), and compare them datum by datum."""
    found = {model: lab.gaps(model) for model in ENCODERS}
    decisions: list[Decision] = []
    for name, claim in LOWERS_TOO.items():
        ffg, af = (found[model][name] for model in ENCODERS)
        decisions.append(decide(claim, ffg.amortization - af.amortization, own_fit(ffg), own_fit(af)))
    return findings_of(found, decisions)


FLOW_AMORTIZATION = Experiment(
    name="flow-amortization",
    section="5.3",
    question="Do the parameters of a flow lower the amortization gap too?",
    how="Linear encoders that were trained on one frozen decoder, so that the true posteriors are the same: those of a "
    "factorized Gaussian and of an auxiliary flow. The terms that are compared come from the same images.",
    models=ENCODERS,
    claims=list(LOWERS_TOO.values()),
    run=_run,
)
