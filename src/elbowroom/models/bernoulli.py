"""The log probability of bits, by products of sigmoids in place of a logarithm for each bit."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import softplus

from .likelihood import sum_events

__all__ = ["bernoulli_log_prob"]

FACTORS = 112  # in a product, each from 1/2 to 1: the least normal number in single precision is 2^-126
PRECISIONS = (torch.float32, torch.float64)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x | logits) in nats, summed over bits: x (N, *event) in [0, 1], logits (S, N, *event) -> (S, N).

    On a CPU, log(1 + e^l) = max(l, 0) - log sigmoid(|l|), and the logarithms of many bits are one of their product.
    This takes less time, and is as exact as sums are: a factor next to 1 loses at most 6e-8 nats in single precision.
    """
    if logits.device.type == "cpu" and logits.dtype in PRECISIONS and not torch.compiler.is_compiling():
        value: Tensor = _ByProducts.apply(x, logits)
        return value
    return sum_events(x * logits) - sum_events(softplus(logits))


class _ByProducts(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, logits: Tensor) -> Tensor:
        nearer = logits.abs().sigmoid_()
        if nearer.ndim == 2:
            return x * logits - logits.relu() + nearer.log_()
        value = sum_events(x * logits) - sum_events(logits.relu())
        for factors in nearer.flatten(2).split(FACTORS, -1):
            value += factors.prod(-1).log_()
        return value

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        """The gradient in the logits is x - sigmoid(l), and in x it is l."""
        x, logits = ctx.saved_tensors
        (grad,) = grads
        grad = grad.reshape(*grad.shape, *[1] * (logits.ndim - 2))
        in_x = (grad * logits).sum(0) if ctx.needs_input_grad[0] else None
        return in_x, (x.to(logits.dtype) - torch.sigmoid(logits)) * grad
