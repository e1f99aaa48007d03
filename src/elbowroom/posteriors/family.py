r"""What a family of posteriors is: how parameters and noise become z and log q, and all that the rest of the package
knows of it.

    family        maps parameters and noise (S, N, E) to z (S, N, D) and log q (S, N)

Parameters are a dict of tensors with a leading dimension: 1 where all data share them, N where each datum has its own
(`small_networks`); so one implementation of each family serves the amortized and the local posterior.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from ..models import as_shape
from ..results import REMAINDER, Rung
from .affine import GAUSSIAN_PARAMS, AffineMap, scale_tril
from .small_networks import Params

__all__ = ["WEIGHTS_KEY", "Ascent", "Budget", "Family"]

WEIGHTS_KEY = "bank"  # of the generator of a family's weights; under another word they would be other numbers


class Ascent(Enum):
    """How a local fit steps: by natural gradients of a Gaussian's mean and scale, or by Adam on any parameters."""

    NATURAL = "natural"
    ADAM = "adam"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Rounds of `n_steps` steps on `n_samples` draws; the step size falls to zero within a round, and from one round to
    the next to its `decay`, unless the datum still gains much.

    A datum has converged when `patience` rounds in a row changed its value by less than `tolerance` nats on the fixed
    evaluation noise; a round that lost more is undone, and the next one takes smaller steps. With `plain`, rounds are
    of Adam at a constant rate in the parameters' own coordinates, as published.
    """

    n_steps: int
    n_samples: int
    learning_rate: float
    max_rounds: int = 6
    tolerance: float = 0.02
    n_evaluation: int = 32
    decay: float = 0.4
    patience: int = 1
    plain: bool = False


class Family(ABC):
    """A family of distributions of z. A new one is a class with these attributes and methods, and a line that registers
    it (`registry.register`): no other module knows it by name.

    Attributes:
        name: in tables, files and options. place: its order among the rungs of the ladder; None for a family that
        stands beside it. members, assumption, remedy, step: its words in the table and the verdict, as of `Rung`.
        min_size, max_size: the numbers of latents at which it can be a rung. is_gaussian: whether its members are
        Gaussians. Those are fitted first, the widest before the others, which start
            at the widest so far whose parameters are a mean, a log_scale (N, D) and perhaps a lower part.
        ascent, budget: how its local fits step, and how long. fixed: parameters that no fit may move.
        context_size: how many numbers an encoder must emit for each datum.
        noise_size: E, how many standard normals make one z.
        has_density: whether log q is a density of z, and so can be a base of importance sampling.
    """

    name: ClassVar[str]
    place: ClassVar[int | None] = None
    members: ClassVar[str] = "the family"
    assumption: ClassVar[str] = ""
    remedy: ClassVar[str] = "a richer family"
    step: ClassVar[str] = REMAINDER
    min_size: ClassVar[int] = 1
    max_size: ClassVar[int | None] = None
    is_gaussian: ClassVar[bool] = False
    ascent: ClassVar[Ascent] = Ascent.ADAM
    budget: ClassVar[Budget] = Budget(n_steps=200, n_samples=16, learning_rate=0.01, n_evaluation=128)
    fixed: ClassVar[tuple[str, ...]] = ()
    has_density: bool = True
    context_size: int
    noise_size: int

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        self.latent_shape = as_shape(latent_shape)
        self.size = math.prod(self.latent_shape)
        self.noise_size = self.size

    def __repr__(self) -> str:
        shape = self.size if len(self.latent_shape) == 1 else self.latent_shape
        options = [name for name in inspect.signature(type(self)).parameters if name != "latent_shape"]
        given = [f"{name}={getattr(self, name)!r}" for name in options if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join([repr(shape), *given])})"

    @abstractmethod
    def condition(self, weights: Mapping[str, Tensor], context: Tensor) -> Params:
        """Parameters of each datum's member from the shared weights and the encoder's answer (N, context_size)."""

    @abstractmethod
    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal noise (S, N, E) -> z (S, N, D) and log q in nats (S, N), differentiable in both."""

    @abstractmethod
    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        """Per-datum parameters of the member closest to the diagonal Gaussian with mean and log scale (N, D)."""

    def shared_weights(self, generator: torch.Generator) -> Params:
        """Initial weights that all data share, each with a leading 1; none for Gaussians."""
        return {}

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N)."""
        raise TypeError(f"the {self.name} family has no density of z")

    def keeps(self, other: "Family") -> bool:
        """Whether the parameters of a member of `other` are parameters of a member of this family."""
        return other.name == self.name

    def started_at(self, start: Params, generator: torch.Generator) -> Params:
        """Where a fit begins: `start` is a member of this family, or a Gaussian's mean, log_scale and perhaps `lower`,
        all with a leading N.
        """
        nearest = self.at(start["mean"], start["log_scale"], generator)
        if set(start) <= GAUSSIAN_PARAMS:  # its scale may be parameterized otherwise here
            start = {key: value for key, value in start.items() if value.shape == nearest.get(key, value).shape}
        return {key: start.get(key, value).clone() for key, value in nearest.items()}

    def marginals(self, params: Params) -> Params:
        """Mean and log standard deviation, each (N, D), of a member's Gaussian part."""
        if "lower" not in params:
            return {"mean": params["mean"], "log_scale": params["log_scale"].expand_as(params["mean"])}
        return {"mean": params["mean"], "log_scale": 0.5 * scale_tril(params).square().sum(-1).log()}

    def metric(self, start: Params) -> AffineMap | None:
        """Coordinates in which the posterior is about round, for the steps of the mean; None for those of q itself."""
        return None

    def frame(self, params: Params) -> AffineMap | None:
        """Coordinates in which the Gaussian part of the members is standard normal, for Adam; None where it has none on
        the outside.
        """
        return None

    def draws_per_step(self, budget: Budget) -> int:
        """Draws that one step of a fit takes."""
        return budget.n_samples

    @classmethod
    def rung(cls) -> Rung:
        """Its place in the ladder, in words."""
        return Rung(
            name=cls.name, place=cls.place, step=cls.step, members=cls.members, assumption=cls.assumption,
            remedy=cls.remedy,
        )  # fmt: skip

    @classmethod
    def for_rung(cls, size: int) -> "Family | None":
        """The family that is fitted as a rung of `size` latents; None where it cannot be one."""
        return None if size < cls.min_size or size > (cls.max_size or size) else cls(size)
