"""The ladder as a dictionary that JSON can hold, for programs that need what the table shows to people."""

import math
from typing import Any

import numpy as np

from .estimate import Estimate
from .ladder import Ladder
from .outcomes import FLAG_WORDS
from .table import ladder_rows, rungs_beside

__all__ = ["ladder_summary"]


def ladder_summary(ladder: Ladder) -> dict[str, Any]:
    """The contents of a ladder's table as a dictionary, with means in nats but no single values.

    A number that is not finite is None. `Gaps.to_dict` describes the entries.
    """
    rows: list[dict[str, Any]] = []
    for row in ladder_rows(ladder):
        rows.append({"kind": "step" if row.is_step else "rung", **_numbers(row.name, row.estimate)})
        rows[-1]["mc_se_believed"] = not (row.reaches_evidence and bool(ladder.is_doubtful.any()))
        if row.is_step:
            rows[-1]["share"] = row.share
    for name, estimate in ladder.shortfall.items():
        for entry in rows:
            if entry["name"] == ladder.local[name].name:
                entry["shortfall"] = estimate.mean
    counts = {str(name): int((ladder.chosen == name).sum()) for name in np.unique(ladder.chosen)}
    return {
        "n": len(ladder),
        "n_excluded": ladder.n_excluded,
        "plan": ladder.plan,
        "seed": ladder.seed,
        "kl_weight": ladder.kl_weight,
        "family": ladder.family,
        "rows": rows,
        "beside": [_numbers(estimate.name, estimate) for estimate in rungs_beside(ladder)],
        "inference_gap": _numbers("inference gap", ladder.inference),
        "without_doubtful": _numbers("log p(x)", ladder.log_evidence.where(~ladder.is_doubtful)),
        "flags": {str(flag.name): int((ladder.flags & flag > 0).sum()) for flag in FLAG_WORDS},
        "fits": {name: fit.counts() for name, fit in ladder.fits.items()},
        "log_evidence_from": {ladder.estimators[name]: n for name, n in counts.items()},
        "work": sum(ladder.work.values()),
        "notes": list(ladder.notes),
    }


def _numbers(name: str, estimate: Estimate) -> dict[str, Any]:
    numbers = {"mean": estimate.mean, "se": estimate.se, "mc_se": estimate.mc_se}
    finite = {key: float(value) if math.isfinite(value) else None for key, value in numbers.items()}
    return {"name": name, "side": estimate.side, **finite}
