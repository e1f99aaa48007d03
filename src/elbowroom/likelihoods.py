r"""Likelihoods: what a decoder's output says of x, as a normalised log density summed over event dimensions.

A likelihood turns the decoder's output into a torch distribution. Some also know a cheaper formula for the same log
density.

    bernoulli            x in {0, 1}         output: logits                      log p = x l - softplus(l)
    bernoulli_probs      x in {0, 1}         output: probabilities
    continuous_bernoulli x in [0, 1]         output: logits                      (Loaiza-Ganem and Cunningham 2019)
    gaussian             x real              output: mean, or (mean, log-variance)
    laplace              x real              output: mean
    categorical          x in {0..C-1}       output: logits (..., C)
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributions, nn
from torch.nn.functional import softplus

from .rng import forked

__all__ = [
    "Likelihood", "as_likelihood", "bernoulli", "bernoulli_probs", "categorical", "continuous_bernoulli", "custom",
    "gaussian", "laplace",
]  # fmt: skip

LOG_2PI = math.log(2 * math.pi)


class Likelihood(nn.Module, ABC):
    """p(x | decoder output). `discrete` says whether x has a mass rather than a density."""

    name = "custom"
    discrete = False

    @abstractmethod
    def distribution(self, output: Any) -> distributions.Distribution:
        """The distribution of x given the decoder's output with leading dimensions (S, N)."""

    def log_prob(self, x: Tensor, output: Any) -> Tensor:
        """log p(x | output) in nats: x (N, *event), output (S, N, ...) -> (S, N)."""
        made = self.distribution(output)
        _match(x, made.batch_shape + made.event_shape, self.name)
        return _sum_events(made.log_prob(x))

    def sample(self, output: Any, generator: torch.Generator) -> Tensor:
        """One x for each row of the output, drawn under a forked generator because torch distributions take none."""
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with forked(seed, generator.device), torch.no_grad():
            return self.distribution(output).sample()



class _Bernoulli(Likelihood):
    name = "bernoulli"
    discrete = True

    def distribution(self, output: Tensor) -> distributions.Distribution:
        return distributions.Bernoulli(logits=output, validate_args=False)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        _match(x, output.shape, self.name)
        return _sum_events(x * output) - _sum_events(softplus(output))



class _BernoulliProbs(Likelihood):
    name = "bernoulli_probs"
    discrete = True

    def distribution(self, output: Tensor) -> distributions.Distribution:
        return distributions.Bernoulli(probs=output, validate_args=False)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        _match(x, output.shape, self.name)
        return _sum_events(torch.xlogy(x, output) + torch.special.xlog1py(1 - x, -output))


class _ContinuousBernoulli(Likelihood):
    name = "continuous_bernoulli"

    def distribution(self, output: Tensor) -> distributions.Distribution:
        return distributions.ContinuousBernoulli(logits=output, validate_args=False)


class _Categorical(Likelihood):
    name = "categorical"
    discrete = True

    def distribution(self, output: Tensor) -> distributions.Distribution:
        return distributions.Categorical(logits=output, validate_args=False)


class _LocationScale(Likelihood):
    """Gaussian or Laplace: the scale is a number, a tensor, a learned parameter, or the decoder's second output."""

    def __init__(self, name: str, scale: float | str | Tensor | Callable[[], Tensor]) -> None:
        super().__init__()
        self.name = name
        self.from_decoder = scale == "decoder" if isinstance(scale, str) else False
        self.log_scale: nn.Parameter | None = None
        self._scale: Any = scale
        if isinstance(scale, str) and scale not in ("decoder", "learned"):
            raise ValueError(f'scale must be a number, a tensor, a callable, "decoder" or "learned"; got {scale!r}')
        if scale == "learned" if isinstance(scale, str) else False:
            self.log_scale = nn.Parameter(torch.zeros(()))
        if isinstance(scale, int | float) and not scale > 0:
            raise ValueError(f"scale must be positive; got {scale}")

    def parameters_of(self, output: Any) -> tuple[Tensor, Tensor]:
        """Location and scale, with leading (S, N)."""
        if self.from_decoder:
            if isinstance(output, Tensor):
                if output.ndim < 3 or output.shape[2] % 2:
                    raise ValueError(
                        f'{self.name}(scale="decoder") needs (mean, log_var) or a tensor with twice the channels; '
                        f"got shape {tuple(output.shape)} with leading (S, N)"
                    )
                output = output.chunk(2, dim=2)
            return output[0], torch.exp(0.5 * output[1])
        if self.log_scale is not None:
            return output, self.log_scale.exp()
        scale = self._scale() if callable(self._scale) else self._scale
        return output, torch.as_tensor(scale, dtype=output.dtype, device=output.device)

    def distribution(self, output: Any) -> distributions.Distribution:
        loc, scale = self.parameters_of(output)
        kind = distributions.Normal if self.name == "gaussian" else distributions.Laplace
        return kind(loc, scale.expand_as(loc), validate_args=False)



class custom(Likelihood):
    """A likelihood from any callable: output -> Distribution, or (x, output) -> (S, N) log density in nats."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.scores = _n_positional(function) >= 2

    def distribution(self, output: Any) -> distributions.Distribution:
        if self.scores:
            raise TypeError(
                "this likelihood gives a log density and cannot simulate data; pass a callable output -> torch "
                "Distribution to use sample_data or the sandwich"
            )
        made = self.function(output)
        if not isinstance(made, distributions.Distribution):
            raise TypeError(f"a likelihood must return a torch Distribution; got {type(made).__name__}")
        return made

    def log_prob(self, x: Tensor, output: Any) -> Tensor:
        return self.function(x, output) if self.scores else super().log_prob(x, output)


def bernoulli() -> Likelihood:
    """x in {0, 1} given logits. Grey values in [0, 1] are scored too, but not as a normalised density."""
    return _Bernoulli()


def bernoulli_probs() -> Likelihood:
    """x in {0, 1} given probabilities. Prefer logits: a probability that rounds to 0 or 1 makes log p infinite."""
    return _BernoulliProbs()


def continuous_bernoulli() -> Likelihood:
    """x in [0, 1] given logits, normalised (Loaiza-Ganem and Cunningham 2019)."""
    return _ContinuousBernoulli()


def categorical() -> Likelihood:
    """x an integer in 0..C-1 given logits whose last dimension is C."""
    return _Categorical()


def gaussian(scale: float | str | Tensor | Callable[[], Tensor]) -> Likelihood:
    """x real. `scale`: a number or tensor, a callable that returns one, "learned" (a parameter of the likelihood), or
    "decoder" (the decoder returns (mean, log_var), as a pair or stacked along its first event dimension)."""
    return _LocationScale("gaussian", scale)


def laplace(scale: float | str | Tensor | Callable[[], Tensor]) -> Likelihood:
    """x real, with the same choices of `scale` as `gaussian`."""
    return _LocationScale("laplace", scale)


def as_likelihood(spec: str | Likelihood | Callable[..., Any]) -> Likelihood:
    """A likelihood from its name, an instance, or a callable.

    >>> as_likelihood("bernoulli").discrete
    True
    """
    named = {
        "bernoulli": bernoulli, "bernoulli_probs": bernoulli_probs, "continuous_bernoulli": continuous_bernoulli,
        "categorical": categorical,
    }  # fmt: skip
    if isinstance(spec, Likelihood):
        return spec
    if isinstance(spec, str):
        if spec in ("gaussian", "laplace"):
            raise ValueError(f'a {spec} likelihood needs its scale: pass er.likelihoods.{spec}(scale=0.1 or "decoder")')
        if spec not in named:
            raise ValueError(f"likelihood must be one of {sorted(named)} or a callable; got {spec!r}")
        return named[spec]()
    if callable(spec):
        return custom(spec)
    raise TypeError(f"likelihood must be a name, a Likelihood or a callable; got {type(spec).__name__}")


def _sum_events(terms: Tensor) -> Tensor:
    """Sum over everything behind (S, N)."""
    return terms.flatten(2).sum(-1) if terms.ndim > 2 else terms


def _match(x: Tensor, shape: torch.Size, name: str) -> None:
    """x (N, *event) must pair with `shape` (S, N, *event): broadcasting pixels against pixels would go unseen."""
    if x.shape != shape[1:]:
        raise ValueError(
            f"{name} likelihood: x must be shaped like the decoder's output; got x {tuple(x.shape)} and output "
            f"{tuple(shape[1:])} for N = {shape[1]}. Reshape one of them, for instance with nn.Flatten()."
        )


def _n_positional(function: Callable[..., Any]) -> int:
    """How many arguments a callable insists on."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
