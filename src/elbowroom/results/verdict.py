"""From gaps to words: each rule is a threshold, a sentence that states the nats, and a test with a planted cause.

Every sentence holds with this decoder fixed, and none promises what retraining would do. The rules are listed in
`docs/verdict.md`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from .display import html_list
from .ladder import REMAINDER, Ladder, Rung
from .outcomes import Flag, Outcome

__all__ = ["Finding", "Verdict", "judge"]

WIDTH = 100  # of a printed line
SMALL = 0.5  # nats: an inference gap below this is too small to matter
STEP = 0.25  # nats: a step below this is not spoken of
SHARE = 0.1  # of the inference gap: likewise
N_ERRORS = 2.0  # standard errors by which a step must exceed zero
SHORT = 0.05  # nats: what a fit lacks is not spoken of below this
DOUBT = 0.1  # share of flagged data above which log p(x) is not trusted
LOST = 0.02  # share of data left out above which nothing is trusted

REMEDIES = {  # of the steps that are no assumption of a family; those of rungs are in the rungs' own words
    "amortization": "a better encoder, or refining its answer for each datum (er.refine), can recover {nats}",
    "encoder": "a better encoder for the same objective, or refining its answer (er.refine), changes L[q] by {nats}",
    "mismatch": "{nats} are lost because q was trained for kl_weight {beta:g}, not for the ELBO",
    "inference": (
        "q and its family together lose {nats}; the best member of the family is not known, so the loss cannot be split"
    ),
}


@dataclass(frozen=True)
class Finding:
    """One sentence of a verdict.

    Attributes:
        rule: name of the rule that applies.
        text: the sentence.
        nats: nats per datum that the sentence is about; None where it is about none.
        error: standard error of `nats`, in nats.
    """

    rule: str
    text: str
    nats: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        return self.text

    def lines(self, indent: str = "") -> list[str]:
        """The sentence as an item of a list, in lines of at most `WIDTH` characters."""
        return wrap(self.text, WIDTH, initial_indent=f"{indent}- ", subsequent_indent=f"{indent}  ")


class Verdict(list[Finding]):
    """A list of findings, ordered as `judge` orders it; it prints one sentence per line."""

    def __repr__(self) -> str:
        return "\n".join(line for finding in self for line in finding.lines())

    def _repr_html_(self) -> str:
        return html_list(map(str, self))


def judge(gaps: Ladder, train: Ladder | None = None) -> Verdict:
    """Judge the ladder of one set of data; with `train`, judge generalization too.

    Args:
        gaps: the ladder to judge. With `train`, it is that of the held-out data.
        train: the ladder of training data, or None.
    Returns:
        At least one finding. Steps come first, from the most costly down, then generalization, then doubts. Where too
        many data lack a finite value, or there is one datum only, the doubts alone are returned.
    """
    doubts = list(_doubts(gaps)) + ([] if train is None else list(_doubts(train, "training data: ")))
    if any(finding.rule == "cannot tell" for finding in doubts):
        return Verdict(doubts)
    findings = list(_steps(gaps))
    total = gaps.inference
    if total.mean < SMALL:
        findings = [
            Finding(
                "too small",
                f"the ELBO loses {_nats(total.mean, total.se)} in all: too small to matter",
                total.mean,
                total.se,
            )
        ]
    elif not findings:
        text = f"the ELBO loses {_nats(total.mean, total.se)}, and no single step stands out"
        findings = [Finding("spread", text, total.mean, total.se)]
    findings.sort(key=lambda finding: -abs(finding.nats or 0.0))
    if train is not None:
        findings += _generalization(gaps, train)
    return Verdict(findings + doubts)


def _steps(gaps: Ladder) -> Iterator[Finding]:
    """A sentence for each step that is large, a share of the whole, and beyond its error."""
    total = gaps.inference.mean
    if any(_unfinished(gaps, name) > DOUBT for name in gaps.ladder):
        return
    remedies = REMEDIES | _remedies(gaps)
    for name, step in gaps.steps.items():
        signed = name in ("encoder", "mismatch")
        size = abs(step.mean) if signed else step.mean
        if size < STEP or size < SHARE * total or size < N_ERRORS * step.se:
            continue
        text = "with this decoder fixed, " + remedies[name].format(nats=_nats(step.mean, step.se), beta=gaps.kl_weight)
        share = f" ({100 * step.mean / total:.0f}% of the inference gap)" if total > 0 and not signed else ""
        yield Finding(name, text + share, step.mean, step.se)


def _remedies(gaps: Ladder) -> dict[str, str]:
    """The sentence of each step between rungs, put together from the words of the rungs that it leaves."""
    names = [name for name in gaps.steps if name not in REMEDIES]
    return {name: _remedy(rungs, name) for name, rungs in zip(names, gaps.merged_rungs, strict=True)}


def _remedy(rungs: Sequence[Rung], step: str) -> str:
    if step == REMAINDER:
        return "{nats} are beyond every family that was fitted, unfinished fits included"
    lowest, highest = rungs[0], rungs[-1]
    if step.endswith(REMAINDER):
        if len(rungs) == 2:
            return f"{{nats}} are beyond {lowest.members}: at most this is there for {lowest.remedy}"
        return (
            f'{{nats}} are beyond {lowest.members}: a richer family recovers part of them; plan "standard" says which'
        )
    assumptions = " and ".join(rung.assumption for rung in rungs)
    return f"assuming {assumptions} costs {{nats}}: {highest.remedy} can recover them"


def _generalization(heldout: Ladder, train: Ladder) -> Iterator[Finding]:
    """What only held-out data show, of the encoder and of the model itself. Different data: their errors add."""
    if heldout.ladder and train.ladder:
        there = train.amortization
        extra = heldout.amortization.mean - there.mean
        error = float(np.hypot(heldout.amortization.se, there.se))
        if extra > STEP and extra > N_ERRORS * error:
            text = (
                f"the encoder overfits: {_nats(extra, error)} of amortization show on held-out data only; "
                f"{_nats(there.mean, there.se)} are there on training data (capacity or optimization)"
            )
            yield Finding("encoder generalization", text, extra, error)
        elif there.mean > STEP and there.mean > N_ERRORS * there.se:
            text = (
                f"{_nats(there.mean, there.se)} of amortization are there on training data already: the encoder lacks "
                f"capacity or optimization, not data (held-out data add {_nats(extra, error)})"
            )
            yield Finding("encoder capacity", text, there.mean, there.se)
    drop = train.log_evidence.mean - heldout.log_evidence.mean
    error = float(np.hypot(train.log_evidence.se, heldout.log_evidence.se))
    if drop > STEP and drop > N_ERRORS * error:
        text = (
            f"log p(x) itself falls by {_nats(drop, error)} from training to held-out data: no posterior repairs that"
        )
        yield Finding("model generalization", text, drop, error)


def _doubts(gaps: Ladder, whose: str = "") -> Iterator[Finding]:
    """Why the numbers might not carry a verdict."""
    if gaps.n_excluded > LOST * len(gaps):
        yield Finding(
            "cannot tell",
            f"{whose}cannot tell, because {gaps.n_excluded} of {len(gaps)} data have no finite value and are left out",
        )
    flags = gaps.flags if gaps.refined is None else gaps.flags[gaps.refined]  # what misled the cheap plan is corrected
    n = len(flags)
    unreliable = int((flags & Flag.ERROR_UNRELIABLE > 0).sum())
    if unreliable > DOUBT * n:
        advice = 'measure again with plan "standard", which anneals, or with "precise"'
        text = (
            f"{whose}log p(x) cannot be trusted, because its error is unreliable on {unreliable} of {n} data: {advice}"
        )
        yield Finding("unreliable evidence", text)
    for name in gaps.ladder:
        share = _unfinished(gaps, name)
        if share > DOUBT:
            text = f"{whose}the {name} fit still gained on {100 * share:.0f}% of the data when its budget ended: "
            yield Finding("unfinished fits", text + "the steps on either side of it cannot be told apart")
        short = gaps.shortfall.get(name)
        if short is not None and short.mean > max(SHORT, N_ERRORS * short.mc_se):
            text = (
                f"{whose}the {name} fit lacks about {_nats(short.mean, short.mc_se)} of the best: the step below it is "
                "that much larger than shown, the step above it smaller"
            )
            yield Finding("short fits", text, short.mean, short.mc_se)
    modes = int((flags & Flag.BASES_DISAGREE > 0).sum())
    if modes > LOST * n:
        text = (
            f"{whose}{modes} of {n} data show mass that a local Gaussian does not reach: several modes, or heavy tails"
        )
        yield Finding("modes", text)
    if not np.isfinite(gaps.inference.se):
        text = f"{whose}cannot tell, because one datum gives no standard error: measure two or more"
        yield Finding("cannot tell", text)


def _unfinished(gaps: Ladder, rung: str) -> float:
    """The share of data whose fit of a rung was still gaining; of a two-phase run, among those refined."""
    outcome = gaps.fits[rung].outcome
    return float(((outcome if gaps.refined is None else outcome[gaps.refined]) == Outcome.RAN_OUT).mean())


def _nats(value: float, error: float) -> str:
    return f"{value:.2f} +- {error:.2f} nats"
