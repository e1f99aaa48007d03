r"""Latent-variable models p(z) p(x|z): what the estimators ask of a model, and builders that supply it.

    LatentModel     latent_shape, log_prior(z, x), log_likelihood(x, z); optional sample_prior, sample_data
    DecoderModel    any decoder module with a likelihood
    FunctionModel   any log density
    LinearGaussian  probabilistic PCA (Tipping and Bishop 1999): every quantity in closed form, the oracle of the tests

Samples lead: z is (S, N, D), log densities are (S, N). Flattening to rows for a decoder happens in
`DecoderModel.decode`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .likelihoods import Likelihood, as_likelihood
from .rng import forked, normal

__all__ = [
    "DecoderModel",
    "FunctionModel",
    "LatentModel",
    "LinearGaussian",
    "Tempered",
    "as_shape",
    "can_sample_prior",
    "evaluating",
    "latent_size",
    "log_joint",
    "log_joint_and_grad",
    "modules_of",
    "placement",
    "value_and_grad",
]

LOG_2PI = math.log(2 * math.pi)


class LatentModel(Protocol):
    """What every estimator needs. Log densities are normalised: constants in, event dimensions summed, nats."""

    latent_shape: tuple[int, ...]

    def log_prior(self, z: Tensor, x: Any) -> Tensor:
        """log p(z): (S, N, D) -> (S, N). x is there for conditional priors."""

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        """log p(x|z): x with N rows, z (S, N, D) -> (S, N)."""


class DecoderModel(nn.Module):
    """A decoder with a likelihood and a prior.

    Args:
        decoder: called with z (R, *latent_shape) rows, and the tensors of x named in `condition` as keywords.
        likelihood: a name ("bernoulli" takes logits), a constructor's result such as ``likelihoods.gaussian(0.1)``,
            or a callable output -> torch Distribution, or (x, output) -> (S, N).
        latent_shape: D, or a tuple; flattened to D inside.
        prior: None for N(0, I), or anything with a normalised ``log_prob(z)``: (S, N, *latent_shape) -> (S, N).
        condition: names of tensors in x that the decoder wants; x is then a mapping with the data under "x".
    """

    def __init__(
        self,
        decoder: nn.Module | Callable[..., Any],
        likelihood: str | Likelihood | Callable[..., Any],
        latent_shape: int | Sequence[int],
        prior: Any = None,
        condition: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.likelihood = as_likelihood(likelihood)
        self.latent_shape = as_shape(latent_shape)
        self.prior = prior
        self.condition = tuple(condition)

    def log_prior(self, z: Tensor, x: Any = None) -> Tensor:
        """log p(z) in nats: (S, N, D) -> (S, N)."""
        if self.prior is None:
            return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)
        value = self.prior.log_prob(z.unflatten(-1, self.latent_shape))
        return value.sum(-1) if value.shape == z.shape else value

    def decode(self, z: Tensor, x: Any = None) -> Any:
        """The decoder's output for z (S, N, D), with leading dimensions (S, N)."""
        s, n, _ = z.shape
        rows = z.reshape(s * n, *self.latent_shape)
        given = {key: _tile(x[key], s) for key in self.condition}
        output = self.decoder(rows, **given)
        return _map(lambda leaf: leaf.unflatten(0, (s, n)), output)

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        """log p(x|z) in nats: x (N, *event), z (S, N, D) -> (S, N)."""
        return self.likelihood.log_prob(_data(x), self.decode(z, x))

    def sample_prior(self, n: int, x: Any, generator: torch.Generator) -> Tensor:
        """n draws of z for each of the N rows of x (or for one row where x is None): (n, N, D)."""
        rows = 1 if x is None else len(_data(x))
        device, dtype = placement(self)
        like = torch.empty(0, device=device, dtype=dtype)
        if self.prior is None:
            return normal((n, rows, latent_size(self)), generator, like)
        if not hasattr(self.prior, "sample"):
            raise TypeError(f"sample_prior needs a prior with a `sample(shape)`; {type(self.prior).__name__} has none")
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with forked(seed, generator.device), torch.no_grad():
            return self.prior.sample((n, rows)).reshape(n, rows, latent_size(self)).to(like)

    def sample_data(self, z: Tensor, x: Any, generator: torch.Generator) -> Any:
        """Simulated data for z (N, D); a mapping like `x`, whose covariates are kept, where the model is
        conditional.
        """
        with torch.no_grad():
            sample = self.likelihood.sample(self.decode(z[None], x), generator)[0]
        return {**x, "x": sample} if isinstance(x, Mapping) else sample


class FunctionModel:
    """A model given by its log densities alone.

    Args:
        log_likelihood: (x, z (S, N, D)) -> (S, N), normalised, in nats.
        latent_shape: D, or a tuple.
        log_prior: (z, x) -> (S, N), normalised; None for N(0, I).
        sample_data: optional, (z (N, D), x, generator) -> x: only the sandwich needs it.
    """

    def __init__(
        self,
        log_likelihood: Callable[[Any, Tensor], Tensor],
        latent_shape: int | Sequence[int],
        log_prior: Callable[[Tensor, Any], Tensor] | None = None,
        sample_data: Callable[[Tensor, Any, torch.Generator], Any] | None = None,
    ) -> None:
        self.latent_shape = as_shape(latent_shape)
        self.log_likelihood = log_likelihood
        self._log_prior = log_prior
        if sample_data is not None:
            self.sample_data = sample_data
        if log_prior is None:
            self.sample_prior = self._sample_standard_normal

    def log_prior(self, z: Tensor, x: Any) -> Tensor:
        """log p(z) in nats: (S, N, D) -> (S, N)."""
        if self._log_prior is not None:
            return self._log_prior(z, x)
        return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)

    def _sample_standard_normal(self, n: int, x: Any, generator: torch.Generator) -> Tensor:
        like = _data(x) if x is not None else torch.empty(0)
        like = like if like.is_floating_point() else torch.empty(0, device=like.device)
        return normal((n, len(like) if x is not None else 1, latent_size(self)), generator, like)


class LinearGaussian(DecoderModel):
    """Probabilistic PCA, z ~ N(0, I), x|z ~ N(W z + b, sigma^2 I): the closed-form truth behind every estimator.

    Args:
        weight: W, (P, D). bias: b, (P,). scale: sigma > 0.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, scale: float) -> None:
        from .likelihoods import gaussian

        super().__init__(self._mean, gaussian(scale), weight.shape[1])
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.scale = float(scale)

    def _mean(self, z: Tensor) -> Tensor:
        return z @ self.weight.T + self.bias

    def precision(self, kl_weight: float = 1.0) -> Tensor:
        """Posterior precision I + W'W / (b sigma^2), (D, D), of p(z) p(x|z)^(1/b)."""
        eye = torch.eye(self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        return eye + self.weight.T @ self.weight / (kl_weight * self.scale**2)

    def posterior_mean(self, x: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Mean of the posterior, (N, D)."""
        right = (x - self.bias) @ self.weight / (kl_weight * self.scale**2)
        return torch.linalg.solve(self.precision(kl_weight), right.T).T

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W' + sigma^2 I), (N,), nats."""
        eye = torch.eye(self.weight.shape[0], dtype=self.weight.dtype, device=self.weight.device)
        covariance = self.weight @ self.weight.T + self.scale**2 * eye
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)

    def exact_elbo(self, x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
        """L[N(mean, covariance)] = log p(x) - KL(q || p(z|x)): mean (N, D), covariance (N, D, D) or (D, D) -> (N,)."""
        a = self.precision()
        delta = mean - self.posterior_mean(x)
        trace = torch.einsum("ij,...ji->...", a, covariance)
        quadratic = torch.einsum("ni,ij,nj->n", delta, a, delta)
        log_dets = torch.logdet(a) + torch.logdet(covariance)
        return self.log_evidence(x) - 0.5 * (trace + quadratic - len(a) - log_dets)

    def best_elbo(self, x: Tensor, family: str = "diagonal", kl_weight: float = 1.0) -> Tensor:
        """L of the best member of `family` ("diagonal" or "full") for p(z) p(x|z)^(1/b), under the true model: (N,)."""
        a = self.precision(kl_weight)
        covariance = torch.diag(1.0 / a.diagonal()) if family == "diagonal" else torch.linalg.inv(a)
        return self.exact_elbo(x, self.posterior_mean(x, kl_weight), covariance)


class Tempered:
    """p(z) p(x|z)^(1/b): what the encoder of a beta-VAE was trained towards. Only for fitting q, never for a bound."""

    def __init__(self, model: Any, kl_weight: float) -> None:
        self.model = model
        self.kl_weight = float(kl_weight)
        self.latent_shape = model.latent_shape
        if hasattr(model, "sample_prior"):
            self.sample_prior = model.sample_prior

    def log_prior(self, z: Tensor, x: Any) -> Tensor:
        """log p(z), unchanged."""
        return self.model.log_prior(z, x)

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        """log p(x|z) / b."""
        return self.model.log_likelihood(x, z) / self.kl_weight


def as_shape(latent_shape: int | Sequence[int]) -> tuple[int, ...]:
    """A tuple of positive sizes.

    >>> as_shape(5), as_shape((2, 3))
    ((5,), (2, 3))
    """
    shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"latent_shape must be a positive integer or a tuple of them; got {latent_shape!r}")
    return shape


def can_sample_prior(model: Any) -> bool:
    """Whether draws of the prior can be had: it is optional, and a prior module may have a density alone."""
    prior = getattr(model, "prior", None)
    return hasattr(model, "sample_prior") and (prior is None or hasattr(prior, "sample"))


def latent_size(model: Any) -> int:
    """D, the number of latent coordinates of one datum."""
    return math.prod(as_shape(model.latent_shape))


def log_joint(model: Any, x: Any, z: Tensor) -> Tensor:
    """log p(x, z) in nats: z (S, N, D) -> (S, N).

    Raises:
        ValueError: a density of another shape, which would otherwise broadcast unseen.
    """
    prior, likelihood = model.log_prior(z, x), model.log_likelihood(x, z)
    for name, value in (("log_prior", prior), ("log_likelihood", likelihood)):
        if value.shape != z.shape[:2]:
            hint = "Sum over latents" if name == "log_prior" else "Sum over pixels"
            raise ValueError(
                f"{name} must return (S, N) = {tuple(z.shape[:2])}; got {tuple(value.shape)}. {hint} before returning."
            )
    return prior + likelihood


def log_joint_and_grad(model: Any, x: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) in nats, float64 (S, N), and its gradient in z (S, N, D); the model's parameters take no part."""
    return value_and_grad(lambda point: log_joint(model, x, point), z)


def value_and_grad(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """A log density in float64 (S, N) and its gradient (S, N, D), zero where it does not depend on z."""
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        value = function(point)
        if not value.requires_grad:
            return value.detach().double(), torch.zeros_like(z)
        (grad,) = torch.autograd.grad(value.sum(), point)
    return value.detach().double(), grad


def modules_of(*things: Any) -> Iterator[nn.Module]:
    """The torch modules that a model or posterior holds: itself, its attributes, what its functions close over or
    name.
    """
    seen: set[int] = set()
    queue = list(things)
    while queue:
        thing = queue.pop()
        if id(thing) in seen or thing is None or isinstance(thing, str | int | float | Tensor | type):
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            yield thing
        if isinstance(thing, list | tuple):
            queue.extend(thing)
        elif isinstance(thing, Mapping):
            queue.extend(thing.values())
        elif isinstance(thing, partial):
            queue.extend([thing.func, *thing.args, *thing.keywords.values()])
        elif hasattr(thing, "__self__"):  # before functions: a bound method answers for its function's code
            queue.extend([thing.__self__, getattr(thing, "__func__", None)])
        elif callable(thing) and hasattr(thing, "__code__"):
            queue.extend(_cell(cell) for cell in thing.__closure__ or ())
            named = [thing.__globals__.get(name) for name in thing.__code__.co_names]
            queue.extend(it for it in named if getattr(it, "__globals__", thing.__globals__) is thing.__globals__)
        elif hasattr(thing, "__dict__") and type(thing).__module__ != "builtins":
            queue.extend(vars(thing).values())


@contextmanager
def evaluating(*things: Any) -> Iterator[None]:
    """Modules in eval mode inside, each back in its own mode afterwards, whatever happens."""
    modes = {module: module.training for root in modules_of(*things) for module in root.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def placement(*things: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype of the first floating parameter or buffer found; (None, None) where there is none."""
    for module in modules_of(*things):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return None, None


def _cell(cell: Any) -> Any:
    """What a closure's cell holds; None while it is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _data(x: Any) -> Tensor:
    """The data proper: a mapping holds them under "x"."""
    return x["x"] if isinstance(x, Mapping) else x


def _tile(value: Tensor, s: int) -> Tensor:
    """A covariate (N, ...) for the rows of (S, N, D): sample-major, as `decode` flattens."""
    return value.expand(s, *value.shape).flatten(0, 1)


def _map(function: Callable[[Tensor], Tensor], output: Any) -> Any:
    """Apply to every tensor of a decoder's output."""
    return function(output) if isinstance(output, Tensor) else tuple(function(leaf) for leaf in output)
