r"""Likelihoods: normalized log densities of x given a decoder's output, summed over event dimensions.

A likelihood turns the decoder's output into a torch distribution. Some also use a cheaper formula for the same log
density.

    bernoulli            x in {0, 1}         output: logits                      log p = x l - softplus(l)
    bernoulli_probs      x in {0, 1}         output: probabilities
    continuous_bernoulli x in [0, 1]         output: logits                      (Loaiza-Ganem and Cunningham 2019)
    gaussian             x real              output: mean, or (mean, log-variance)
    laplace              x real              output: mean, or (mean, log of the squared scale)
    categorical          x in {0..C-1}       output: logits (..., C)
    discretized_logistic x in {0..255} / 255 output: mean, or (mean, log-scale)   (Kingma et al. 2016)
    discretized_logistic_mixture             output: K logits, K locations, K log-scales, in the last dimension
    student_t            x real              output: mean, or (mean, log-scale)
    poisson              x a count           output: log rate
    negative_binomial    x a count           output: (log mean, log theta), variance mean + mean^2 / theta
    zero_inflated_negative_binomial          output: (log mean, log theta, logit of the zeros)
    beta_binomial        x in {0..n}         output: (logit of the mean chance, log(a + b))
    von_mises            x an angle          output: (angle, log concentration), in radians
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributions, nn

from .bernoulli import bernoulli_log_prob
from .distributions import DiscretizedLogistic
from .likelihood import Likelihood, Output, match_shapes, single_output, sum_events
from .several_outputs import (
    LogisticMixture,
    SeveralOutputs,
    beta_binomial_of,
    negative_binomial_of,
    poisson_of,
    von_mises_of,
    zero_inflated_of,
)

__all__ = [
    "Likelihood", "Output", "as_likelihood", "bernoulli", "bernoulli_probs", "beta_binomial", "bits_per_dim",
    "categorical", "continuous_bernoulli", "custom", "discretized_logistic", "discretized_logistic_mixture",
    "gaussian", "laplace", "negative_binomial", "poisson", "student_t", "von_mises",
    "zero_inflated_negative_binomial",
]  # fmt: skip

Nats = TypeVar("Nats", float, NDArray[np.float64], Tensor)


class _Bernoulli(Likelihood):
    name = "bernoulli"
    discrete = True

    def distribution(self, output: Output) -> distributions.Distribution:
        return distributions.Bernoulli(logits=single_output(output, self.name), validate_args=False)

    def log_prob(self, x: Tensor, output: Output) -> Tensor:
        logits = single_output(output, self.name)
        match_shapes(x, logits.shape, self.name)
        return bernoulli_log_prob(x, logits)


class _BernoulliProbs(Likelihood):
    name = "bernoulli_probs"
    discrete = True

    def distribution(self, output: Output) -> distributions.Distribution:
        return distributions.Bernoulli(probs=single_output(output, self.name), validate_args=False)

    def log_prob(self, x: Tensor, output: Output) -> Tensor:
        probs = single_output(output, self.name)
        match_shapes(x, probs.shape, self.name)
        return sum_events(torch.xlogy(x, probs) + torch.special.xlog1py(1 - x, -probs))


class _ContinuousBernoulli(Likelihood):
    name = "continuous_bernoulli"

    def distribution(self, output: Output) -> distributions.Distribution:
        return _ExactContinuousBernoulli(logits=single_output(output, self.name), validate_args=False)


class _Categorical(Likelihood):
    name = "categorical"
    discrete = True

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def log_prob(self, x: Tensor, output: Output) -> Tensor:
        if self.ignore_index is None:
            return super().log_prob(x, output)
        return self.masked_log_prob(x, output, x != self.ignore_index)

    def distribution(self, output: Output) -> distributions.Distribution:
        return distributions.Categorical(logits=single_output(output, self.name), validate_args=False)


class _LocationScale(Likelihood):
    """`kind(location, scale)`: the scale is a number, a tensor, a learned parameter, or the decoder's second output,
    scale = exp(power * output): a log-variance has power 1/2, a log-scale 1."""

    def __init__(
        self,
        name: str,
        scale: float | str | Tensor | Callable[[], Tensor],
        kind: Callable[..., distributions.Distribution],
        power: float = 0.5,
        discrete: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.kind, self.power, self.discrete = name, kind, power, discrete
        self.from_decoder = scale == "decoder" if isinstance(scale, str) else False
        self.log_scale: nn.Parameter | None = None
        self._scale = scale
        if isinstance(scale, str) and scale not in ("decoder", "learned"):
            raise ValueError(f'scale must be a number, a tensor, a callable, "decoder" or "learned"; got {scale!r}')
        if scale == "learned" if isinstance(scale, str) else False:
            self.log_scale = nn.Parameter(torch.zeros(()))
        if isinstance(scale, int | float) and not scale > 0:
            raise ValueError(f"scale must be positive; got {scale}")

    @property
    def constant_scale(self) -> float | None:
        """The scale, if it is a number."""
        return float(self._scale) if isinstance(self._scale, int | float) else None

    def extra_repr(self) -> str:
        """The scale, which torch prints with the likelihood's name."""
        if isinstance(self._scale, Tensor):
            return f"scale of shape {tuple(self._scale.shape)}"
        return f"scale {self._scale}" if isinstance(self._scale, str | int | float) else "scale from a function"

    def parameters_of(self, output: Output) -> tuple[Tensor, Tensor]:
        """Location and scale, with leading (S, N)."""
        if self.from_decoder:
            if isinstance(output, Tensor):
                if output.ndim < 3 or output.shape[2] % 2:
                    second = "log_var" if self.power == 0.5 else "log_scale"
                    raise ValueError(
                        f'{self.name}(scale="decoder") needs (mean, {second}) or a tensor with twice the channels; '
                        f"got shape {tuple(output.shape)} with leading (S, N)"
                    )
                output = output.chunk(2, dim=2)
            return output[0], torch.exp(self.power * output[1])
        location = single_output(output, self.name)
        if self.log_scale is not None:
            return location, self.log_scale.to(location.dtype).exp()
        scale = self._scale() if callable(self._scale) else self._scale
        return location, torch.as_tensor(scale, dtype=location.dtype, device=location.device)

    def distribution(self, output: Output) -> distributions.Distribution:
        loc, scale = self.parameters_of(output)
        return self.kind(loc, scale.expand_as(loc), validate_args=False)


class _ExactContinuousBernoulli(distributions.ContinuousBernoulli):
    """torch's ContinuousBernoulli without its clamp on probabilities, which in single precision makes the density at
    logits of 30 wrong by more than half a nat, and the draws too. Here both are computed from the logits l:

        log p(x) = x l - log((e^l - 1) / l),    F^-1(u) = log(1 + u (e^l - 1)) / l
    """

    def log_prob(self, value: Tensor) -> Tensor:
        near = self.logits.abs() < 0.03  # there by a series, whose next term is l^6 / 181440
        size = torch.where(near, 1.0, self.logits.abs())
        far = self.logits.clamp(min=0) + torch.log(-torch.expm1(-size) / size)
        square = torch.where(near, self.logits, 0.0).square()
        series = self.logits / 2 + square / 24 - square.square() / 2880
        return value * self.logits - torch.where(near, series, far)

    def icdf(self, value: Tensor) -> Tensor:
        near = self.logits.abs() < 1e-6
        size = torch.where(near, 1.0, self.logits.abs())
        up = torch.where(self.logits > 0, value, 1 - value)  # the law of 1 - x is that of x at -l
        x = 1 + torch.log1p((1 - up) * torch.expm1(-size)) / size
        return torch.where(near, value, torch.where(self.logits > 0, x, 1 - x))


class _Custom(Likelihood):
    """A likelihood from any callable, which is a distribution or a log density."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.scores = _n_positional(function) >= 2

    def distribution(self, output: Output) -> distributions.Distribution:
        if self.scores:
            raise TypeError(
                "this likelihood gives a log density and cannot simulate data; pass a callable output -> torch "
                "Distribution to use sample_data or the sandwich"
            )
        distribution = self.function(output)
        if not isinstance(distribution, distributions.Distribution):
            raise TypeError(f"a likelihood must return a torch Distribution; got {type(distribution).__name__}")
        return distribution

    def log_prob(self, x: Tensor, output: Output) -> Tensor:
        return self.function(x, output) if self.scores else super().log_prob(x, output)


def bernoulli() -> Likelihood:
    """x in {0, 1} given logits. Gray values in [0, 1] are scored as well, but not by a normalized density."""
    return _Bernoulli()


def bernoulli_probs() -> Likelihood:
    """x in {0, 1} given probabilities. Prefer logits: a probability that rounds to 0 or 1 can make log p -infinity."""
    return _BernoulliProbs()


def continuous_bernoulli() -> Likelihood:
    """x in [0, 1] given logits, by a normalized density (Loaiza-Ganem and Cunningham 2019)."""
    return _ContinuousBernoulli()


def categorical(ignore_index: int | None = None) -> Likelihood:
    """x an integer in 0..C-1, given logits whose last dimension is C.

    Where x is `ignore_index`, as where texts of several lengths are padded, it has no part in log p(x|z).
    """
    return _Categorical(ignore_index)


def gaussian(scale: float | str | Tensor | Callable[[], Tensor]) -> Likelihood:
    """x real, normal around the decoder's mean.

    Args:
        scale: the standard deviation. A positive number, a tensor, a callable that returns either, "learned" (a
            parameter of the likelihood), or "decoder" (the decoder returns (mean, log-variance), as a pair or stacked
            along its first event dimension).
    Raises:
        ValueError: another string, or a number that is not positive.
    """
    return _LocationScale("gaussian", scale, distributions.Normal)


def laplace(scale: float | str | Tensor | Callable[[], Tensor]) -> Likelihood:
    """x real, with `scale` as for `gaussian`; for "decoder" the second output is the log of the squared scale."""
    return _LocationScale("laplace", scale, distributions.Laplace)


def discretized_logistic(scale: float | str | Tensor | Callable[[], Tensor]) -> Likelihood:
    """x an 8-bit pixel as a float k / 255, as `datasets.binarize(images, "gray")` returns it (Kingma et al. 2016).

    Its probability mass sums to one over the 256 levels. Mean and scale are in the units of x, whose bins are 1/255
    wide. `scale` is as for `gaussian`, except that for "decoder" the second output is the log of the scale itself.
    """
    return _LocationScale("discretized_logistic", scale, DiscretizedLogistic, 1.0, discrete=True)


def discretized_logistic_mixture(n_components: int) -> Likelihood:
    """x an 8-bit pixel as a float k / 255, by a mixture of discretized logistics for each (Salimans and others 2017).

    The decoder's last dimension has 3 n_components numbers: the logits of the shares, the locations and the log scales,
    in the units of x. Pixels and channels are independent given z. ValueError if n_components is not positive.
    """
    return LogisticMixture(n_components)


def student_t(df: float, scale: float | str | Tensor | Callable[[], Tensor]) -> Likelihood:
    """x real, a Student t with `df` degrees of freedom around the decoder's mean.

    `scale` is as for `gaussian`, except that for "decoder" the second output is the log of the scale itself. ValueError
    if `df` is not positive.
    """
    if not df > 0:
        raise ValueError(f"df must be positive; got {df}")
    return _LocationScale("student_t", scale, partial(distributions.StudentT, df), 1.0)


def poisson() -> Likelihood:
    """x a count, given the log of its rate."""
    return SeveralOutputs("poisson", ["log rate"], poisson_of)


def negative_binomial() -> Likelihood:
    """x a count, given the logs of its mean and of theta, where the variance is mean + mean^2 / theta."""
    return SeveralOutputs("negative_binomial", ["log mean", "log theta"], negative_binomial_of)


def zero_inflated_negative_binomial() -> Likelihood:
    """x a count, zero by chance or a negative binomial: given log mean, log theta and the logit of the zeros."""
    outputs = ["log mean", "log theta", "logit of the zeros"]
    return SeveralOutputs("zero_inflated_negative_binomial", outputs, zero_inflated_of)


def beta_binomial(total_count: int) -> Likelihood:
    """x a number of successes among `total_count` trials, whose chance is from Beta(a, b).

    The decoder gives the logit of the mean chance a / (a + b) and log(a + b). ValueError if total_count is not
    positive.
    """
    if total_count < 1:
        raise ValueError(f"total_count must be at least 1; got {total_count}")
    return SeveralOutputs("beta_binomial", ["logit of the chance", "log(a + b)"], beta_binomial_of(total_count))


def von_mises() -> Likelihood:
    """x an angle in radians, any 2 pi of them, given the mean angle and the log of the concentration."""
    return SeveralOutputs("von_mises", ["angle", "log concentration"], von_mises_of, takes_counts=False)


def custom(function: Callable[..., Any]) -> Likelihood:
    """A likelihood from a callable: output -> torch Distribution, or (x, output) -> (S, N) log density in nats."""
    return _Custom(function)


def bits_per_dim(log_p_nats: Nats, n_dims: int) -> Nats:
    """-log2 p / n_dims, from log p of a whole datum in nats (a number, an array or a tensor). ValueError if n_dims < 1.

    It is meant for a probability mass, such as that of 8-bit pixels: for a density of the same pixels in [0, 1] the
    result is about 8 bits lower.

    >>> bits_per_dim(-8 * math.log(2) * 3072, 3072)
    8.0
    """
    if n_dims < 1:
        raise ValueError(f"n_dims must be the number of dimensions of one datum, at least 1; got {n_dims}")
    return -log_p_nats / (n_dims * math.log(2))


def as_likelihood(spec: str | Likelihood | Callable[..., Any]) -> Likelihood:
    """A likelihood from its name, an instance, or a callable. ValueError or TypeError for anything else.

    >>> as_likelihood("bernoulli").discrete
    True
    """
    named = {
        "bernoulli": bernoulli, "bernoulli_probs": bernoulli_probs, "continuous_bernoulli": continuous_bernoulli,
        "categorical": categorical, "poisson": poisson, "negative_binomial": negative_binomial,
        "zero_inflated_negative_binomial": zero_inflated_negative_binomial, "von_mises": von_mises,
    }  # fmt: skip
    with_number = {
        "beta_binomial": "total_count=10", "discretized_logistic_mixture": "n_components=5",
        "student_t": 'df=4, scale=0.1 or "decoder"',
    }  # fmt: skip
    if isinstance(spec, Likelihood):
        return spec
    if isinstance(spec, str):
        if spec in ("gaussian", "laplace", "discretized_logistic"):
            raise ValueError(f'a {spec} likelihood needs its scale: pass er.likelihoods.{spec}(scale=0.1 or "decoder")')
        if spec in with_number:
            raise ValueError(f"a {spec} likelihood needs a number: pass er.likelihoods.{spec}({with_number[spec]})")
        if spec not in named:
            raise ValueError(f"likelihood must be one of {sorted(named)} or a callable; got {spec!r}")
        return named[spec]()
    if callable(spec):
        return custom(spec)
    raise TypeError(f"likelihood must be a name, a Likelihood or a callable; got {type(spec).__name__}")


def _n_positional(function: Callable[..., Any]) -> int:
    """The number of required positional arguments of a callable."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
