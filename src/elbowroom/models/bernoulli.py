"""The log probability of bits, by products of sigmoids in place of a logarithm for each bit."""

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx
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
        return sum_events(x * logits) - sum_events(logits.relu()) + _log_product(logits.abs().sigmoid_())

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        """The gradient in the logits is x - sigmoid(l), and in x it is l."""
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, logits = saved
        (grad,) = grads
        grad = grad.reshape(*grad.shape, *[1] * (logits.ndim - 2))
        in_x = (grad * logits).sum(0) if ctx.needs_input_grad[0] else None
        return in_x, (x.to(logits.dtype) - torch.sigmoid(logits)) * grad

    @staticmethod
    def jvp(ctx: BackwardCFunction, *tangents: Tensor | None) -> Tensor:
        """The directional derivative, which forward-mode differentiation asks for."""
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, logits = saved
        along_x, along_logits = tangents
        terms = torch.zeros_like(logits) if along_x is None else along_x * logits
        if along_logits is not None:
            terms = terms + (x.to(logits.dtype) - torch.sigmoid(logits)) * along_logits
        return sum_events(terms)


def _log_product(factors: Tensor) -> Tensor:
    """The logarithm of the product of all numbers behind (S, N), which are from 1/2 to 1."""
    if factors.ndim == 2:
        return factors.log()
    factors = factors.flatten(2)
    whole = factors.shape[-1] // FACTORS * FACTORS
    value = factors[..., whole:].prod(-1).log()
    if whole:
        value = value + factors[..., :whole].unflatten(-1, (-1, FACTORS)).prod(-1).log().sum(-1)
    return value
