r"""Amortized posteriors that are flows of the package zuko (Rozet et al. 2022).

    z = mean + scale T(noise; c),    log q(z|x) = log N(noise; 0, I) - log |det dT/dnoise| - sum log scale

An encoder emits the mean, the log-variance and the features c, which the networks of T read. T is any of zuko's lazy
transforms, or one of these by name:

    "iaf"   affine and autoregressive in the noise (Kingma et al. 2016)
    "nsf"   splines, autoregressive in the noise (Durkan et al. 2019)
    "maf"   affine and autoregressive in z (Papamakarios, Pavlakou and Murray 2017)

For "iaf" and "nsf", a draw with its log q takes one pass through each network, and log q of a given z takes D passes in
sequence; for "maf" it is the other way round. Training, every bound and importance sampling need draws, so with 50
latents "maf" costs about 50 times as much.

The local optimum of these flows is not fitted (`family` is None), so the ladder shows the inference gap as one step.
zuko is an optional dependency that is imported when a posterior is built by name: ``pip install elbowroom[flows]``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributions, nn

from ..core import Rows, forked, log_standard_normal
from ..models import as_shape, n_parameters
from .posterior import encoder_context

__all__ = ["ZUKO_FEATURES", "ZUKO_KINDS", "ZukoPosterior", "zuko_posterior"]

ZUKO_KINDS = ("iaf", "nsf", "maf")
ZUKO_FEATURES = 32


class ZukoPosterior(nn.Module):
    """q(z|x) whose shape is a zuko flow.

    Args:
        net: x (N, *event) -> (N, 2 D + n_features), or a tuple of tensors that concatenate to it: mean, log-variance,
            features.
        transform: a zuko lazy transform from noise to z with a context of n_features. For an autoregressive zuko flow,
            `flow.transform` draws in one pass, and `flow.transform.inv` is the flow as zuko defines it.
        latent_shape: D, or a tuple, which is flattened to D internally.
        n_features: the number of features of x that the transform's networks read.
        condition: the names of tensors in x that are passed to `net` as keywords; x is then a mapping.
    Raises:
        ValueError: a `latent_shape` that is not positive.
    """

    family = None
    name = "zuko"

    def __init__(
        self,
        net: nn.Module | Callable[..., Any],
        transform: nn.Module,
        latent_shape: int | Sequence[int],
        n_features: int,
        condition: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.net, self.transform, self.condition = net, transform, tuple(condition)
        self.size, self.n_features = math.prod(as_shape(latent_shape)), n_features
        self.context_size = 2 * self.size + n_features

    def extra_repr(self) -> str:
        """The numbers of latents and parameters, which torch prints before the networks."""
        return f"{self.size} latents, {n_parameters(self):,} parameters"

    def forward(self, x: Rows) -> "ZukoDistribution":
        """The posterior of each of the N data. ValueError if `net` does not emit 2 D + n_features numbers per datum."""
        context = encoder_context(self.net, x, self.condition, self)
        mean, log_var, features = context.split([self.size, self.size, self.n_features], dim=-1)
        return ZukoDistribution(mean, 0.5 * log_var, self.transform(features))

    def rows(self, index: Tensor) -> "ZukoPosterior":
        """The posterior itself, since an encoder serves any rows."""
        return self


@dataclass(frozen=True)
class ZukoDistribution:
    """One distribution per datum, from the mean and log scale, each (N, D), and the transform of the noise."""

    mean: Tensor
    log_scale: Tensor
    transform: Any

    @property
    def noise_size(self) -> int:
        return self.mean.shape[-1]

    @property
    def has_density(self) -> bool:
        return bool(self.transform.bijective)

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise (S, N, D) to z (S, N, D) and log q in nats (S, N)."""
        u, log_det = self.transform.call_and_ladj(noise)
        z = self.mean + self.log_scale.exp() * u
        return z, log_standard_normal(noise) - log_det - self.log_scale.sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N)."""
        noise, log_det = self.transform.inv.call_and_ladj((z - self.mean) * torch.exp(-self.log_scale))
        return log_standard_normal(noise) + log_det - self.log_scale.sum(-1)


def zuko_posterior(
    kind: str,
    net: nn.Module | Callable[..., Any],
    latent_shape: int | Sequence[int],
    n_features: int = ZUKO_FEATURES,
    n_transforms: int = 3,
    hidden: Sequence[int] = (64, 64),
    condition: Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> ZukoPosterior:
    """An amortized "iaf", "nsf" or "maf" that starts at the diagonal Gaussian of the encoder's mean and log-variance.

    Args:
        kind: "iaf", "nsf" or "maf".
        net, latent_shape, n_features, condition: as in `ZukoPosterior`.
        n_transforms: the number of layers of the flow.
        hidden: the widths of the hidden layers of each layer's network.
        seed: the seed of the weights of those networks.
        options: further options of zuko's MAF or NSF, such as ``bins=16``.
    Raises:
        ImportError: zuko is not installed.
        ValueError: another kind, or a `latent_shape` that is not positive.
    """
    if kind not in ZUKO_KINDS:
        raise ValueError(f"kind must be one of {ZUKO_KINDS}; got {kind!r}")
    zuko, shape = _zuko(), as_shape(latent_shape)
    make = zuko.flows.NSF if kind == "nsf" else zuko.flows.MAF
    with forked(seed):
        flow = make(
            math.prod(shape), n_features, transforms=n_transforms, hidden_features=tuple(hidden), activation=nn.ELU,
            **options,
        )  # fmt: skip
    for layer in flow.transform.transforms:  # a network that answers zero makes an identity
        nn.init.zeros_(layer.hyper[-1].weight)
        nn.init.zeros_(layer.hyper[-1].bias)
    transform = flow.transform.inv if kind == "maf" else flow.transform
    return ZukoPosterior(net, transform, shape, n_features, condition)


def _zuko() -> Any:
    """zuko, imported on demand. Its import disables the validation of all torch distributions, which is restored."""
    before = distributions.Distribution._validate_args
    try:
        import zuko
    except ImportError as error:
        raise ImportError(f"flows by name need zuko ({error}): pip install elbowroom[flows]") from None
    finally:
        distributions.Distribution.set_default_validate_args(before)
    return zuko
