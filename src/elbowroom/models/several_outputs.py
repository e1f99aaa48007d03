"""Likelihoods whose distribution needs several numbers of a decoder for each number in x.

The decoder returns a tuple of tensors shaped as x, or one tensor with so many times the channels, which is cut along
the first event dimension. All scales, rates and dispersions come as logarithms, and probabilities as logits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributions

from .distributions import BetaBinomial, DiscretizedLogistic, ZeroInflated
from .likelihood import Likelihood, Output, single_output

__all__ = ["LogisticMixture", "SeveralOutputs", "beta_binomial_of", "negative_binomial_of", "poisson_of",
           "von_mises_of", "zero_inflated_of"]  # fmt: skip


class SeveralOutputs(Likelihood):
    """A likelihood from a function of several outputs.

    Args:
        name: of the likelihood.
        outputs: what the decoder returns, in words, one for each tensor.
        make: the tensors -> their distribution.
        takes_counts: whether x holds counts.
    """

    def __init__(
        self,
        name: str,
        outputs: Sequence[str],
        make: Callable[..., distributions.Distribution],
        takes_counts: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.outputs, self.make = name, tuple(outputs), make
        self.takes_counts = self.discrete = takes_counts

    def extra_repr(self) -> str:
        """What the decoder returns, which torch prints with the likelihood's name."""
        return f"of {', '.join(self.outputs)}"

    def distribution(self, output: Output) -> distributions.Distribution:
        return self.make(*self._parts(output))

    def _parts(self, output: Output) -> Sequence[Tensor]:
        """The tensors of the decoder, with leading (S, N)."""
        n = len(self.outputs)
        if n == 1:
            return (single_output(output, self.name),)
        if isinstance(output, Tensor) and output.ndim > 2 and output.shape[2] % n == 0:
            return output.chunk(n, dim=2)
        if isinstance(output, tuple) and len(output) == n:
            return output
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a tuple of {len(output)}"
        raise ValueError(
            f"{self.name} needs ({', '.join(self.outputs)}), or a tensor with {n} times the channels; got {got} with "
            "leading (S, N)"
        )


class LogisticMixture(Likelihood):
    """A mixture of discretized logistics for each pixel (Salimans and others 2017, without their autoregression)."""

    name = "discretized_logistic_mixture"
    discrete = True

    def __init__(self, n_components: int) -> None:
        super().__init__()
        if n_components < 1:
            raise ValueError(f"n_components must be at least 1; got {n_components}")
        self.n_components = n_components

    def distribution(self, output: Output) -> distributions.Distribution:
        tensor = single_output(output, self.name)
        if tensor.shape[-1] != 3 * self.n_components:
            raise ValueError(
                f"{self.name} of {self.n_components} components needs a last dimension of {3 * self.n_components}: "
                f"logits of the shares, locations, log scales; got {tensor.shape[-1]}"
            )
        logits, loc, log_scale = tensor.chunk(3, dim=-1)
        shares = distributions.Categorical(logits=logits, validate_args=False)
        parts = DiscretizedLogistic(loc, log_scale.exp(), validate_args=False)
        return distributions.MixtureSameFamily(shares, parts, validate_args=False)


def poisson_of(log_rate: Tensor) -> distributions.Distribution:
    """Counts with a rate."""
    return distributions.Poisson(log_rate.exp(), validate_args=False)


def negative_binomial_of(log_mean: Tensor, log_theta: Tensor) -> distributions.Distribution:
    """Counts with the variance mean + mean^2 / theta."""
    return distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta, validate_args=False)


def zero_inflated_of(log_mean: Tensor, log_theta: Tensor, gate: Tensor) -> distributions.Distribution:
    """The same, or zero with the chance sigmoid(gate)."""
    return ZeroInflated(negative_binomial_of(log_mean, log_theta), gate, validate_args=False)


def beta_binomial_of(total_count: int) -> Callable[[Tensor, Tensor], distributions.Distribution]:
    """Successes among `total_count` trials, from the logit of their mean chance and the log of a + b."""

    def make(logit: Tensor, log_total: Tensor) -> distributions.Distribution:
        total = log_total.exp()
        return BetaBinomial(
            total_count, total * torch.sigmoid(logit), total * torch.sigmoid(-logit), validate_args=False
        )

    return make


def von_mises_of(angle: Tensor, log_concentration: Tensor) -> distributions.Distribution:
    """Angles in radians."""
    return distributions.VonMises(angle, log_concentration.exp(), validate_args=False)
