r"""The small networks inside a flow. Their weights have a leading dimension: 1 if all data share them, N otherwise.

    h -> W2 elu(W1 h + U1 c + b1) + b2,    c the context: features of x

U1 c is absorbed into b1, which then has a row per datum, so *localizing* a shared network means copying it for each
datum. Parameters are a flat dict of tensors, all of which a fit treats alike.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import elu

LINEAR_SLOPE = 0.1  # the slope of the hidden units that a linear map uses

__all__ = [
    "Params",
    "absorb_context",
    "add_linear_map",
    "apply_network",
    "batched_matmul",
    "copy_per_datum",
    "initial_network",
]

Params: TypeAlias = dict[str, Tensor]


def initial_network(
    name: str, n_in: int, n_features: int, hidden: int, n_out: int, generator: torch.Generator
) -> Params:
    """A network with one hidden layer. Its last layer is zero, so its output starts at zero.

    Returns:
        The random first weights `{name}_w1` (1, n_in, hidden) and `{name}_u1` (1, n_features, hidden), and the zero
        `{name}_b1` (1, hidden), `{name}_w2` (1, hidden, n_out) and `{name}_b2` (1, n_out).
    """
    first = torch.randn(1, n_in, hidden, generator=generator) / math.sqrt(n_in)
    context = torch.randn(1, n_features, hidden, generator=generator) / math.sqrt(n_features)
    return {
        f"{name}_w1": first, f"{name}_u1": context, f"{name}_b1": torch.zeros(1, hidden),
        f"{name}_w2": torch.zeros(1, hidden, n_out), f"{name}_b2": torch.zeros(1, n_out),
    }  # fmt: skip


def apply_network(params: Params, name: str, h: Tensor) -> Tensor:
    """Apply the network `name`: h (S, N, I) -> (S, N, O)."""
    h = elu(batched_matmul(h, params[f"{name}_w1"]) + params[f"{name}_b1"])
    return batched_matmul(h, params[f"{name}_w2"]) + params[f"{name}_b2"]


def add_linear_map(params: Params, name: str, inner: Tensor, outer: Tensor, center: Tensor, offset: Tensor) -> None:
    """Make the network `name` of each datum compute (h - center) inner outer + offset, for h near the center.

    inner is (N, I, K), outer (N, K, O), center (N, I), and offset (N, O); K is at most the width of the network. Its
    first K hidden units then work where elu is linear, up to (h - center) inner = 1 / LINEAR_SLOPE; the others lose
    their part in the output.
    """
    k, weights = inner.shape[-1], params[f"{name}_w1"].clone()
    weights[..., :k] = LINEAR_SLOPE * inner
    bias, last = params[f"{name}_b1"].clone(), torch.zeros_like(params[f"{name}_w2"])
    bias[..., :k] = 1 - LINEAR_SLOPE * torch.einsum("ni,nik->nk", center, inner)
    last[:, :k] = outer / LINEAR_SLOPE
    params |= {f"{name}_w1": weights, f"{name}_b1": bias, f"{name}_w2": last}
    params[f"{name}_b2"] = offset - last[:, :k].sum(1)


def absorb_context(weights: Mapping[str, Tensor], features: Tensor | None) -> Params:
    """Absorb the features of x (N, F) into the first biases, and drop the context weights."""
    absorbed = {key: value for key, value in weights.items() if not key.endswith("_u1")}
    if features is not None:
        for key in weights:
            if key.endswith("_u1"):
                bias = key.replace("_u1", "_b1")
                absorbed[bias] = weights[bias] + features @ weights[key].squeeze(0)
    return absorbed


def copy_per_datum(params: Mapping[str, Tensor], n: int, like: Tensor | None = None) -> Params:
    """Copy shared parameters for each of n data, in the dtype and on the device of `like` if it is given."""
    copied = {key: value.expand(n, *value.shape[1:]).clone() for key, value in params.items()}
    return copied if like is None else {key: value.to(like) for key, value in copied.items()}


def batched_matmul(h: Tensor, weight: Tensor) -> Tensor:
    """Multiply h (S, N, I) by weight (B, I, O), where B is 1 or N: (S, N, O)."""
    return h @ weight.squeeze(0) if len(weight) == 1 else torch.bmm(h.transpose(0, 1), weight).transpose(0, 1)
