"""A flow of affine couplings around a Gaussian, with the default budget of its local fit."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core import log_standard_normal
from .affine import AffineMap, scale_tril
from .family import Budget, Family
from .gaussians import MAX_FULL_SIZE, FullGaussian
from .small_networks import (
    Params,
    absorb_context,
    apply_network,
    batched_matmul,
    copy_per_datum,
    initial_network,
)

__all__ = ["CouplingFlow", "bounded_log_scale", "unbounded_log_scale"]

RUNG_COUPLINGS = 8  # couplings of the flow that is fitted as a rung
RUNG_RANK = 16  # directions in which that flow may depart from a Gaussian


class CouplingFlow(Family):
    """z = mean + L R f(noise), where f is a stack of affine couplings (Dinh, Sohl-Dickstein and Bengio 2017).

    Each coupling transforms one half of the first `rank` coordinates given the other half,
    u_a <- u_a exp(s(u_b)) + t(u_b), with |s| < 2, and f starts at the identity. In an amortized posterior L is diagonal
    and R = I. In a local fit L is lower triangular and R is a fixed rotation, so that the fit can start at the full
    Gaussian with the most important coordinates first.

    An encoder emits the mean, the log-variance and the features: 2 D + n_features numbers per datum.

    Args:
        latent_shape: D, or a tuple, which is flattened to D internally.
        n_couplings: the number of couplings.
        hidden: the width of the hidden layer of each coupling's network.
        n_features: the number of features of x that the networks read.
        rank: the number of coordinates that the couplings transform; None for all.
    Raises:
        ValueError: fewer than 2 coordinates to split, or a `latent_shape` that is not positive.
    """

    name = "flow"
    place = 3
    members, assumption, remedy = "a coupling flow", "affine couplings", "a richer flow"
    step = "couplings"
    min_size, max_size = 2, MAX_FULL_SIZE
    budget = Budget(n_steps=500, n_samples=16, learning_rate=0.005, max_rounds=4, tolerance=0.05, n_evaluation=512)
    fixed = ("rotation",)

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        n_couplings: int = 4,
        hidden: int = 32,
        n_features: int = 32,
        rank: int | None = None,
    ) -> None:
        super().__init__(latent_shape)
        self.rank = self.size if rank is None else min(rank, self.size)
        if self.rank < 2:
            raise ValueError(f"a coupling flow needs at least 2 latent dimensions to split; got {self.rank}")
        self.n_couplings, self.hidden, self.n_features = n_couplings, hidden, n_features
        self.context_size = 2 * self.size + n_features
        # 0, 2, 4, 6.. and 1, 3, 5, 7..; then 0, 3, 4, 7.. and 1, 2, 5, 6..: both halves hold leading coordinates
        index = torch.arange(self.rank)
        firsts = (index % 2 == 0, (index + 1) // 2 % 2 == 0)
        beyond = torch.arange(self.rank, self.size)
        self._sizes = [(int(first.sum()), int((~first).sum()), len(beyond)) for first in firsts]
        self._orders = [torch.cat([index[first], index[~first], beyond]) for first in firsts]
        self._places = [order.argsort() for order in self._orders]

    @classmethod
    def for_rung(cls, size: int) -> Family | None:
        if super().for_rung(size) is None:
            return None
        return cls(size, n_couplings=RUNG_COUPLINGS, rank=RUNG_RANK)

    def shared_weights(self, generator: torch.Generator) -> Params:
        weights: Params = {}
        for i in range(self.n_couplings):
            moved, read = self._sizes[i // 2 % 2][:2] if i % 2 == 0 else self._sizes[i // 2 % 2][1::-1]
            weights |= initial_network(f"coupling{i}", read, self.n_features, self.hidden, 2 * moved, generator)
        return weights

    def condition(self, weights: Mapping[str, Tensor], context: Tensor) -> Params:
        mean, log_var, features = context.split([self.size, self.size, self.n_features], dim=-1)
        return {"mean": mean, "log_scale": 0.5 * log_var} | absorb_context(weights, features)

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        u, log_q = noise, log_standard_normal(noise)
        for i in range(0, self.n_couplings, 2):
            a, b, beyond = self._split(i, u)
            log_s, t = self._coupling(params, i, b)
            a, log_q = a * log_s.exp() + t, log_q - log_s.sum(-1)
            if i + 1 < self.n_couplings:
                log_s, t = self._coupling(params, i + 1, a)
                b, log_q = b * log_s.exp() + t, log_q - log_s.sum(-1)
            u = self._join(i, a, b, beyond)
        return _affine(params, u), log_q - params["log_scale"].sum(-1)

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        u = _affine_inverse(params, z)
        log_det = params["log_scale"].sum(-1)
        for i in reversed(range(0, self.n_couplings, 2)):
            a, b, beyond = self._split(i, u)
            if i + 1 < self.n_couplings:
                log_s, t = self._coupling(params, i + 1, a)
                b, log_det = (b - t) * torch.exp(-log_s), log_det + log_s.sum(-1)
            log_s, t = self._coupling(params, i, b)
            a, log_det = (a - t) * torch.exp(-log_s), log_det + log_s.sum(-1)
            u = self._join(i, a, b, beyond)
        return log_standard_normal(u) - log_det

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        gaussian = FullGaussian(self.latent_shape).at(mean, log_scale, generator)
        rotation = torch.eye(self.size).to(mean).expand_as(gaussian["lower"])
        weights = absorb_context(self.shared_weights(generator), None)
        return gaussian | {"rotation": rotation} | copy_per_datum(weights, len(mean), mean)

    def keeps(self, other: Family) -> bool:
        return super().keeps(other) or isinstance(other, FullGaussian)

    def frame(self, params: Params) -> AffineMap | None:
        return AffineMap.of_gaussian(params)

    def _coupling(self, params: Params, i: int, read: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = apply_network(params, f"coupling{i}", read).chunk(2, dim=-1)
        return bounded_log_scale(raw), t

    def _split(self, i: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two halves between which couplings i and i + 1 work, i even, and the coordinates beyond the rank."""
        kind = i // 2 % 2
        a, b, beyond = u.index_select(-1, self._orders[kind].to(u.device)).split(self._sizes[kind], -1)
        return a, b, beyond

    def _join(self, i: int, *parts: Tensor) -> Tensor:
        """The inverse of `_split`."""
        return torch.cat(parts, -1).index_select(-1, self._places[i // 2 % 2].to(parts[0].device))


def bounded_log_scale(raw: Tensor) -> Tensor:
    """A log scale between -2 and 2, zero at zero with slope one, so that a large step cannot overflow."""
    return 2.0 * torch.tanh(0.5 * raw)


def unbounded_log_scale(log_scale: Tensor) -> Tensor:
    """The inverse of `bounded_log_scale`."""
    return 2.0 * torch.atanh(0.5 * log_scale)


def _affine(params: Params, u: Tensor) -> Tensor:
    if "lower" not in params:
        return params["mean"] + params["log_scale"].exp() * u
    scale = scale_tril(params)
    if "rotation" in params:
        scale = scale @ params["rotation"]
    return params["mean"] + batched_matmul(u, scale.mT)


def _affine_inverse(params: Params, z: Tensor) -> Tensor:
    if "lower" not in params:
        return (z - params["mean"]) * torch.exp(-params["log_scale"])
    turned = AffineMap.of_gaussian(params).inverse(z)
    return batched_matmul(turned, params["rotation"]) if "rotation" in params else turned
