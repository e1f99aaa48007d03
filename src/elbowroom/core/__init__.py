"""The foundation: seeds by meaning, data in blocks, files written whole, and the standard normal density."""

from .blocks import (
    Block,
    Blocks,
    Data,
    MapStyle,
    Rows,
    as_data,
    covariates,
    iterate_blocks,
    move,
    n_data,
    observed,
    read_rows,
    select_rows,
    unit_of,
)
from .densities import LOG_2PI, log_standard_normal
from .digest import digest_of
from .errors import kind_of, raised_here
from .files import PARTIAL_SUFFIX, write_atomically, write_new
from .plugins import adapter_for, installed_adapters
from .rng import BLOCK, forked, normal, orthogonal, seed_of, seeded, uniform

__all__ = [
    "BLOCK",
    "Block",
    "Blocks",
    "Data",
    "LOG_2PI",
    "MapStyle",
    "PARTIAL_SUFFIX",
    "Rows",
    "adapter_for",
    "as_data",
    "covariates",
    "digest_of",
    "forked",
    "installed_adapters",
    "iterate_blocks",
    "kind_of",
    "log_standard_normal",
    "move",
    "n_data",
    "normal",
    "observed",
    "orthogonal",
    "raised_here",
    "read_rows",
    "seed_of",
    "seeded",
    "select_rows",
    "uniform",
    "unit_of",
    "write_atomically",
    "write_new",
]
