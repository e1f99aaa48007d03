"""Where the local fit of each datum starts: at the encoder's output, or at the prior if that is better."""

import math
from collections.abc import Sequence

import torch

from ..core import Block, normal, seeded
from ..evidence import GROUP, log_weights
from ..models import LatentModel, can_sample_prior, is_standard_normal, latent_size, prior_draws
from ..posteriors import WEIGHTS_KEY, DiagonalGaussian, Family, Params, Posterior, VariationalDistribution
from .adam import broadcast_rows

__all__ = ["better_start", "prior_start", "start_of"]

PRIOR_DRAWS = 64  # draws of a model's own prior, whose moments are a start


def start_of(family: Family, posterior: Posterior | None, model: LatentModel, block: Block, seed: int) -> Params:
    """The parameters at which the fits of a block of B data start, each with a leading B.

    These are the encoder's output, or the prior for a datum whose output has a non-finite ELBO or one that is worse
    than the prior's beyond the noise of 16 paired draws. The start keeps as much of the output as `family` can
    represent: all of it in its own family, a full Gaussian's scale for a flow, and the marginal scales otherwise.
    Without a posterior of a known family the start is the prior.
    """
    prior = prior_start(model, block, seed)
    answer = None if posterior is None else _constant_answer(posterior, block)
    if answer is None:
        return prior
    source, params = answer.family, dict(answer.params)
    if not family.keeps(source):
        source, params = DiagonalGaussian(source.size), source.marginals(params)
    fallback = source.at(prior["mean"], prior["log_scale"], seeded(seed, WEIGHTS_KEY, source.name))
    generator = seeded(seed, "start", block.number)
    noise = normal((GROUP, len(block.index), source.noise_size), generator, prior["mean"], data_axis=1)
    with torch.no_grad():
        values = [log_weights(model, VariationalDistribution(source, p), block.x, noise) for p in (params, fallback)]
    lead = values[1] - values[0]  # paired draws: the prior must be better beyond their noise
    worse = lead.mean(0) > 2 * lead.std(0) / math.sqrt(GROUP)
    better = torch.isfinite(values[0]).all(0) & ~worse
    return {key: torch.where(broadcast_rows(better, params[key]), params[key], fallback[key]) for key in params}


def better_start(
    family: Family, model: LatentModel, block: Block, starts: Sequence[Params], seed: int
) -> tuple[Params, float]:
    """Of several starts, each as in `fit_block`, that with the highest ELBO for each datum, and the cost of the choice.

    All are compared on the same PRIOR_DRAWS draws, as members of `family`.
    """
    members = [family.started_at(start, seeded(seed, WEIGHTS_KEY, family.name)) for start in starts]
    like = members[0]["mean"]
    best, chosen = like.new_full((len(like),), -torch.inf, dtype=torch.float64), members[0]
    for params in members:
        total = torch.zeros_like(best)
        for group in range(PRIOR_DRAWS // GROUP):
            generator = seeded(seed, "better start", block.number, group)
            noise = normal((GROUP, len(like), family.noise_size), generator, like, data_axis=1)
            with torch.no_grad():
                total += log_weights(model, VariationalDistribution(family, params), block.x, noise).mean(0)
        better = total > best
        chosen = {key: torch.where(broadcast_rows(better, params[key]), params[key], chosen[key]) for key in params}
        best = torch.where(better, total, best)
    return chosen, 0.5 * PRIOR_DRAWS * len(members)


def prior_start(model: LatentModel, block: Block, seed: int) -> Params:
    """The mean and log_scale, each (B, D), of the prior.

    They are the moments of draws of the model's own prior. They are those of N(0, I) where that is the prior, and where
    the prior is another one but cannot be sampled.
    """
    zeros = block.like.new_zeros(len(block.index), latent_size(model))
    if not can_sample_prior(model) or is_standard_normal(model, block.x, zeros):
        return {"mean": zeros, "log_scale": zeros.clone()}
    generator = seeded(seed, "prior-start", block.number)
    z = prior_draws(model, PRIOR_DRAWS, block.x, len(zeros), generator).to(zeros)
    return {"mean": z.mean(0), "log_scale": z.std(0).log()}


def _constant_answer(posterior: Posterior, block: Block) -> VariationalDistribution | None:
    """The posterior's members, detached and with a row per datum; None if its family is unknown."""
    with torch.no_grad():
        answer = posterior.rows(block.index)(block.x)
    return answer.per_datum() if isinstance(answer, VariationalDistribution) else None
