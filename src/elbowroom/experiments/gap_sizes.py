"""Section 5.2: how large are the gaps, and which part of them is larger?"""

from ..posteriors import DiagonalGaussian
from ..results import Estimate, Gaps
from .claims import Claim, Decision, decide
from .experiment import Experiment, Findings, Lab, measurable
from .tables import findings_of

__all__ = ["GAPS"]

DATA = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar": "3-bit CIFAR-10"}
PAIRED = {data: (f"{data}-ffg", f"{data}-af") for data in DATA}
FFG = DiagonalGaussian.name
LARGER = {
    data: Claim(
        name=f"amortization-is-larger-{data}",
        says="amortization often accounts for more of the inference gap than the family does",
        estimand="amortization gap - approximation gap, of the model trained with q_FFG",
        data=f"training images of {name}",
        models=PAIRED[data][:1],
    )
    for data, name in DATA.items()
}
FITTED = {
    data: Claim(
        name=f"decoder-fits-its-q-{data}",
        says="the decoder learns to fit the q that it was trained with",
        estimand="log p(x) - L[q*_FFG] of the decoder trained with q_AF, minus that of the one trained with q_FFG",
        data=f"training images of {name}",
        models=PAIRED[data],
    )
    for data, name in DATA.items()
}


def _run(lab: Lab) -> Findings:
    """Measure the two models of each data set, and compare their terms datum by datum."""
    found = lab.gaps_of(measurable(GAPS, lab))
    decisions: list[Decision] = []
    for data, pair in PAIRED.items():
        ffg, af = (found[model]["train"] if model in found else None for model in pair)
        if ffg:
            decisions.append(decide(LARGER[data], ffg.amortization - ffg.approximation, ffg.fits[FFG]))
        if ffg and af:
            decisions.append(decide(FITTED[data], misfit(af) - misfit(ffg), af.fits[FFG], ffg.fits[FFG]))
    return findings_of(found, decisions)


def misfit(gaps: Gaps) -> Estimate:
    """What the best diagonal Gaussian loses of log p(x), whichever q the model was trained with."""
    return gaps.log_evidence - gaps.local[FFG]


GAPS = Experiment(
    name="gaps",
    section="5.2",
    question="How large are the approximation and the amortization gap, and which is larger?",
    how="Models of three data sets, each trained with a factorized Gaussian (ffg) and with an auxiliary flow (af). The "
    "terms of a gap come from the same images, and so do the terms that are compared between two models.",
    models=[model for pair in PAIRED.values() for model in pair],
    claims=[*LARGER.values(), *FITTED.values()],
    run=_run,
)
