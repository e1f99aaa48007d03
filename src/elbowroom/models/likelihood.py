"""The base of likelihoods: log p(x | a decoder's output), summed over event dimensions."""

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from torch import Tensor, distributions, nn

from ..core import forked

__all__ = ["Likelihood", "Output", "match_shapes", "single_output", "sum_events"]

Output: TypeAlias = Tensor | tuple[Tensor, ...]  # of a decoder, with leading (S, N)


class Likelihood(nn.Module, ABC):
    """p(x | decoder output). `discrete` says whether x has a probability mass rather than a density."""

    name = "custom"
    discrete = False

    def _get_name(self) -> str:
        return self.name  # by which torch prints it

    @abstractmethod
    def distribution(self, output: Output) -> distributions.Distribution:
        """The distribution of x given the decoder's output with leading dimensions (S, N)."""

    def log_prob(self, x: Tensor, output: Output) -> Tensor:
        """log p(x | output) in nats: x (N, *event), output (S, N, ...) -> (S, N). ValueError if they do not match."""
        distribution = self.distribution(output)
        match_shapes(x, distribution.batch_shape + distribution.event_shape, self.name)
        return sum_events(distribution.log_prob(x))

    def masked_log_prob(self, x: Tensor, output: Output, mask: Tensor) -> Tensor:
        """The log density (S, N) in nats of the numbers of x (N, *event) where the mask (N, *event) is true.

        Raises:
            ValueError: a mask of another shape, or a distribution of numbers that are not independent given z.
        """
        if mask.shape != x.shape:
            raise ValueError(f"mask must be shaped as the data, {tuple(x.shape)}; got {tuple(mask.shape)}")
        terms = self.distribution(output).log_prob(torch.where(mask, x, torch.zeros_like(x)))
        if terms.shape[1:] != x.shape:
            raise ValueError(
                f"a mask needs a likelihood with a term for each number of x, {tuple(x.shape)}; got terms of shape "
                f"{tuple(terms.shape[1:])}"
            )
        return sum_events(torch.where(mask, terms, torch.zeros_like(terms)))

    def sample(self, output: Output, generator: torch.Generator) -> Tensor:
        """Draw one x for each row of the output: (S, N, *event).

        Torch distributions take no generator, so this forks the global one and seeds it from `generator`.
        """
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with forked(seed, generator.device), torch.no_grad():
            return self.distribution(output).sample()


def single_output(output: Output, name: str) -> Tensor:
    """The decoder's output, for a likelihood that takes a single tensor."""
    if isinstance(output, Tensor):
        return output
    raise TypeError(f"likelihood {name} takes one tensor from the decoder; got a tuple of {len(output)}")


def sum_events(terms: Tensor) -> Tensor:
    """Sum over everything behind (S, N)."""
    return terms.flatten(2).sum(-1) if terms.ndim > 2 else terms


def match_shapes(x: Tensor, shape: torch.Size, name: str) -> None:
    """Raise ValueError if x (N, *event) does not match `shape` (S, N, *event), which would broadcast silently."""
    if x.shape != shape[1:]:
        raise ValueError(
            f"{name} likelihood: x must be shaped like the decoder's output; got x {tuple(x.shape)} and output "
            f"{tuple(shape[1:])} for N = {shape[1]}. Reshape one of them, for instance with nn.Flatten()."
        )
