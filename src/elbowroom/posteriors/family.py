r"""The interface of a family of posteriors, through which the rest of the package uses it.

    family        maps parameters and noise (S, N, E) to z (S, N, D) and log q (S, N)

Parameters are a dict of tensors with a leading dimension: 1 if all data share them, N if each datum has its own
(`small_networks`). One implementation of each family therefore serves the amortized and the local posterior.
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

WEIGHTS_KEY = "bank"  # part of the seed of a family's weights: another word would give other weights


class Ascent(Enum):
    """How a local fit takes steps: natural gradients of a Gaussian's mean and scale, or Adam on any parameters."""

    NATURAL = "natural"
    ADAM = "adam"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a local fit may spend: `min_rounds` to `max_rounds` rounds of `n_steps` steps, each on `n_samples` draws.

    The step size falls from `learning_rate` to zero within a round. After each round a datum is judged on
    `n_evaluation` fixed draws, and a round that left it lower is undone.

    Gaussians have converged when they lack less than `tolerance` nats, by the estimate of their shortfall. With
    `n_samples` 0 a step has as many draws as the number of latents asks for. A round that was undone is tried again at
    `decay` times the rate.

    Other families have converged when `patience` rounds in a row changed the ELBO by less than `tolerance` nats. The
    next round starts at `decay` times the rate of this one, or at the same rate for a datum that still gained much.

    With `plain`, a round is Adam at a constant rate in the parameters' own coordinates, as in the published protocol.
    """

    n_steps: int
    learning_rate: float
    n_samples: int = 0
    max_rounds: int = 6
    min_rounds: int = 1
    tolerance: float = 0.02
    n_evaluation: int = 32
    decay: float = 0.4
    patience: int = 1
    plain: bool = False


class Family(ABC):
    """A family of distributions of z.

    A new family is a class with these attributes and methods, and a line that registers it (`registry.register`). No
    other module knows it by name. The constructor raises ValueError if `latent_shape` is not positive.

    Attributes:
        name: its name in tables, files and options.
        place: its order among the rungs of the ladder; None for a family that stands beside the ladder.
        members, assumption, remedy, step: its words in the table and the verdict, as in `Rung`.
        min_size, max_size: the numbers of latents for which it can be a rung.
        is_gaussian: whether its members are Gaussians. Gaussians are fitted first, the widest before the others, which
            start at the widest so far whose parameters are a mean and log_scale (N, D), perhaps with a `lower`.
        ascent, budget: how its local fits take steps, and how many.
        fixed: the parameters that no fit may change.
        context_size: how many numbers an encoder must emit for each datum.
        zero_at_first: which of them are best zero before an encoder is trained, as in one that `training.build` makes.
        noise_size: E, how many standard normals make one z.
        has_density: whether log q is a density of z, so that the family can be a base of importance sampling.
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
    zero_at_first: slice = slice(0, 0)
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
        """The parameters of each datum's member, from the shared weights and the encoder's output (N, context_size)."""

    @abstractmethod
    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise (S, N, E) to z (S, N, D) and log q in nats (S, N).

        Both are differentiable in the parameters.
        """

    @abstractmethod
    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        """Per-datum parameters of the member closest to the diagonal Gaussian with this mean and log scale, (N, D)."""

    def shared_weights(self, generator: torch.Generator) -> Params:
        """Initial values of the weights that all data share, each with a leading 1; Gaussians have none."""
        return {}

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N). TypeError if the family has no density of z."""
        raise TypeError(f"the {self.name} family has no density of z")

    def keeps(self, other: "Family") -> bool:
        """Whether the parameters of any member of `other` are also those of a member of this family."""
        return other.name == self.name

    def started_at(self, start: Params, generator: torch.Generator) -> Params:
        """The parameters at which a fit starts, each with a leading N.

        `start` is a member of this family, or the mean, log_scale and perhaps `lower` of a Gaussian.
        """
        nearest = self.at(start["mean"], start["log_scale"], generator)
        if set(start) <= GAUSSIAN_PARAMS:  # its scale may be parameterized otherwise here
            start = {key: value for key, value in start.items() if value.shape == nearest.get(key, value).shape}
        return {key: start.get(key, value).clone() for key, value in nearest.items()}

    def marginals(self, params: Params) -> Params:
        """The mean and log standard deviation, each (N, D), of a member's Gaussian part."""
        if "lower" not in params:
            return {"mean": params["mean"], "log_scale": params["log_scale"].expand_as(params["mean"])}
        return {"mean": params["mean"], "log_scale": 0.5 * scale_tril(params).square().sum(-1).log()}

    def metric(self, start: Params) -> AffineMap | None:
        """Coordinates in which the posterior is about isotropic, for steps of the mean; None for those of q itself."""
        return None

    def frame(self, params: Params) -> AffineMap | None:
        """Coordinates for Adam, in which the outer Gaussian part of a member is standard normal; None without one."""
        return None

    def draws_per_step(self, budget: Budget) -> int:
        """The number of draws in one step of a fit."""
        return budget.n_samples

    def lacks_whole_sets(self) -> bool:
        """Whether a step of natural ascent has fewer draws than latents, of which it sees no curvature."""
        return False

    def draws_to_approach(self) -> int:
        """The number of draws in one of the many small steps of a natural ascent from a far start."""
        return 4

    @classmethod
    def rung(cls) -> Rung:
        """The family's place in the ladder, with its words."""
        return Rung(
            name=cls.name, place=cls.place, step=cls.step, members=cls.members, assumption=cls.assumption,
            remedy=cls.remedy,
        )  # fmt: skip

    @classmethod
    def for_rung(cls, size: int) -> "Family | None":
        """The family that is fitted as a rung for `size` latents, or None if it cannot be one."""
        return None if size < cls.min_size or size > (cls.max_size or size) else cls(size)
