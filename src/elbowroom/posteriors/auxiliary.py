"""A flow with auxiliary variables, the flexible posterior of Cremer, Li and Duvenaud (2018)."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..core import log_standard_normal
from .affine import GAUSSIAN_PARAMS, scale_tril
from .coupling import bounded_log_scale, unbounded_log_scale
from .family import Budget, Family
from .gaussians import FullGaussian
from .small_networks import Params, absorb_context, add_linear_map, apply_network, copy_per_datum, initial_network

__all__ = ["AuxiliaryFlow"]

LARGEST = 1.8  # the largest log scale, up or down, with which a start uses a network whose log scales end at 2
OPEN = 3.0  # the input of the sigmoid where a start wants a scale near one


class AuxiliaryFlow(Family):
    r"""q_AF of Cremer, Li and Duvenaud (2018, section 3.2), after Ranganath et al. (2016) and Dinh et al. (2017).

        z0 ~ N(mean, scale^2),  v0 ~ q(v|z0),   n_steps times: v <- v s1(z) + m1(z),  z <- z s2(v) + m2(v)
        log q = log q(z0) + log q(v0|z0) - sum log s - log r(vT|zT)

    E[log p(x, z) - log q] is a lower bound of log p(x), but log q is not a density of z and so cannot be a base of AIS.
    In Eq. 11 of the paper, the T of the first factor should be 0, and there should be one determinant per step.

    A local fit starts at a full Gaussian, which is a member if `hidden` is at least D, or at the encoder's answer where
    that is better.

    An encoder emits the mean, the log-variance and the features: 2 D + n_features numbers per datum.

    Args:
        latent_shape: D, or a tuple, which is flattened to D internally.
        n_steps: the number of steps, each of which updates v and then z.
        hidden: the width of the hidden layer of each network.
        n_features: the number of features of x that the networks read.
        scale: "exp" can expand and starts at the identity. "sigmoid" is the choice of the paper, which can only
            contract and therefore cannot start at the identity.
    Raises:
        ValueError: another scale, or a `latent_shape` that is not positive.
    """

    name = "auxiliary"
    members = "an auxiliary flow"
    budget = Budget(n_steps=80, n_samples=16, learning_rate=0.01, decay=0.1, max_rounds=7, n_evaluation=256)
    has_density = False

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        n_steps: int = 2,
        hidden: int = 200,
        n_features: int = 50,
        scale: str = "exp",
    ) -> None:
        super().__init__(latent_shape)
        if scale not in ("exp", "sigmoid"):
            raise ValueError(f'scale must be "exp" or "sigmoid"; got {scale!r}')
        self.n_steps, self.hidden, self.n_features, self.scale = n_steps, hidden, n_features, scale
        self.noise_size = 2 * self.size
        self.context_size = 2 * self.size + n_features

    def shared_weights(self, generator: torch.Generator) -> Params:
        names = ["forward", "reverse", *(f"{kind}{i}" for i in range(self.n_steps) for kind in ("v", "z"))]
        weights: Params = {}
        for name in names:
            weights |= initial_network(name, self.size, self.n_features, self.hidden, 2 * self.size, generator)
        return weights

    def condition(self, weights: Mapping[str, Tensor], context: Tensor) -> Params:
        mean, log_var, features = context.split([self.size, self.size, self.n_features], dim=-1)
        return {"mean": mean, "log_scale": 0.5 * log_var} | absorb_context(weights, features)

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        noise_z, noise_v = noise.chunk(2, dim=-1)
        z = params["mean"] + params["log_scale"].exp() * noise_z
        location, log_scale = self._heads(params, "forward", z)
        v = location + log_scale.exp() * noise_v
        log_q = log_standard_normal(noise_z) - params["log_scale"].sum(-1)
        log_q = log_q + log_standard_normal(noise_v) - log_scale.sum(-1)
        for i in range(self.n_steps):
            log_s, shift = self._step(params, f"v{i}", z)
            v, log_q = v * log_s.exp() + shift, log_q - log_s.sum(-1)
            log_s, shift = self._step(params, f"z{i}", v)
            z, log_q = z * log_s.exp() + shift, log_q - log_s.sum(-1)
        location, log_scale = self._heads(params, "reverse", z)
        log_r = log_standard_normal((v - location) * torch.exp(-log_scale)) - log_scale.sum(-1)
        return z, log_q - log_r

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        weights = absorb_context(self.shared_weights(generator), None)
        return {"mean": mean, "log_scale": log_scale} | copy_per_datum(weights, len(mean), mean)

    def keeps(self, other: Family) -> bool:
        return super().keeps(other) or (isinstance(other, FullGaussian) and self.hidden >= self.size)

    def started_at(self, start: Params, generator: torch.Generator) -> Params:
        if set(start) != GAUSSIAN_PARAMS or self.hidden < self.size:
            return super().started_at(start, generator)
        return self._at_full(start, self.at(start["mean"], start["log_scale"], generator))

    def _at_full(self, gaussian: Params, params: Params) -> Params:
        r"""The member whose z has a full Gaussian N(mean, S), and whose bound is that of this Gaussian.

        With S = E + M M', E diagonal and v ~ N(0, I), z = mean + E^(1/2) e + M v has this law, and v given z is
        N(M' S^-1 (z - mean), I - M' S^-1 M). Any rotation of the columns of M leaves S as it is, and one makes that
        covariance diagonal, so that r(v|z) can be exact. E = a / diag(S^-1) with the largest a. Where the standard
        deviations of v given z are too small for r, the bound is lower than that of the Gaussian.
        """
        tril = scale_tril(gaussian)
        covariance, precision = tril @ tril.mT, torch.cholesky_inverse(tril)
        root = precision.diagonal(dim1=-2, dim2=-1).rsqrt()
        correlation = root[..., None] * precision * root[..., None, :]
        alpha = 0.999 / torch.linalg.eigvalsh(correlation)[:, -1:]
        diagonal = alpha.sqrt() * root
        values, vectors = torch.linalg.eigh(covariance - torch.diag_embed(diagonal**2))
        mixing = vectors * values.clamp(min=0).sqrt()[..., None, :]
        explained, rotation = torch.linalg.eigh(mixing.mT @ precision @ mixing)
        mixing = mixing @ rotation
        log_z, log_v = self._step_scales(params)
        zeros = torch.zeros_like(params["mean"])
        identity = torch.eye(self.size).to(mixing).expand_as(mixing)
        last, nothing = f"z{self.n_steps - 1}", torch.zeros_like(mixing)
        outer = torch.cat([nothing, mixing.mT], -1)
        add_linear_map(params, last, math.exp(-log_v) * identity, outer, zeros, params[f"{last}_b2"])
        log_left = 0.5 * torch.log((1 - explained).clamp(min=1e-12)) + log_v
        offset = torch.cat([zeros, unbounded_log_scale(log_left.clamp(-LARGEST, LARGEST))], -1)
        outer = torch.cat([math.exp(log_v) * identity, nothing], -1)
        add_linear_map(params, "reverse", precision @ mixing, outer, gaussian["mean"], offset)
        return params | {"mean": gaussian["mean"] * math.exp(-log_z), "log_scale": diagonal.log() - log_z}

    def _step_scales(self, params: Params) -> tuple[float, float]:
        """Set constant scales of the steps, and return the logarithms of their products for z and for v.

        Steps that can expand make v as wide as r(v|z) can, so that small deviations of v given z are within its reach.
        """
        of_z, of_v = (0.0, 2 * math.atanh(LARGEST / self.n_steps / 2)) if self.scale == "exp" else (OPEN, OPEN)
        for i in range(self.n_steps):
            params[f"z{i}_b2"][:, : self.size] = of_z
            params[f"v{i}_b2"][:, : self.size] = of_v
        if self.scale == "exp":
            return 0.0, LARGEST
        return (-self.n_steps * math.log1p(math.exp(-OPEN)),) * 2

    def _heads(self, params: Params, name: str, read: Tensor) -> tuple[Tensor, Tensor]:
        location, raw = apply_network(params, name, read).chunk(2, dim=-1)
        return location, bounded_log_scale(raw)

    def _step(self, params: Params, name: str, read: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = apply_network(params, name, read).chunk(2, dim=-1)
        return (bounded_log_scale(raw) if self.scale == "exp" else logsigmoid(raw)), shift
