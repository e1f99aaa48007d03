r"""Families of approximate posteriors: how parameters and noise become z and log q.

    family        maps parameters and noise (S, N, E) to z (S, N, D) and log q (S, N)

Parameters are a dict of tensors with a leading *bank* dimension: 1 where all data share them, N where each datum has
its own (`banks`); so one implementation of each flow serves the amortized and the local posterior.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .banks import Params, bank_matmul, fold, mlp, mlp_bank, spread
from .model import as_shape

__all__ = [
    "AuxiliaryFlow",
    "CouplingFlow",
    "DiagonalGaussian",
    "Family",
    "FullGaussian",
    "Params",
    "Whitening",
    "as_family",
    "scale_tril",
    "spread",
]

LOG_2PI = math.log(2 * math.pi)


class Family(ABC):
    """A family of distributions of z.

    Attributes:
        name: "diagonal", "full", "flow" or "auxiliary".
        context_size: how many numbers an encoder must emit for each datum.
        noise_size: E, how many standard normals make one z.
        has_density: whether log q is a density of z, and so can be a base of importance sampling.
        fixed: parameters that no fit may move.
    """

    name: str
    context_size: int
    noise_size: int
    has_density = True
    fixed: tuple[str, ...] = ()

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        self.latent_shape = as_shape(latent_shape)
        self.size = math.prod(self.latent_shape)
        self.noise_size = self.size

    def bank(self, generator: torch.Generator) -> Params:
        """Initial shared parameters, each with a leading 1; none for Gaussians."""
        return {}

    @abstractmethod
    def condition(self, bank: Mapping[str, Tensor], context: Tensor) -> Params:
        """Parameters of each datum's member from the shared bank and the encoder's answer (N, context_size)."""

    @abstractmethod
    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal noise (S, N, E) -> z (S, N, D) and log q in nats (S, N), differentiable in both."""

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N)."""
        raise TypeError(f"the {self.name} family has no density of z")

    @abstractmethod
    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        """Per-datum parameters of the member closest to the diagonal Gaussian with mean and log scale (N, D)."""


class DiagonalGaussian(Family):
    """N(mean, diag(scale^2)): independent latents. An encoder emits (mean, log-variance), 2 D numbers."""

    name = "diagonal"

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        super().__init__(latent_shape)
        self.context_size = 2 * self.size

    def condition(self, bank: Mapping[str, Tensor], context: Tensor) -> Params:
        mean, log_var = context.chunk(2, dim=-1)
        return {"mean": mean, "log_scale": 0.5 * log_var}

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = params["mean"] + params["log_scale"].exp() * noise
        return z, _standard_normal(noise) - params["log_scale"].sum(-1)

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        noise = (z - params["mean"]) * torch.exp(-params["log_scale"])
        return _standard_normal(noise) - params["log_scale"].sum(-1)

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        return {"mean": mean, "log_scale": log_scale}


class FullGaussian(Family):
    """N(mean, L L') with L lower triangular. An encoder emits mean, log-variance of L's diagonal, and L's strict
    lower part.
    """

    name = "full"

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        super().__init__(latent_shape)
        self.context_size = 2 * self.size + self.size * (self.size - 1) // 2

    def condition(self, bank: Mapping[str, Tensor], context: Tensor) -> Params:
        d = self.size
        mean, log_var, lower = context.split([d, d, context.shape[-1] - 2 * d], dim=-1)
        rows, columns = torch.tril_indices(d, d, offset=-1, device=context.device)
        full = context.new_zeros(len(context), d, d).index_put(
            (torch.arange(len(context))[:, None], rows, columns), lower
        )
        return {"mean": mean, "log_scale": 0.5 * log_var, "lower": full}

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = params["mean"] + bank_matmul(noise, scale_tril(params).mT)
        return z, _standard_normal(noise) - params["log_scale"].sum(-1)

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        centered = (z - params["mean"]).movedim(0, -1)  # (N, D, S)
        noise = torch.linalg.solve_triangular(scale_tril(params), centered, upper=False).movedim(-1, 0)
        return _standard_normal(noise) - params["log_scale"].sum(-1)

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        n, d = mean.shape
        return {"mean": mean, "log_scale": log_scale, "lower": mean.new_zeros(n, d, d)}


class CouplingFlow(Family):
    """z = mean + L R f(noise), f a stack of affine couplings (Dinh, Sohl-Dickstein and Bengio 2017) that starts at the
    identity.

    Each coupling moves one half of the first `rank` coordinates (None: of all) and reads the other,
    u_a <- u_a exp(s(u_b)) + t(u_b), with |s| < 2. When amortized L is diagonal and R = I; when local L is lower
    triangular and R a rotation that stays as it is, so that a fit can start at the full Gaussian with the coordinates
    that matter first.
    """

    name = "flow"
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

    def _split(self, i: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two halves between which couplings i and i + 1 work, i even, and the coordinates beyond the rank."""
        kind = i // 2 % 2
        a, b, beyond = u.index_select(-1, self._orders[kind].to(u.device)).split(self._sizes[kind], -1)
        return a, b, beyond

    def _join(self, i: int, *parts: Tensor) -> Tensor:
        """`_split` undone."""
        return torch.cat(parts, -1).index_select(-1, self._places[i // 2 % 2].to(parts[0].device))

    def bank(self, generator: torch.Generator) -> Params:
        made: Params = {}
        for i in range(self.n_couplings):
            moved, read = self._sizes[i // 2 % 2][:2] if i % 2 == 0 else self._sizes[i // 2 % 2][1::-1]
            made |= mlp_bank(f"coupling{i}", read, self.n_features, self.hidden, 2 * moved, generator)
        return made

    def condition(self, bank: Mapping[str, Tensor], context: Tensor) -> Params:
        mean, log_var, features = context.split([self.size, self.size, self.n_features], dim=-1)
        return {"mean": mean, "log_scale": 0.5 * log_var} | fold(bank, features)

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        u, log_q = noise, _standard_normal(noise)
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
        return _standard_normal(u) - log_det

    def _coupling(self, params: Params, i: int, read: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = mlp(params, f"coupling{i}", read).chunk(2, dim=-1)
        return _bounded(raw), t

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        gaussian = FullGaussian(self.latent_shape).at(mean, log_scale, generator)
        rotation = torch.eye(self.size).to(mean).expand_as(gaussian["lower"])
        return gaussian | {"rotation": rotation} | spread(fold(self.bank(generator), None), len(mean), mean)


class AuxiliaryFlow(Family):
    r"""The paper's q_AF (Cremer, Li and Duvenaud 2018, section 3.2, after Ranganath et al. 2016 and Dinh et al. 2017).

        z0 ~ N(mean, scale^2),  v0 ~ q(v|z0),   twice: v <- v s1(z) + m1(z),  z <- z s2(v) + m2(v)
        log q = log q(z0) + log q(v0|z0) - sum log s - log r(vT|zT)

    E[log p(x, z) - log q] is a lower bound of log p(x), but log q is not a density of z: never a base of AIS.
    `scale="exp"` (default) may expand and starts at the identity; `scale="sigmoid"` is the paper's, can only
    contract, and so cannot start at the identity. In the paper's Eq. 11 the first factor's T should be 0, with a
    determinant per step.
    """

    name = "auxiliary"
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

    def bank(self, generator: torch.Generator) -> Params:
        names = ["forward", "reverse", *(f"{kind}{i}" for i in range(self.n_steps) for kind in ("v", "z"))]
        made: Params = {}
        for name in names:
            made |= mlp_bank(name, self.size, self.n_features, self.hidden, 2 * self.size, generator)
        return made

    def condition(self, bank: Mapping[str, Tensor], context: Tensor) -> Params:
        mean, log_var, features = context.split([self.size, self.size, self.n_features], dim=-1)
        return {"mean": mean, "log_scale": 0.5 * log_var} | fold(bank, features)

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        noise_z, noise_v = noise.chunk(2, dim=-1)
        z = params["mean"] + params["log_scale"].exp() * noise_z
        location, log_scale = self._heads(params, "forward", z)
        v = location + log_scale.exp() * noise_v
        log_q = _standard_normal(noise_z) - params["log_scale"].sum(-1) + _standard_normal(noise_v) - log_scale.sum(-1)
        for i in range(self.n_steps):
            log_s, shift = self._step(params, f"v{i}", z)
            v, log_q = v * log_s.exp() + shift, log_q - log_s.sum(-1)
            log_s, shift = self._step(params, f"z{i}", v)
            z, log_q = z * log_s.exp() + shift, log_q - log_s.sum(-1)
        location, log_scale = self._heads(params, "reverse", z)
        log_r = _standard_normal((v - location) * torch.exp(-log_scale)) - log_scale.sum(-1)
        return z, log_q - log_r

    def _heads(self, params: Params, name: str, read: Tensor) -> tuple[Tensor, Tensor]:
        location, raw = mlp(params, name, read).chunk(2, dim=-1)
        return location, _bounded(raw)

    def _step(self, params: Params, name: str, read: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = mlp(params, name, read).chunk(2, dim=-1)
        return (_bounded(raw) if self.scale == "exp" else logsigmoid(raw)), shift

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        gaussian = {"mean": mean, "log_scale": log_scale}
        return gaussian | spread(fold(self.bank(generator), None), len(mean), mean)


@dataclass(frozen=True)
class Whitening:
    """Per-datum affine coordinates z = center + scale u: center (N, D), scale lower triangular (N, D, D)."""

    center: Tensor
    scale: Tensor

    @property
    def log_det(self) -> Tensor:
        """log |dz/du|, (N,)."""
        return self.scale.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    def __call__(self, u: Tensor) -> Tensor:
        """u (S, N, D) -> z."""
        return self.center + torch.bmm(u.transpose(0, 1), self.scale.mT).transpose(0, 1)

    def inverse(self, z: Tensor) -> Tensor:
        """z (S, N, D) -> u."""
        centered = (z - self.center).movedim(0, -1)
        return torch.linalg.solve_triangular(self.scale, centered, upper=False).movedim(-1, 0)

    def turn(self, u: Tensor) -> Tensor:
        """scale u: a displacement u (N, D) as one of z."""
        return torch.einsum("nij,nj->ni", self.scale, u)

    def pull_back(self, grad: Tensor) -> Tensor:
        """The gradient (S, N, D) of a function of z, as one of u."""
        return torch.bmm(grad.transpose(0, 1), self.scale).transpose(0, 1)

    def rows(self, index: Tensor) -> "Whitening":
        """The coordinates of some of the data."""
        return Whitening(self.center[index], self.scale[index])

    def compose(self, params: Params) -> Params:
        """Parameters of a q of u -> those of the same q as a distribution of z: its outer affine map absorbs ours."""
        diagonal = params["log_scale"].exp()
        composed = dict(params)
        composed["mean"] = self.center + self.turn(params["mean"])
        if "lower" in params:
            tril = self.scale @ (torch.diag_embed(diagonal) + params["lower"].tril(-1))
            composed["log_scale"], composed["lower"] = tril.diagonal(dim1=-2, dim2=-1).log(), tril.tril(-1)
        else:
            composed["log_scale"] = (self.scale.diagonal(dim1=-2, dim2=-1) * diagonal).log()
        return composed


def as_family(name: str, latent_shape: int | Sequence[int], **options: Any) -> Family:
    """A family by the name that a configuration gives it: "diagonal", "full", "flow", "auxiliary", whose scales may
    expand, or "auxiliary-sigmoid", the paper's; `options` as the class takes them.

    >>> as_family("auxiliary-sigmoid", 50, hidden=100).scale
    'sigmoid'
    """
    kinds: dict[str, Callable[..., Family]] = {
        "diagonal": DiagonalGaussian, "full": FullGaussian, "flow": CouplingFlow, "auxiliary": AuxiliaryFlow,
        "auxiliary-sigmoid": partial(AuxiliaryFlow, scale="sigmoid"),
    }  # fmt: skip
    if name not in kinds:
        raise ValueError(f"family must be one of {list(kinds)}; got {name!r}")
    return kinds[name](latent_shape, **options)


def scale_tril(params: Params) -> Tensor:
    """L (N, D, D) of a Gaussian's parameters; diagonal where there is no lower part."""
    diagonal = torch.diag_embed(params["log_scale"].exp())
    return diagonal + params["lower"].tril(-1) if "lower" in params else diagonal


def _standard_normal(noise: Tensor) -> Tensor:
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * LOG_2PI)


def _bounded(raw: Tensor) -> Tensor:
    """A log scale between -2 and 2, zero at zero with slope one: a wild step cannot overflow."""
    return 2.0 * torch.tanh(0.5 * raw)


def _affine(params: Params, u: Tensor) -> Tensor:
    if "lower" not in params:
        return params["mean"] + params["log_scale"].exp() * u
    scale = scale_tril(params)
    if "rotation" in params:
        scale = scale @ params["rotation"]
    return params["mean"] + bank_matmul(u, scale.mT)


def _affine_inverse(params: Params, z: Tensor) -> Tensor:
    if "lower" not in params:
        return (z - params["mean"]) * torch.exp(-params["log_scale"])
    centered = (z - params["mean"]).movedim(0, -1)
    turned = torch.linalg.solve_triangular(scale_tril(params), centered, upper=False).movedim(-1, 0)
    return bank_matmul(turned, params["rotation"]) if "rotation" in params else turned
