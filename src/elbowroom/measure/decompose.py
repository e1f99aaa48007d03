r"""`decompose` measures the ladder of a model on data, block by block.

    L[q] | amortization | L[q*_diagonal] | factorization | L[q*_full] | gaussianity | L[q*_flow] | remainder | log p(x)

Each rung is the ELBO of a better q for the same datum and the same decoder (Cremer, Li and Duvenaud 2018). Where a rung
is not fitted, the steps on either side of it are merged. Where q is not a diagonal Gaussian, amortization is measured
against the best member of q's own family, and smaller families are shown beside the ladder. With `refine_on`, a cheap
plan measures all data and a costly one a random sample of them (`double_sampling`).
"""

from __future__ import annotations  # signatures in help() then show types by their names

import warnings
from collections.abc import Sequence
from pathlib import Path

from ..core import Data
from ..evidence import check_door
from ..models import LatentModel
from ..posteriors import PosteriorLike
from ..results import Gaps, RunningMeans
from .densities import density_notes
from .kept import follow, kept_run, unkept_run
from .measurement import measurement
from .plan import PlanLike
from .progress import ProgressLike, reporting

__all__ = ["decompose"]


def decompose(
    model: LatentModel,
    q: PosteriorLike,
    x: Data,
    plan: PlanLike = "standard",
    seed: int = 0,
    kl_weight: float = 1.0,
    objective: str | None = None,
    groups: Sequence[object] | None = None,
    ids: Sequence[int] | None = None,
    progress: ProgressLike = None,
    refine_on: int | None = None,
    refine_plan: PlanLike = "standard",
    check: bool = True,
    out: str | Path | None = None,
) -> Gaps:
    """Measure the ladder of each datum, from L[q] up to log p(x).

    Args:
        model: a `LatentModel`, such as `DecoderModel`.
        q: a posterior, or a callable x -> torch Distribution.
        x: N data (tensor, array, mapping of them, or map-style dataset).
        plan: "quick" (screening: no full Gaussian, no annealing), "standard" (log p(x) within 0.03 nats of a datum on
            average, where nothing is flagged), "flow" (adds a local flow), "precise" (an error of log p(x) of at most
            0.05 nats for each datum, or a flag), "published" (the paper's protocol: 10 million gradients per datum), or
            a `Plan`.
        seed: seed of all draws.
        kl_weight: the beta that q was trained with. If it is not 1, amortization is split into encoder and mismatch.
        objective: a label for any other training objective ("iwae", "free bits"), printed with the table.
        groups: N labels; the table also gives means by label.
        ids: N unique integers; row numbers by default.
        progress: called with (data done, data in all) at the start, after each stage of a block and at its end. Within
            a block the data done are a share of it. Data that are refined count twice. None for a bar on a terminal, or
            a line in a notebook; False for neither. If the work will take more than ten minutes, a UserWarning says so.
        refine_on: how many data, drawn at random, `refine_plan` measures too. The others are measured by `plan` alone
            and corrected by the mean difference: means are those of `refine_plan`, single values are predictions.
        refine_plan: the plan for the refined data, as `plan`; used with `refine_on` only.
        check: look at the first rows before anything is measured, and refuse what cannot be right. A likelihood that is
            not the library's own is then tested to be a density; where it cannot be, a note in the table says so.
        out: a run folder, in which each block of data is kept as soon as it is measured. A measurement that was
            interrupted, even killed, goes on where it was when it is called again with the same arguments, and ends in
            the same numbers. Processes that are called with the same arguments at the same time share the work. More
            rows of x may be added at its end, unless a sample was refined. A plan that adds a flow ("flow" after
            "standard") does not make the fits again that are there. `load_gaps` reads the finished run.
    Returns:
        The `Gaps` of the N data.
    Raises:
        CheckError: a model, posterior or data that cannot be right; it is a ValueError.
        RunError: `out` holds a run of another model, posterior, plan, seed or data, or of more of them, or other files;
            or it cannot be written to. It is a ValueError.
        TypeError: data that can only be iterated.
        ValueError: no data, an unknown plan, a kl_weight that is not positive, groups or ids of another number than N,
            ids that are not unique, a `refine_on` that is not between 2 and N, or no datum with finite values.
    """
    asked = measurement(model, q, x, plan, seed, kl_weight, objective, groups, ids, refine_on, refine_plan)
    unverified: list[str] = []
    if check:
        check_door(model, q, asked.x)
        unverified = density_notes(model, asked.x, seed)
    means = RunningMeans()
    with reporting(progress, asked.total, folder=out, means=means) as report:
        if out is None:
            return unkept_run(asked, report, unverified, means)
        follow(asked, out)
        with kept_run(asked, out, means=means) as run:
            gaps = run.measure(report, unverified)
            assert gaps is not None  # as this process had no share, but all blocks
            try:
                run.save(gaps)
            except (OSError, TypeError, ValueError) as error:
                warnings.warn(
                    f"the table could not be saved in {out} ({getattr(error, 'strerror', None) or error}); what was "
                    "measured is returned, and its blocks are kept there",
                    stacklevel=2,
                )
            return gaps
