"""Local fits: the best member of a family for each single datum, found without an encoder."""

from .adam import adam_round
from .local import Fit, fit_block, fit_local, refine
from .multistart import MULTISTART, best_start
from .natural_gradients import natural_round, squared_norm
from .problem import Problem
from .shortfall import Assessment, assess, has_control
from .starts import better_start, prior_start, start_of

__all__ = [
    "Assessment",
    "Fit",
    "MULTISTART",
    "Problem",
    "adam_round",
    "assess",
    "best_start",
    "better_start",
    "fit_block",
    "fit_local",
    "has_control",
    "natural_round",
    "prior_start",
    "refine",
    "squared_norm",
    "start_of",
]
