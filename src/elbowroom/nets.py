"""Networks of the paper's fully connected VAEs: an encoder net f(x) and a decoder net g(z).

    h_0 = input,    h_i = ELU(W_i h_{i-1} + b_i),    output = W_L h_{L-1} + b_L

The last layer is linear: the encoder's output holds the parameters of q(z|x), the decoder's the logits (or
the location) of p(x|z). Defaults are those of Cremer, Li and Duvenaud 2018, 784-200-200-(50 + 50) and
50-200-200-784; `hidden=(500, 500)` is their larger encoder, `hidden=()` a linear one. Each is a plain
`nn.Sequential`, so weights are drawn by torch's own initialization from the global random state: fork it (as
`train.build` does) for a seeded network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

__all__ = ["mlp", "mlp_decoder", "mlp_encoder"]


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ELU) -> nn.Sequential:
    """Linear layers of the widths `sizes`, first the input's, last the output's, `activation()` between them.

    >>> mlp([3, 4, 2])
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): ELU(alpha=1.0)
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    _check_sizes(sizes)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def mlp_encoder(
    n_in: int | Sequence[int],
    n_out: int,
    hidden: Sequence[int] = (200, 200),
    activation: Callable[[], nn.Module] = nn.ELU,
) -> nn.Sequential:
    """(N, *event) -> (N, n_out): flattens each datum, then an MLP. `n_in` is the event's size or its shape.

    For a family of the posterior, `n_out` is `family.context_size`: 2 D for a diagonal Gaussian.

    >>> import torch
    >>> mlp_encoder((28, 28), 100)(torch.zeros(5, 28, 28)).shape
    torch.Size([5, 100])
    """
    width = n_in if isinstance(n_in, int) else math.prod(n_in)
    return nn.Sequential(nn.Flatten(), *mlp([width, *hidden, n_out], activation))


def mlp_decoder(
    n_latent: int,
    n_out: int,
    hidden: Sequence[int] = (200, 200),
    activation: Callable[[], nn.Module] = nn.ELU,
) -> nn.Sequential:
    """(R, n_latent) -> (R, n_out): rows of latents to rows of likelihood parameters (Bernoulli: logits).

    >>> import torch
    >>> mlp_decoder(50, 784)(torch.zeros(3, 50)).shape
    torch.Size([3, 784])
    """
    return mlp([n_latent, *hidden, n_out], activation)


def _check_sizes(sizes: Sequence[int]) -> None:
    if len(sizes) < 2 or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"sizes must hold two or more positive integers, input to output; got {list(sizes)}")
