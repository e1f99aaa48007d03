"""Networks of the paper's VAEs, fully connected and convolutional: an encoder net f(x) and a decoder net g(z).

    h_0 = input,    h_i = ELU(W_i h_{i-1} + b_i),    output = W_L h_{L-1} + b_L

The last layer is linear: the encoder's output holds the parameters of q(z|x), the decoder's the logits (or
the location) of p(x|z). The defaults are those of Cremer, Li and Duvenaud 2018, 784-200-200-(50 + 50) and
50-200-200-784; `hidden=(500, 500)` gives their larger encoder, `hidden=()` a linear one. Each network is a plain
`nn.Sequential`, whose weights torch initializes from the global random state; fork that state for a seeded network, as
`architecture.build` does.

Their convolutional VAE for CIFAR-10 has kernels of 4 and strides of 2, h_i = ELU(BatchNorm(conv(h_{i-1}))):

    n -> floor((n - 4) / 2) + 1            32 -> 15 -> 6 -> 2
    m -> 2 (m - 1) + 4 + output padding    2 -> 6 -> 15 -> 32, the output padding being 0, 1, 0

BatchNorm has running statistics, so measure in eval mode, as every estimator here does. Kernels lie in memory with
their channels last, which makes convolutions about a sixth faster.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

__all__ = ["conv_decoder", "conv_encoder", "mlp", "mlp_decoder", "mlp_encoder"]

KERNEL, STRIDE = 4, 2


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the widths `sizes`, from the input to the output, with ELU between them.

    A ValueError is raised unless `sizes` are two or more positive integers.

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
        layers += [nn.Linear(n_in, n_out), nn.ELU()]
    return nn.Sequential(*layers[:-1])


def mlp_encoder(
    n_in: int | Sequence[int],
    n_out: int,
    hidden: Sequence[int] = (200, 200),
) -> nn.Sequential:
    """An encoder (N, *event) -> (N, n_out) that flattens each datum and applies an MLP.

    `n_in` is the size or the shape of the event. For a family of the posterior, `n_out` is `family.context_size`: 2 D
    for a diagonal Gaussian.

    >>> import torch
    >>> mlp_encoder((28, 28), 100)(torch.zeros(5, 28, 28)).shape
    torch.Size([5, 100])
    """
    width = n_in if isinstance(n_in, int) else math.prod(n_in)
    return nn.Sequential(nn.Flatten(), *mlp([width, *hidden, n_out]))


def mlp_decoder(
    n_latent: int,
    n_out: int,
    hidden: Sequence[int] = (200, 200),
) -> nn.Sequential:
    """A decoder (R, n_latent) -> (R, n_out) from rows of latents to rows of likelihood parameters (Bernoulli: logits).

    >>> import torch
    >>> mlp_decoder(50, 784)(torch.zeros(3, 50)).shape
    torch.Size([3, 784])
    """
    return mlp([n_latent, *hidden, n_out])


def conv_encoder(
    n_out: int,
    channels: Sequence[int] = (64, 128, 256),
    n_channels_in: int = 3,
    size: int = 32,
) -> nn.Sequential:
    """An encoder (N, n_channels_in, size, size) -> (N, n_out) of convolutions, each with BatchNorm and ELU, and a last
    linear layer.

    Flat data (N, n_channels_in * size * size) are accepted too. `channels=(128, 256, 512)` gives the wide network. A
    ValueError is raised where the convolutions do not fit the image.

    >>> import torch
    >>> conv_encoder(100)(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 100])
    """
    sides = _sides(size, len(channels))
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, (n_channels_in, size, size))]
    for n_in, n_kernels in pairwise([n_channels_in, *channels]):
        layers += [nn.Conv2d(n_in, n_kernels, KERNEL, STRIDE), nn.BatchNorm2d(n_kernels), nn.ELU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * sides[-1] ** 2, n_out))
    return convert_conv2d_weight_memory_format(net, torch.channels_last)


def conv_decoder(
    n_latent: int,
    n_channels_out: int = 3,
    channels: Sequence[int] = (256, 128, 64),
    size: int = 32,
) -> nn.Sequential:
    """A decoder (R, n_latent) -> (R, n_channels_out, size, size): a linear layer, then transposed convolutions with
    BatchNorm and ELU between any two.

    It mirrors `conv_encoder` with the reversed `channels`; `channels=(512, 256, 128)` gives the wide network. A
    likelihood with `scale="decoder"` takes twice the channels of x. A ValueError is raised where the convolutions do
    not fit the image.

    >>> import torch
    >>> conv_decoder(50)(torch.zeros(3, 50)).shape
    torch.Size([3, 3, 32, 32])
    """
    sides = _sides(size, len(channels))[::-1]
    layers: list[nn.Module] = [
        nn.Linear(n_latent, channels[0] * sides[0] ** 2), nn.Unflatten(1, (channels[0], sides[0], sides[0])),
    ]  # fmt: skip
    for (n_in, n_kernels), (side, wanted) in zip(pairwise([*channels, n_channels_out]), pairwise(sides), strict=True):
        padding = wanted - (STRIDE * (side - 1) + KERNEL)
        layers += [
            nn.BatchNorm2d(n_in), nn.ELU(),
            nn.ConvTranspose2d(n_in, n_kernels, KERNEL, STRIDE, output_padding=padding),
        ]  # fmt: skip
    return convert_conv2d_weight_memory_format(nn.Sequential(*layers), torch.channels_last)


def _sides(size: int, n_layers: int) -> list[int]:
    """The side of the image before each convolution and after the last."""
    sides = [size]
    for _ in range(n_layers):
        sides.append((sides[-1] - KERNEL) // STRIDE + 1)
    if n_layers < 1 or sides[-1] < 1:
        raise ValueError(f"{n_layers} convolutions of kernel {KERNEL} and stride {STRIDE} do not fit {size} pixels")
    return sides


def _check_sizes(sizes: Sequence[int]) -> None:
    if len(sizes) < 2 or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"sizes must hold two or more positive integers, input to output; got {list(sizes)}")
