r"""Posteriors: the two ways to give each datum its member of a family.

    Amortized     the parameters come from an encoder that reads x
    Local         the parameters are a row per datum, fitted without an encoder

Called with x, either returns a distribution of z for each datum; an inference gap is what changes when you swap them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributions, nn

from .families import DiagonalGaussian, Family, FullGaussian, Params, spread
from .rng import forked, seed_of, seeded

__all__ = ["Amortized", "Conditioned", "Local", "as_posterior", "context_of"]


class Conditioned:
    """One member of a family per datum: what a posterior returns when it is called with x."""

    def __init__(self, family: Family, params: Params) -> None:
        self.family, self.params = family, params
        self.noise_size, self.has_density = family.noise_size, family.has_density

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal noise (S, N, E) -> z (S, N, D), log q in nats (S, N)."""
        return self.family.rsample_and_log_q(self.params, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, (S, N, D) -> (S, N); TypeError where the family has no density."""
        return self.family.log_prob(self.params, z)

    def detached(self) -> "Conditioned":
        """The same distribution, constant in its parameters."""
        return Conditioned(self.family, {key: value.detach() for key, value in self.params.items()})


class Amortized(nn.Module):
    """q(z|x) whose parameters an encoder reads off x.

    Args:
        net: x (N, *event) -> (N, family.context_size), or a tuple of tensors that concatenate to it: (mean, log_var).
            The tensors of x named in `condition` are passed as keywords.
        family: which distributions.
        seed: of the initial shared bank of a flow.
    """

    def __init__(
        self, net: nn.Module | Callable[..., Any], family: Family, condition: Sequence[str] = (), seed: int = 0
    ) -> None:
        super().__init__()
        self.net, self.family, self.condition = net, family, tuple(condition)
        self.bank = nn.ParameterDict(family.bank(seeded(seed, "bank", family.name)))

    def forward(self, x: Any) -> Conditioned:
        """The posterior of each of N data."""
        context = context_of(self.net, x, self.condition, self.family)
        return Conditioned(self.family, self.family.condition(dict(self.bank), context))

    def rows(self, index: Tensor) -> "Amortized":
        """An encoder serves any rows: itself."""
        return self

    def localize(self, x: Any) -> "Local":
        """A copy of each datum's own parameters, free of the encoder: L[q] is unchanged until they are fitted."""
        with torch.no_grad():
            params = self(x).params
        n = len(params["mean"])
        return Local(self.family, n, spread({key: value.detach() for key, value in params.items()}, n))


class Local(nn.Module):
    """q(z|x_n) with a row of parameters for each of n data; row n belongs to datum n.

    Starts at the standard normal unless `params`, each with leading n, says otherwise.
    """

    def __init__(self, family: Family, n: int, params: Params | None = None, seed: int = 0) -> None:
        super().__init__()
        if params is None:
            zeros = torch.zeros(n, family.size)
            params = family.at(zeros, zeros.clone(), seeded(seed, "bank", family.name))
        self.family, self.n = family, n
        self.params = nn.ParameterDict(
            {key: nn.Parameter(value.clone(), key not in family.fixed) for key, value in params.items()}
        )

    def forward(self, x: Any = None) -> Conditioned:
        """The posterior of each of the n data; x is not read."""
        return Conditioned(self.family, dict(self.params))

    def rows(self, index: Tensor) -> "Local":
        """The local posterior of the data `index` (B,)."""
        return Local(self.family, len(index), {key: value.detach()[index] for key, value in self.params.items()})

    def localize(self, x: Any = None) -> "Local":
        """A copy."""
        return self.rows(torch.arange(self.n))


class as_posterior:
    """A posterior from a bare callable x -> torch Distribution, with event (D,) or (*latent_shape) and batch (N,).

    Independent normals become a diagonal Gaussian and multivariate normals a full one, and are then like any other.
    Other distributions keep no family: their inference gap can be measured, their local optimum cannot. Those are
    sampled by their own `rsample` under a forked generator, seeded by the noise; so they too depend on the key of the
    draws alone.
    """

    def __new__(cls, q: Any) -> Any:
        """`q` itself where it already is a posterior."""
        return q if hasattr(q, "localize") or hasattr(q, "rows") else super().__new__(cls)

    def __init__(self, q: Callable[[Any], distributions.Distribution]) -> None:
        self.net = q
        self.family = None

    def __call__(self, x: Any) -> Any:
        made = self.net(x)
        if hasattr(made, "rsample_and_log_q"):
            return made
        if not isinstance(made, distributions.Distribution):
            raise TypeError(
                f"q(x) must return a torch Distribution (or use er.Amortized for a network that returns parameters); "
                f"got {type(made).__name__}"
            )
        return _as_conditioned(made)

    def rows(self, index: Tensor) -> Any:
        """A callable serves any rows: itself."""
        return self

    def localize(self, x: Any) -> Local:
        """As `Amortized.localize`, for the distributions that are Gaussian."""
        made = self(x)
        if not isinstance(made, Conditioned):
            raise TypeError("this posterior's family is unknown, so it has no local optimum to fit")
        return Local(made.family, len(made.params["mean"]), {k: v.detach() for k, v in made.params.items()})


class _Sampled:
    """A foreign torch distribution under our protocol: the first noise number of a call seeds its generator."""

    noise_size = 1

    def __init__(self, distribution: distributions.Distribution) -> None:
        self.distribution = distribution
        self.has_density = True

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        with forked(seed_of(noise), noise.device), torch.no_grad():
            z = self.distribution.sample(noise.shape[:1])
        return z.flatten(2), self.log_prob(z.flatten(2))

    def log_prob(self, z: Tensor) -> Tensor:
        shape = self.distribution.batch_shape + self.distribution.event_shape
        value = self.distribution.log_prob(z.reshape(len(z), *shape))
        return value.flatten(2).sum(-1) if value.ndim > 2 else value


def context_of(net: Callable[..., Any], x: Any, condition: Sequence[str], wanted: Any) -> Tensor:
    """An encoder's answer (N, C), its parts side by side; C must be the `context_size` of `wanted`, which also has a
    `name` and a `size`.
    """
    given = {key: x[key] for key in condition}
    output = net(x["x"], **given) if isinstance(x, Mapping) else net(x)
    context = output.flatten(1) if isinstance(output, Tensor) else torch.cat([part.flatten(1) for part in output], -1)
    if context.shape[-1] != wanted.context_size:
        raise ValueError(
            f"the encoder of a {wanted.name} posterior over {wanted.size} latents must emit "
            f"{wanted.context_size} numbers per datum; got {context.shape[-1]}"
        )
    return context


def _as_conditioned(made: distributions.Distribution) -> Any:
    """Gaussians as members of our families, anything else sampled as it is."""
    plain = made.base_dist if isinstance(made, distributions.Independent) else made
    if isinstance(plain, distributions.Normal):
        mean, scale = plain.mean.flatten(1), plain.stddev.flatten(1)
        return Conditioned(DiagonalGaussian(mean.shape[1]), {"mean": mean, "log_scale": scale.log()})
    if isinstance(made, distributions.MultivariateNormal):
        tril = made.scale_tril
        params = {"mean": made.mean, "log_scale": tril.diagonal(dim1=-2, dim2=-1).log(), "lower": tril.tril(-1)}
        return Conditioned(FullGaussian(made.mean.shape[1]), params)
    return _Sampled(made)
