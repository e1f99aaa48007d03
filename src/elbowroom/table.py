"""The ladder as plain text: every number with its side and its error, every caveat below it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .estimate import SIDES, Estimate
from .evidence import Flag
from .local import Outcome

if TYPE_CHECKING:
    from .ladder import Gaps

__all__ = ["flag_counts", "group_table", "ladder_table"]

FLAG_WORDS = {
    Flag.NOT_FINITE: "not finite (left out)",
    Flag.FIT_DIVERGED: "local fit diverged (left out)",
    Flag.FIT_RAN_OUT: "local fit still gaining when its budget ended",
    Flag.ERROR_UNRELIABLE: "error of log p(x) unreliable (heavy-tailed weights)",
    Flag.BASES_DISAGREE: "another base found more mass (several modes?)",
    Flag.WIDE: "bounds more than a nat apart",
    Flag.TARGET_MISSED: "error of log p(x) above what the plan promises",
}
OUTCOME_WORDS = {
    Outcome.CONVERGED: "converged",
    Outcome.RAN_OUT: "ran out",
    Outcome.DIVERGED: "diverged",
    Outcome.SKIPPED: "not refined",
}


def ladder_table(gaps: "Gaps") -> str:
    """Rungs and steps from L[q] up to log p(x), in nats per datum, with notes on what was left out or is in doubt."""
    lines = [f"{'':28}  {'nats':>11}  {'se':>6}  {'mc':>6}  {'share':>5}", *_rungs(gaps)]
    beside = [name for name in gaps.local if name not in gaps.ladder and name != "tempered"]
    if beside:
        lines.append("beside the ladder:")
        lines += [_row(gaps.local[name].name, gaps.local[name]) for name in beside]
    lines.append("")
    lines += [f"  {line}" for line in _footnotes(gaps)]
    if gaps.groups is not None:
        lines += ["", group_table(gaps)]
    return "\n".join(lines)


def group_table(gaps: "Gaps") -> str:
    """Mean of L[q] and of each step by group."""
    names = ["L[q]", *gaps.steps]
    lines = [f"{'group':>12}  {'n':>5}  " + "  ".join(f"{name:>16}" for name in names)]
    assert gaps.groups is not None
    for group in np.unique(gaps.groups):
        index = np.flatnonzero(gaps.groups == group)
        cells = [f"{e[index].mean:8.3f} +-{e[index].se:6.3f}" for e in (gaps.elbo, *gaps.steps.values())]
        lines.append(f"{group!s:>12}  {len(index):>5}  " + "  ".join(cells))
    return "\n".join(lines)


def flag_counts(gaps: "Gaps") -> dict[str, int]:
    """How many data carry each flag, in words."""
    return {
        words: int((gaps.flags & flag > 0).sum()) for flag, words in FLAG_WORDS.items() if (gaps.flags & flag).any()
    }


def _rungs(gaps: "Gaps") -> Iterator[str]:
    """The ladder from the bottom up: a rung, the step above it, the next rung."""
    total = gaps.inference.mean
    tops: list[Estimate] = [gaps.local[name] for name in gaps.ladder] + [gaps.log_evidence]
    if "tempered" in gaps.local:
        tops.insert(0, gaps.local["tempered"])
    yield _row("L[q]", gaps.elbo)
    for (name, step), top in zip(gaps.steps.items(), tops, strict=True):
        share = f"{100 * step.mean / total:4.0f}%" if total > 0 else ""
        yield _row(f"  + {name}", step, share)
        yield _row(top.name, top)


def _row(label: str, estimate: Estimate, share: str = "") -> str:
    number = f"{SIDES[estimate.side]:>2} {estimate.mean:8.3f}"
    return f"{label:28}  {number:>11}  {_error(estimate.se)}  {_error(estimate.mc_se)}  {share:>5}".rstrip()


def _error(value: float) -> str:
    return f"{value:6.3f}" if np.isfinite(value) else f"{'-':>6}"


def _footnotes(gaps: "Gaps") -> Iterator[str]:
    left_out = f", {gaps.n_excluded} left out of every mean" if gaps.n_excluded else ""
    yield f"{len(gaps)} data{left_out}"
    yield "se: these data as a sample; mc: Monte Carlo alone; >= the truth is at least this; ~ either side"
    if gaps.n_excluded:
        yield _excluded_look(gaps)
    for name, fit in gaps.fits.items():
        counts = {words: int((fit.outcome == outcome).sum()) for outcome, words in OUTCOME_WORDS.items()}
        yield f"fit {name}: " + ", ".join(f"{n} {words}" for words, n in counts.items() if n)
    chosen = {str(name): int((gaps.chosen == name).sum()) for name in np.unique(gaps.chosen)}
    yield "log p(x) from " + ", ".join(f"{_ESTIMATORS[name]} ({n})" for name, n in chosen.items())
    for words, n in flag_counts(gaps).items():
        yield f"flagged: {n} of {len(gaps)} {words}"
    yield f"work: {sum(gaps.work.values()):,.0f} decoder gradients per datum"
    yield from gaps.notes


_ESTIMATORS: dict[str, Any] = {
    "iwae": "importance sampling from the local Gaussian",
    "ais": "annealed importance sampling",
    "flow": "importance sampling from the local flow",
    "encoder": "importance sampling from q",
}


def _excluded_look(gaps: "Gaps") -> str:
    """Whether the data left out look worse on what they do have: the bounds that were computed before any exclusion."""
    out = ~gaps.log_evidence.finite
    values = next(iter(gaps.candidates.values())).values
    known = out & np.isfinite(values)
    if not known.any():
        return "the data left out have no finite bound at all: whether they are worse cannot be told"
    difference = values[known].mean() - values[~out].mean()
    return (
        f"{int(known.sum())} of those left out have a bound of log p(x); it lies {difference:+.2f} nats from the rest"
    )
