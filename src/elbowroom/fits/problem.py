"""The optimization of one block of data, whose noise depends on a key and on nothing else."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import Block, normal, orthogonal, seeded, select_rows
from ..evidence import GROUP, log_weights
from ..models import LatentModel, log_joint_and_grad
from ..posteriors import AffineMap, Ascent, Budget, Family, Params, VariationalDistribution, complete_sets
from .adam import adam_round
from .momentum import SMALL_PAIRS, rescaled, round_with_momentum, small_steps
from .natural_gradients import curvature_metric, natural_gradients, natural_round, squared_norm

__all__ = ["Problem"]

FEW_LATENTS = 128  # of more latents a fit may lack more in proportion, since its shortfall is a sum over them
SMALL_RATE = 0.7  # the largest rate of small steps, which gain by momentum
CHECK_GROUP = 8  # draws of one of the independent groups from which a shortfall is estimated


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The optimization of one block.

    Noise has the dtype and device of `like`. `metric` holds the coordinates for the steps of a Gaussian's mean; None
    for those of q.
    """

    family: Family
    model: LatentModel
    block: Block
    like: Tensor
    seed: int
    metric: AffineMap | None = None

    def noise(self, n_samples: int, *key: str | int) -> Tensor:
        """Standard normal noise (S, B, E) for the whole block."""
        shape = (n_samples, len(self.block.index), self.family.noise_size)
        return normal(shape, self._generator(*key), self.like, data_axis=1)

    def evaluate(self, params: Params, index: Tensor, n_samples: int) -> Tensor:
        """The ELBO in nats, (R,), of the data `index` (R,) on the fixed evaluation noise.

        Samples come in groups of GROUP, so n_samples is rounded up. The ELBO is not finite if a log weight is not.
        """
        total = torch.zeros(len(index), dtype=torch.float64, device=index.device)
        dist, x = VariationalDistribution(self.family, params), select_rows(self.block.x, index)
        n_groups = -(-n_samples // GROUP)
        with torch.no_grad():
            for group in range(n_groups):
                noise = self.noise(GROUP, "evaluate", group)[:, index]
                total = total + log_weights(self.model, dist, x, noise).sum(0)
        return total / (GROUP * n_groups)

    def check(
        self, params: Params, index: Tensor, n_samples: int, products: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (S, R) of Gaussian fits of the data `index` (R,), their shortfalls and the errors of those, (R,).

        All are in nats. The draws are always the same, in mirrored pairs and in at least two independent groups of
        CHECK_GROUP, so n_samples is rounded up. `products` are as in `natural_round`.
        """
        q, full = AffineMap.of_gaussian(params), "lower" in params
        x, metric = select_rows(self.block.x, index), q
        if self.metric is not None:
            metric = self.metric.rows(index)
        elif products is not None:
            metric = curvature_metric(q, products)
        values, draws, grads = [], [], []
        for number in range(max(2, -(-n_samples // CHECK_GROUP))):
            half = self.noise(CHECK_GROUP // 2, "check", number)[:, index]
            e = torch.cat([half, -half])
            value, grad = log_joint_and_grad(self.model, x, q(e))
            values.append(value - VariationalDistribution(self.family, params).log_prob(q(e)).double())
            draws.append(e)
            grads.append(grad)
        short, deviations = squared_norm(natural_gradients(q, metric, draws, grads, full))
        return torch.cat(values), short, deviations.std(0) / math.sqrt(len(draws))

    def adam(self, params: Params, index: Tensor, budget: Budget, number: int, rates: Tensor) -> tuple[Params, Tensor]:
        """A round of Adam for the data `index` (R,): the last iterate, and which (R,) stayed finite throughout."""

        def draw_noise(n: int, step: int) -> Tensor:
            return self.noise(n, "step", number, step)[:, index]

        return adam_round(self.model, select_rows(self.block.x, index), self.family, params, budget, rates, draw_noise)

    def natural(
        self,
        params: Params,
        index: Tensor,
        n_samples: int,
        number: int,
        rates: Tensor,
        products: Tensor | None = None,
        far: Tensor | None = None,
    ) -> tuple[Params, Tensor, Tensor | None]:
        """A round of natural gradients for the data `index` (R,), with rates (T, R); it returns what that does."""
        draws, x = self._orthogonal(index, number), select_rows(self.block.x, index)
        metric = None if self.metric is None else self.metric.rows(index)
        return natural_round(self.model, x, params, draws, rates, n_samples, metric, products, far)

    def with_momentum(
        self, params: Params, index: Tensor, number: int, rates: Tensor, share: Tensor, products: Tensor | None
    ) -> tuple[Params, Tensor, Tensor]:
        """A round of small steps for the data `index` (R,), with rates (R,); it returns what `natural_round` does.

        The first round averages its last quarter, since its start may be far. The iterate goes the `share` (R,) of the
        way to a round's average, so that shares of 1, 1/2, 1/3 ... make the average of the rounds.
        """
        skipped = 3 * small_steps(self.family.size) // 4 if number == 0 else 0
        draws, x = self._orthogonal(index, number), select_rows(self.block.x, index)
        averaged, finite, seen = round_with_momentum(self.model, x, params, draws, rates, skipped, products)
        share = share.to(params["mean"])[:, None]
        moved = {key: torch.lerp(start, averaged[key], share) for key, start in params.items()}
        seen = seen if products is None else products + (seen - products) / (number + 1)
        return moved, finite, rescaled(seen, moved["log_scale"] - params["log_scale"])

    def pace(self, budget: Budget) -> tuple[Budget, bool]:
        """The budget with the steps and draws that a round of natural gradients has, and whether they are small steps.

        They are small for a diagonal Gaussian of so many latents that a step cannot have a whole set of draws, unless a
        metric tells it the posterior's correlations or the budget names its draws.
        """
        size = self.family.size
        if self.metric is None and not budget.n_samples and self.family.lacks_whole_sets():
            small = replace(
                budget,
                n_steps=small_steps(size),
                n_samples=2 * SMALL_PAIRS,
                learning_rate=min(budget.learning_rate, SMALL_RATE),
                n_evaluation=max(budget.n_evaluation, size // 4),
                tolerance=budget.tolerance * size / FEW_LATENTS,
            )
            return small, True
        return replace(budget, n_samples=self.family.draws_per_step(budget)), False

    def _orthogonal(self, index: Tensor, number: int) -> Iterator[Tensor]:
        """Draws (R, D) without end for the data `index` (R,) in round `number`, orthogonal in sets of D."""
        size = self.family.size
        n_sets, generator = complete_sets(size) // size, self._generator("round", number)
        return (draw[index] for draw in orthogonal((len(self.block.index), size), n_sets, generator, self.like))

    @property
    def is_natural(self) -> bool:
        """Whether the family climbs by natural gradients."""
        return self.family.ascent is Ascent.NATURAL

    def _generator(self, *key: str | int) -> torch.Generator:
        return seeded(self.seed, "fit", self.family.name, self.block.number, *key)
