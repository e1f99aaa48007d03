"""What a run folder keeps of a measurement while it goes on, and what makes it the same measurement later."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..core import BLOCK, MapStyle, Rows, forked, normal, read_rows, seeded
from ..evidence import prepared_pair
from ..models import LatentModel, latent_size, log_joint
from ..posteriors import Local, PosteriorLike
from ..results import BLOCKS, SCHEMA, Gaps, Parts, refuse_occupied, write_run
from .plan import Plan

__all__ = ["kept_parts", "save_finished"]


def kept_parts(
    out: str | Path | None,
    model: LatentModel,
    q: PosteriorLike,
    x: Rows | MapStyle,
    kl_weight: float,
    description: Mapping[str, Any],
    phase: str,
    plan: Plan,
    seed: int,
    more: Mapping[str, Any] | None = None,
) -> Parts | None:
    """The measured blocks of one phase in a run folder, which may hold some of them already; None without a folder.

    `more` adds to what makes it the same measurement.

    Raises:
        RunError: the folder holds a run that was saved otherwise, another measurement, or other files, or cannot be
            written to.
    """
    if out is None:
        return None
    blocks = Path(out) / BLOCKS
    refuse_occupied(Path(out), overwrite=blocks.is_dir())
    identity = _identity(model, q, x, plan, seed, kl_weight, description)
    return Parts(blocks / phase, {**identity, **(more or {})})


def save_finished(gaps: Gaps, out: str | Path) -> None:
    """Write the table of a run whose blocks are kept. If that fails, a UserWarning says so, and nothing is lost."""
    try:
        write_run(out, *gaps.to_columns(), overwrite=True, keep_blocks=True)
    except OSError as error:
        warnings.warn(
            f"the table could not be saved in {out} ({error.strerror or error}); what was measured is returned, and "
            "the same call saves it without measuring again what is kept there",
            stacklevel=3,
        )


def _identity(
    model: LatentModel,
    q: PosteriorLike,
    x: Rows | MapStyle,
    plan: Plan,
    seed: int,
    kl_weight: float,
    description: Mapping[str, Any],
) -> dict[str, Any]:
    """What must be the same for blocks of two measurements to be those of one, but the data, which each block knows.

    Weights are known by their hash. What a model's own code does is known by log p(x, z) and by a draw of q and its log
    density, all for the first datum.
    """
    first = torch.arange(1)
    own = q.rows(first) if isinstance(q, Local) else q
    with prepared_pair(model, own, read_rows(x, first), size=1) as (posterior, blocks), forked(seed), torch.no_grad():
        block = next(blocks)
        z = normal((1, 1, latent_size(model)), seeded(seed, "identity"), block.like)
        dist = posterior(block.x)
        drawn, log_q = dist.rsample_and_log_q(
            normal((1, 1, dist.noise_size), seeded(seed, "identity of q"), block.like)
        )
        joint = log_joint(model, block.x, z)
    return {
        "schema": SCHEMA,
        "version of elbowroom": _own_version(),
        "model": description["model"],
        "posterior": description["posterior"],
        "log p(x, z)": [float(joint)],
        "draw of q": [float(log_q), *drawn.flatten().tolist()],
        "plan": asdict(plan),
        "seed": seed,
        "kl_weight": kl_weight,
        "block size": BLOCK,
    }


def _own_version() -> str | None:
    try:
        return version("elbowroom")
    except PackageNotFoundError:
        return None
