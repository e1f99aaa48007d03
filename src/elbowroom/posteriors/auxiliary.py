"""A flow with auxiliary variables, the flexible posterior of Cremer, Li and Duvenaud (2018)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..core import log_standard_normal
from .coupling import bounded_log_scale
from .family import Family
from .small_networks import Params, absorb_context, apply_network, copy_per_datum, initial_network

__all__ = ["AuxiliaryFlow"]


class AuxiliaryFlow(Family):
    r"""q_AF of Cremer, Li and Duvenaud (2018, section 3.2), after Ranganath et al. (2016) and Dinh et al. (2017).

        z0 ~ N(mean, scale^2),  v0 ~ q(v|z0),   n_steps times: v <- v s1(z) + m1(z),  z <- z s2(v) + m2(v)
        log q = log q(z0) + log q(v0|z0) - sum log s - log r(vT|zT)

    E[log p(x, z) - log q] is a lower bound of log p(x), but log q is not a density of z and so cannot be a base of AIS.
    In Eq. 11 of the paper, the T of the first factor should be 0, and there should be one determinant per step.

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

    def _heads(self, params: Params, name: str, read: Tensor) -> tuple[Tensor, Tensor]:
        location, raw = apply_network(params, name, read).chunk(2, dim=-1)
        return location, bounded_log_scale(raw)

    def _step(self, params: Params, name: str, read: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = apply_network(params, name, read).chunk(2, dim=-1)
        return (bounded_log_scale(raw) if self.scale == "exp" else logsigmoid(raw)), shift
