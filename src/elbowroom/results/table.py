"""The ladder as plain text: rows with side and error, and the footnotes below them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .estimate import SIDES, Estimate
from .ladder import TEMPERED, Ladder
from .outcomes import FLAG_WORDS, OUTCOME_WORDS

__all__ = ["flag_counts", "group_table", "ladder_table"]


def ladder_table(ladder: Ladder) -> str:
    """Rungs and steps from L[q] up to log p(x), in nats per datum, with notes on what was left out or is in doubt."""
    lines = [f"{'':28}  {'nats':>11}  {'se':>6}  {'mc':>6}  {'share':>5}", *_rungs(ladder)]
    beside = [name for name in ladder.local if name not in ladder.ladder and name != TEMPERED]
    if beside:
        lines.append("beside the ladder:")
        lines += [_row(ladder.local[name].name, ladder.local[name]) for name in beside]
    lines.append("")
    lines += [f"  {line}" for line in _footnotes(ladder)]
    if ladder.groups is not None:
        lines += ["", group_table(ladder, ladder.groups)]
    return "\n".join(lines)


def group_table(ladder: Ladder, groups: NDArray[np.generic]) -> str:
    """Mean of L[q] and of each step by group (N,)."""
    columns = {"L[q]": ladder.elbo, **ladder.steps}
    lines = [f"{'group':>12}  {'n':>5}  " + "  ".join(f"{name:>16}" for name in columns)]
    for group in np.unique(groups):
        index = np.flatnonzero(groups == group)
        cells = [f"{e[index].mean:8.3f} +-{e[index].se:6.3f}" for e in columns.values()]
        lines.append(f"{group!s:>12}  {len(index):>5}  " + "  ".join(cells))
    return "\n".join(lines)


def flag_counts(flags: NDArray[np.int64]) -> dict[str, int]:
    """How many data carry each flag that any of them carries, in words."""
    return {words: int((flags & flag > 0).sum()) for flag, words in FLAG_WORDS.items() if (flags & flag).any()}


def _rungs(ladder: Ladder) -> Iterator[str]:
    """The ladder from the bottom up: a rung, the step above it, the next rung."""
    total = ladder.inference.mean
    tops: list[Estimate] = [ladder.local[name] for name in ladder.ladder] + [ladder.log_evidence]
    if TEMPERED in ladder.local:
        tops.insert(0, ladder.local[TEMPERED])
    yield _row("L[q]", ladder.elbo)
    for (name, step), top in zip(ladder.steps.items(), tops, strict=True):
        share = f"{100 * step.mean / total:4.0f}%" if total > 0 else ""
        yield _row(f"  + {name}", step, share)
        yield _row(top.name, top)


def _row(label: str, estimate: Estimate, share: str = "") -> str:
    number = f"{SIDES[estimate.side]:>2} {estimate.mean:8.3f}"
    return f"{label:28}  {number:>11}  {_error(estimate.se)}  {_error(estimate.mc_se)}  {share:>5}".rstrip()


def _error(value: float) -> str:
    return f"{value:6.3f}" if np.isfinite(value) else f"{'-':>6}"


def _footnotes(ladder: Ladder) -> Iterator[str]:
    left_out = f", {ladder.n_excluded} left out of every mean" if ladder.n_excluded else ""
    yield f"{len(ladder)} data{left_out}"
    yield "se: these data as a sample; mc: Monte Carlo alone; >= the truth is at least this; ~ either side"
    if ladder.n_excluded:
        yield _excluded_look(ladder)
    for name, fit in ladder.fits.items():
        counts = {words: int((fit.outcome == outcome).sum()) for outcome, words in OUTCOME_WORDS.items()}
        yield f"fit {name}: " + ", ".join(f"{n} {words}" for words, n in counts.items() if n)
    counts = {str(name): int((ladder.chosen == name).sum()) for name in np.unique(ladder.chosen)}
    yield "log p(x) from " + ", ".join(f"{ladder.estimators[name]} ({n})" for name, n in counts.items())
    for words, n in flag_counts(ladder.flags).items():
        yield f"flagged: {n} of {len(ladder)} {words}"
    yield f"work: {sum(ladder.work.values()):,.0f} decoder gradients per datum"
    yield from ladder.notes


def _excluded_look(ladder: Ladder) -> str:
    """Whether the data left out look worse on what they do have: the bounds that were computed before any exclusion."""
    out = ~ladder.log_evidence.finite
    values = next(iter(ladder.candidates.values())).values
    known = out & np.isfinite(values)
    if not known.any():
        return "the data left out have no finite bound at all: whether they are worse cannot be told"
    difference = values[known].mean() - values[~out].mean()
    return (
        f"{int(known.sum())} of those left out have a bound of log p(x); it lies {difference:+.2f} nats from the rest"
    )
