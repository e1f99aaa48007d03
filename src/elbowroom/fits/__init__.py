"""Local fits: the best member of a family for each single datum, found without an encoder."""

from .adam import adam_round
from .local import Fit, Problem, fit_block, fit_local, refine
from .multistart import MULTISTART, best_start
from .natural_gradients import natural_round
from .starts import prior_start, start_of

__all__ = [
    "Fit",
    "MULTISTART",
    "Problem",
    "adam_round",
    "best_start",
    "fit_block",
    "fit_local",
    "natural_round",
    "prior_start",
    "refine",
    "start_of",
]
