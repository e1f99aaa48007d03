"""The rows of tables: one ladder in each."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..models import n_parameters
from ..posteriors import DiagonalGaussian
from ..results import Estimate, FitReport, Gaps
from .claims import Decision
from .experiment import Findings, Lab, NamedArrays, Trained
from .figures import draw_only_gaps

__all__ = ["LADDER_HEADER", "NOT_KEPT", "findings_of", "ladder_rows_of", "own_fit", "parameters_of", "with_error"]

LADDER_HEADER = (
    "model", "data", "n", "log p(x)", "L[q*]", "L[q*_FFG]", "L[q]", "approximation", "amortization", "inference",
    "ran out",
)  # fmt: skip
PARAMETERS = "parameters"  # the name of kept arrays, and of their column
NOT_KEPT = "not kept"  # stands where a further training has no arrays


def findings_of(
    found: Mapping[str, Mapping[str, Gaps]], decisions: Sequence[Decision], parameters: Mapping[str, int] | None = None
) -> Findings:
    """What ladders alone show: a row of the table and a bar of the figure for each.

    The numbers of parameters of the encoders, by their models, are the last column where they are given.
    """
    header: Sequence[str] = LADDER_HEADER
    rows = ladder_rows_of(found)
    if parameters is not None:
        sizes = {model: f"{n:,}" for model, n in parameters.items()}
        header, rows = (*header, PARAMETERS), [(*row, sizes.get(row[0], NOT_KEPT)) for row in rows]
    return Findings(
        header=header,
        rows=rows,
        decisions=decisions,
        draw=lambda figure: draw_only_gaps(figure, found),
    )


def ladder_rows_of(found: Mapping[str, Mapping[str, Gaps]]) -> list[Sequence[str]]:
    """A row for each set of each model: the bounds, the gaps with their standard errors, and fits that ran out.

    L[q*] is the best member of q's own family; the approximation gap is what log p(x) lies above it, and the
    amortization gap is what it lies above L[q].
    """
    return [_row(model, name, gaps) for model, sets in found.items() for name, gaps in sets.items()]


def parameters_of(models: Iterable[str], lab: Lab) -> Mapping[str, int]:
    """The number of parameters of each model's encoder. Of a further training it may be missing."""
    there = [model for model in models if lab.has([model], [PARAMETERS])]
    return {model: int(lab.arrays(model, PARAMETERS, _parameters)[PARAMETERS]) for model in there}


def _parameters(trained: Trained) -> NamedArrays:
    return {PARAMETERS: np.array(n_parameters(trained.q))}


def own_fit(gaps: Gaps) -> FitReport:
    """How the fits of the best member of q's own family ended."""
    return gaps.fits[gaps.family or DiagonalGaussian.name]


def _row(model: str, name: str, gaps: Gaps) -> Sequence[str]:
    own = gaps.local[gaps.family or DiagonalGaussian.name]
    bounds = (gaps.log_evidence, own, gaps.local[DiagonalGaussian.name], gaps.elbo)
    steps = (gaps.approximation, gaps.amortization, gaps.inference)
    ran_out = sum(fit.counts().get("ran out", 0) for fit in gaps.fits.values())
    of = sum(len(fit.outcome) for fit in gaps.fits.values())
    return (
        model, name, f"{len(gaps):,}", *(f"{bound.mean:.2f}" for bound in bounds), *map(with_error, steps),
        f"{ran_out} of {of}",
    )  # fmt: skip


def with_error(step: Estimate) -> str:
    """A mean and, in brackets, its standard error."""
    return f"{step.mean:.2f} ({step.se:.2f})"
