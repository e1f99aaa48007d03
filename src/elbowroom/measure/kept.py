"""What a run folder keeps of a measurement while it goes on, and what makes it the same measurement later."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..core import BLOCK, MapStyle, Rows, forked, n_data, normal, read_rows, seeded
from ..evidence import prepared_pair
from ..models import LatentModel, latent_size, log_joint
from ..posteriors import Local, PosteriorLike
from ..results import BLOCKS, SCHEMA, Gaps, Parts, RunError, claimed, refuse_occupied, write_run

__all__ = ["keeping", "save_finished"]

PartsOf: TypeAlias = Callable[[str, int], Parts | None]  # (phase, number of data)
ROWS_OF_PROBE = 8  # with a single row some decoders lose a dimension


@contextmanager
def keeping(
    out: str | Path | None, model: LatentModel, q: PosteriorLike, x: Rows | MapStyle, provenance: Mapping[str, Any]
) -> Iterator[PartsOf]:
    """A context that has claimed a run folder and gives the measured blocks of a phase; without a folder, None.

    Args:
        provenance: what `described` says of model, q and x, with the arguments and the plans.
    Raises:
        RunError: the folder holds a run that was saved otherwise, another measurement, or other files, or cannot be
            written to, or another process measures into it.
    """
    if out is None:
        yield lambda phase, n: None
        return
    folder = Path(out)
    try:
        refuse_occupied(folder, overwrite=(folder / BLOCKS).is_dir(), keep_blocks=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to ({error.strerror or error}); nothing was measured. Name another folder."
        ) from None
    with claimed(folder):
        identity, probe = _identity(provenance, n_data(x)), _probe(model, q, x)

        def parts(phase: str, n: int) -> Parts:
            return Parts(folder / BLOCKS / phase, {**identity, "phase": phase}, probe, -(-n // BLOCK))

        yield parts


def save_finished(gaps: Gaps, out: str | Path) -> None:
    """Write the table of a run whose blocks are kept. If that fails, a UserWarning says so, and nothing is lost."""
    try:
        write_run(out, *gaps.to_columns(), overwrite=True, keep_blocks=True)
    except (OSError, TypeError, ValueError) as error:  # of the disk, or of groups and labels that no table can hold
        warnings.warn(
            f"the table could not be saved in {out} ({getattr(error, 'strerror', None) or error}); what was measured "
            "is returned, and its blocks are kept there",
            stacklevel=3,
        )


def _identity(provenance: Mapping[str, Any], n: int) -> dict[str, Any]:
    """What must be the same for blocks of two measurements to be those of one, but the data, which each block knows."""
    arguments = provenance["arguments"]
    refined = arguments["refine_on"]
    return {
        "schema": SCHEMA,
        "version of elbowroom": _own_version(),
        "block size": BLOCK,
        "model": provenance["model"],
        "posterior": provenance["posterior"],
        "plan": provenance["plans"],
        "seed": int(arguments["seed"]),
        "kl_weight": float(arguments["kl_weight"]),
        "number of refined data and of all": None if refined is None else [int(refined), n],
    }


def _probe(model: LatentModel, q: PosteriorLike, x: Rows | MapStyle) -> dict[str, list[float]]:
    """Numbers that the code of a model and a q decide: log p(x, z) of the first datum, a draw of its q, and log q."""
    first = torch.arange(min(n_data(x), ROWS_OF_PROBE))
    own, head = q.rows(first) if isinstance(q, Local) else q, read_rows(x, first)
    with prepared_pair(model, own, head, size=len(first)) as (posterior, blocks), forked(0), torch.no_grad():
        block = next(blocks)
        z = normal((2, len(first), latent_size(model)), seeded(0, "probe"), block.like, data_axis=1)
        joint, dist = log_joint(model, block.x, z), posterior(block.x)
        noise = normal((2, len(first), dist.noise_size), seeded(0, "probe of q"), block.like, data_axis=1)
        drawn, log_q = dist.rsample_and_log_q(noise)
    return {"log p(x, z)": joint[:, 0].tolist(), "draw of q": [*log_q[:, 0].tolist(), *drawn[0, 0].tolist()]}


def _own_version() -> str | None:
    try:
        return version("elbowroom")
    except PackageNotFoundError:
        return None
