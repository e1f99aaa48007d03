"""The ladder as a table, in text and in HTML: rows with side and error, and footnotes below them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

from .display import Row, aligned, html_table
from .estimate import SIDES, Estimate
from .ladder import TEMPERED, Ladder
from .outcomes import FLAG_WORDS, SECOND_OPINION, Flag

__all__ = ["LadderRow", "flag_counts", "group_table", "ladder_html", "ladder_rows", "ladder_table", "rungs_beside"]

SELECTED = 2.0  # standard errors from the rest, beyond which data that are left out move the means
WARNING_COLUMNS = 90  # columns of the warning about them
LABEL = 27  # columns of a label; a longer one goes on in the next line
HEADER = ("", "nats", "se", "mc", "share")


def ladder_table(ladder: Ladder) -> str:
    """The rungs and steps from L[q] up to log p(x), in nats per datum, with notes on what to doubt or was left out."""
    warning = _selected(ladder)
    first = [] if warning is None else [*wrap(warning, WARNING_COLUMNS), ""]
    lines = [*first, _line(HEADER), *(line for row in _rungs(ladder) for line in _lines(row))]
    beside = _beside(ladder)
    if beside:
        lines += ["beside the ladder:", *map(_line, beside)]
    lines += ["", *(f"  {line}" for line in _footnotes(ladder))]
    if ladder.groups is not None:
        lines += ["", group_table(ladder, ladder.groups)]
    return "\n".join(lines)


def ladder_html(ladder: Ladder) -> str:
    """The same table in HTML, with its notes as a list below it."""
    beside = _beside(ladder)
    divider: list[Row] = [("beside the ladder:", "", "", "", "")] if beside else []
    groups = "" if ladder.groups is None else html_table(_groups(ladder, ladder.groups))
    warning = _selected(ladder)
    first = "" if warning is None else f"<p><strong>{escape(warning)}</strong></p>"
    return first + html_table([HEADER, *_rungs(ladder), *divider, *beside], _footnotes(ladder)) + groups


def group_table(ladder: Ladder, groups: NDArray[np.generic]) -> str:
    """A table of the means of L[q] and of each step, in nats, for each label in `groups` (N,)."""
    return "\n".join(aligned(_groups(ladder, groups)))


def flag_counts(flags: NDArray[np.int64]) -> dict[str, int]:
    """Number of data that carry each flag, by the words for it; flags that no datum carries are left out."""
    return {str(flag.name): int((flags & flag > 0).sum()) for flag in FLAG_WORDS if (flags & flag).any()}


@dataclass(frozen=True, kw_only=True)
class LadderRow:
    """One row of the ladder: a rung, or the step that leads up to the next rung.

    Attributes:
        name: name of the rung or step.
        estimate: its value, in nats per datum.
        is_step: whether the row is a step.
        share: share of a step in the inference gap; None for a rung, or where the gap is not positive.
        reaches_evidence: whether it is log p(x), or a step that leads there.
    """

    name: str
    estimate: Estimate
    is_step: bool = False
    share: float | None = None
    reaches_evidence: bool = False


def ladder_rows(ladder: Ladder) -> Iterator[LadderRow]:
    """Yield the rows of the ladder from the bottom up: a rung, the step above it, the next rung, and so on."""
    total = ladder.inference.mean
    tops: list[Estimate] = [ladder.local[name] for name in ladder.ladder] + [ladder.log_evidence]
    if TEMPERED in ladder.local and ladder.ladder:
        tops.insert(0, ladder.local[TEMPERED])
    yield LadderRow(name="L[q]", estimate=ladder.elbo)
    for (name, step), top in zip(ladder.steps.items(), tops, strict=True):
        is_last = top is ladder.log_evidence
        share = step.mean / total if total > 0 else None
        yield LadderRow(name=name, estimate=step, is_step=True, share=share, reaches_evidence=is_last)
        yield LadderRow(name=top.name, estimate=top, reaches_evidence=is_last)


def rungs_beside(ladder: Ladder) -> list[Estimate]:
    """The fitted rungs that are not part of the ladder."""
    return [ladder.local[name] for name in ladder.local if name not in ladder.ladder and name != TEMPERED]


def _rungs(ladder: Ladder) -> Iterator[Row]:
    for row in ladder_rows(ladder):
        label = f"  + {row.name}" if row.is_step else row.name
        doubtful = row.reaches_evidence and bool(ladder.is_doubtful.any())
        yield _row(label, row.estimate, "" if row.share is None else f"{100 * row.share:.0f}%", doubtful)


def _beside(ladder: Ladder) -> list[Row]:
    return [_row(estimate.name, estimate) for estimate in rungs_beside(ladder)]


def _row(label: str, estimate: Estimate, share: str = "", doubtful: bool = False) -> Row:
    number = f"{SIDES[estimate.side]:>2} {estimate.mean:8.3f}"
    return (label, number, _error(estimate.se), _error(estimate.mc_se) + "?" * doubtful, share)


def _error(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _line(row: Row) -> str:
    """One row in columns of fixed width, 60 in all: tables of different runs stand below each other."""
    label, number, se, mc, share = row
    return f"{label:{LABEL}} {number:>11} {se:>6} {mc:>6} {share:>5}".rstrip()


def _lines(row: Row) -> list[str]:
    """A row whose label, where it is too long, goes on below."""
    indent = "  + " if row[0].startswith("  + ") else ""
    first, *rest = wrap(row[0].removeprefix(indent), LABEL - len(indent))
    return [_line((indent + first, *row[1:])), *(" " * len(indent) + line for line in rest)]


def _groups(ladder: Ladder, groups: NDArray[np.generic]) -> list[Row]:
    columns = {"L[q]": ladder.elbo, **ladder.steps}
    rows: list[Row] = [("group", "n", *columns)]
    for group in np.unique(groups):
        index = np.flatnonzero(groups == group)
        cells = (f"{e[index].mean:.3f} +- {e[index].se:.3f}" for e in columns.values())
        rows.append((str(group), f"{len(index):,}", *cells))
    return rows


def _footnotes(ladder: Ladder) -> Iterator[str]:
    left_out = f", {ladder.n_excluded} left out of every mean" if ladder.n_excluded else ""
    yield f"{len(ladder)} data{left_out}"
    yield "se: these data as a sample; mc: Monte Carlo alone; >= the truth is at least this; ~ either side"
    if ladder.n_excluded:
        yield _excluded_look(ladder)
    for name, fit in ladder.fits.items():
        yield f"fit {name}: " + ", ".join(f"{n} {words}" for words, n in fit.counts().items()) + _more(ladder, name)
    counts = {str(name): int((ladder.chosen == name).sum()) for name in np.unique(ladder.chosen)}
    yield "log p(x) from " + ", ".join(f"{ladder.estimators[name]} ({n})" for name, n in counts.items())
    annealed = ladder.candidates.get("ais")
    if annealed is not None and not annealed.finite.all():
        yield f"annealing checked {int(annealed.finite.sum())} data: those with poor weights, and a random share"
    yield from _second_opinion(ladder)
    for name, n in flag_counts(ladder.flags).items():
        yield f"flagged {n} of {len(ladder)} data {name}: {FLAG_WORDS[Flag[name]]}"
    yield from _doubtful_mean(ladder)
    yield f"work: {sum(ladder.work.values()):,.0f} decoder gradients per datum"
    yield from ladder.notes


def _more(ladder: Ladder, name: str) -> str:
    """What the fits of a rung still lack, to follow how they ended."""
    if name not in ladder.shortfall:
        return ""
    return f"; about {max(ladder.shortfall[name].mean, 0.0):.3f} more to be had"


def _doubtful_mean(ladder: Ladder) -> Iterator[str]:
    """What the question mark at a Monte Carlo error means, and the mean without the data that earned it."""
    doubtful = ladder.is_doubtful
    if not doubtful.any():
        return
    rest = ladder.log_evidence.where(~doubtful)
    without = f"without them it is {rest.mean:.3f} (mc {_error(rest.mc_se)})" if rest.finite.any() else "they are all"
    n = int(doubtful.sum())
    yield f"?: the mc of log p(x) is not to be believed, for the errors of {n} data are unknown; {without}"


def _second_opinion(ladder: Ladder) -> Iterator[str]:
    """Where the estimate from the other side lies."""
    opinion = ladder.candidates.get(SECOND_OPINION)
    if opinion is None or not (opinion.finite & ladder.log_evidence.finite).any():
        return
    beyond = opinion - ladder.log_evidence
    error = f", mc {_error(beyond.mc_se)}" if np.isfinite(beyond.mc_se) else ""
    yield (
        f"second opinion (reverse annealing, no bound) on {int(beyond.finite.sum())} data: "
        f"~ {beyond.mean:+.3f} from log p(x){error}"
    )


def _excluded_look(ladder: Ladder) -> str:
    """Whether the data left out look worse on what they do have: the bounds that were computed before any exclusion."""
    n, difference, _ = _left_out(ladder)
    if n == 0:
        return "the data left out have no finite bound at all: whether they are worse cannot be told"
    return f"{n} of those left out have a bound of log p(x); it lies {difference:+.2f} nats from the rest"


def _selected(ladder: Ladder) -> str | None:
    """The warning that belongs before all means: the data left out are others than those that are not."""
    n, difference, error = _left_out(ladder)
    if n == 0 or abs(difference) <= SELECTED * error:
        return None
    moved = -difference * ladder.n_excluded / len(ladder)
    return (
        f"The means below are of {len(ladder) - ladder.n_excluded} of {len(ladder)} data. Those left out are not like "
        f"them: by a bound of log p(x) they lie {difference:+.1f} nats from the rest, which moves the means by about "
        f"{moved:+.2f}. Run er.check(model, q, x) to find why they have no finite value."
    )


def _left_out(ladder: Ladder) -> tuple[int, float, float]:
    """How many of the data left out have a bound of log p(x), how far its mean lies from that of the rest, and the
    standard error of that, in nats.
    """
    out = ~ladder.log_evidence.finite
    values = next(iter(ladder.candidates.values())).values if ladder.candidates else np.full(len(ladder), np.nan)
    known, rest = values[out & np.isfinite(values)], values[~out & np.isfinite(values)]
    if len(known) == 0 or len(rest) < 2:
        return 0, math.nan, math.nan
    spread = float(rest.std(ddof=1))  # of the few left out it is not known
    return len(known), float(known.mean() - rest.mean()), spread * math.sqrt(1 / len(known) + 1 / len(rest))
