"""Distributions that torch lacks: normalized, sampled from the global generator, as torch's own are."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, distributions
from torch.nn.functional import logsigmoid

__all__ = ["BetaBinomial", "DiscretizedLogistic", "ZeroInflated"]

TOP = 255  # the highest level of an 8-bit pixel
real, positive = distributions.constraints.real, distributions.constraints.positive


class DiscretizedLogistic(distributions.Distribution):
    """A logistic with location `loc` and scale `scale`, rounded to the nearest k / 255, k = 0..255; what lies
    outside goes to the ends. The bin of an inner level has the mass

        F(b) - F(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)),    a, b = (x -+ 1/510 - loc) / scale

    and each factor has a logarithm that neither cancels nor underflows.
    """

    arg_constraints: ClassVar = {
        "loc": distributions.constraints.real, "scale": distributions.constraints.positive,
    }  # fmt: skip
    support = distributions.constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log mass of the nearest level, -inf outside [0, 1]. Neighbors share their edge, to the last bit."""
        level = (TOP * value).round()
        below, above = (self._standardized(level - 0.5), self._standardized(level + 0.5))
        log_below = torch.where(level < TOP, logsigmoid(above), 0.0)
        log_above = torch.where(level > 0, logsigmoid(-below), 0.0)
        log_width = torch.log(-torch.expm1(-1 / (TOP * self.scale)))
        inner = (level > 0) & (level < TOP)
        mass = log_below + log_above + torch.where(inner, log_width, 0.0)
        return torch.where((level >= 0) & (level <= TOP), mass, -math.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw from the global generator, as all torch distributions do."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return (TOP * (self.loc + self.scale * torch.logit(uniform))).round().clamp(0, TOP) / TOP

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        mean, square = self._moments()
        return square - mean.square()

    def _standardized(self, level: Tensor | float) -> Tensor:
        return (level / TOP - self.loc) / self.scale

    def _moments(self) -> tuple[Tensor, Tensor]:
        """E[x] and E[x^2], by the sums of P(k >= j) and (2 j - 1) P(k >= j), j = 1..255."""
        first = second = torch.zeros_like(self.loc)
        for j in range(1, TOP + 1):
            above = torch.sigmoid(-self._standardized(j - 0.5))
            first, second = first + above, second + (2 * j - 1) * above
        return first / TOP, second / TOP**2


class BetaBinomial(distributions.Distribution):
    """The number of successes among `total_count` trials whose chance is drawn from Beta(a, b).

    log p(x) = log C(n, x) + log B(x + a, n - x + b) - log B(a, b)
    """

    arg_constraints: ClassVar = {"a": positive, "b": positive}
    support = distributions.constraints.nonnegative_integer

    def __init__(self, total_count: int, a: Tensor, b: Tensor, validate_args: bool | None = None) -> None:
        self.total_count, self.a, self.b = total_count, a, b
        super().__init__(a.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log mass of a number of successes, -inf beyond the number of trials."""
        n = self.total_count
        inside = value.clamp(0, n)
        ways = math.lgamma(n + 1) - torch.lgamma(inside + 1) - torch.lgamma(n - inside + 1)
        mass = ways + _log_beta(inside + self.a, n - inside + self.b) - _log_beta(self.a, self.b)
        return torch.where(value == inside, mass, -math.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw from the global generator."""
        with torch.no_grad():
            chance = distributions.Beta(self.a, self.b, validate_args=False).sample(torch.Size(sample_shape))
            return distributions.Binomial(self.total_count, chance, validate_args=False).sample()

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.a / (self.a + self.b)

    @property
    def variance(self) -> Tensor:
        total = self.a + self.b
        return self.mean * self.b / total * (total + self.total_count) / (total + 1)


class ZeroInflated(distributions.Distribution):
    """Zero with the chance sigmoid(gate), and otherwise a draw from a distribution of counts."""

    arg_constraints: ClassVar = {"gate": real}
    support = distributions.constraints.nonnegative_integer

    def __init__(self, base: distributions.Distribution, gate: Tensor, validate_args: bool | None = None) -> None:
        self.base, self.gate = base, gate
        super().__init__(gate.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log mass of a count."""
        mass = logsigmoid(-self.gate) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.gate), mass), mass)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw from the global generator."""
        with torch.no_grad():
            drawn = self.base.sample(torch.Size(sample_shape))
            return torch.where(torch.rand_like(drawn) < torch.sigmoid(self.gate), 0.0, drawn)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.gate) * self.base.mean

    @property
    def variance(self) -> Tensor:
        kept = torch.sigmoid(-self.gate)
        return kept * (self.base.variance + (1 - kept) * self.base.mean.square())


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
