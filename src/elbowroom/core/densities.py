"""The density of the standard normal distribution, which priors, posteriors and bases of annealing share."""

import math

from torch import Tensor

__all__ = ["LOG_2PI", "log_standard_normal"]

LOG_2PI = math.log(2 * math.pi)


def log_standard_normal(u: Tensor) -> Tensor:
    """log N(u; 0, I) in nats, including its constant: (..., D) -> (...).

    >>> import torch
    >>> round(log_standard_normal(torch.zeros(2)).item(), 4) == round(-LOG_2PI, 4)
    True
    """
    return -0.5 * (u.square().sum(-1) + u.shape[-1] * LOG_2PI)
