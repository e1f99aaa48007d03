r"""Mixtures that cover all modes of a posterior of few latents, adapted to each datum by importance sampling.

A local Gaussian sits on one mode. In 1 to 3 latents draws of the prior come near all of them, and a mixture of C
components is fitted to these draws, weighted; draws of that mixture come nearer, and so on (population Monte Carlo,
Cappe, Douc, Guillin, Marin and Robert 2008). All draws so far are weighted by the mixture of all proposals so far
(Cornuet, Marin, Mira and Robert 2012), and the weights are tempered as long as few draws carry their sum:

    w = p(x, z) / sum_j (n_j / n) q_j(z),   w^b with the largest b <= 1 at which MIN_SHARED draws share the sum

A component is straight and a posterior of two or three latents can be bent, so a mixture holds each component twice,
the second time with scales that are three times as wide. Without these the draws of a stage do not leave the part of a
bent posterior where those before them lie: in the narrow neck of a funnel they missed up to a tenth of the mass, and
nothing told of it.

In 4 to 20 latents weighted draws of the prior tell too little. Under N(0, I) most posteriors have one mode there, and
no mixture is made. A prior of another kind may have modes of its own; the mixture is then that of the modes to which
draws of it climb, with the curvature there.

The last mixture is frozen, and what is reported uses fresh draws of it, so E[w] = p(x) holds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core import Block, normal, seeded, uniform
from ..models import SamplesPrior, log_joint, log_joint_and_grad, prior_draws
from .bounds import GROUP
from .importance_weights import effective_sample_size, resampled
from .mixtures import ComponentMixture, cholesky, fitted_mixture, joined, spread_out
from .proposals import StudentT

__all__ = ["MAX_MIXTURE_SIZE", "adapted_mixture"]

MAX_MIXTURE_SIZE = 3  # latents up to which draws of the prior come near all modes
N_PRIOR, N_STAGE = 512, 512  # draws of the prior, and of each stage
MAX_STAGES = 10
WIDENED = 2.0  # half of the draws of the prior lie this much farther from its center, for data that are rare
N_STARTS = 4  # starts, times 2^D, from each of which a component climbs to a mode
N_STARTS_OF_MANY = 8  # starts where there are more latents
CLIMBED_SHARE = 0.8  # the share of these in the first stage
N_CLIMBING = 10  # steps of each component to a mode
LONGEST = 2.0  # the length of a step, at most, in units of the scale at which it started
MOST_GROWTH = 4.0  # the factor by which a variance grows in a step, at most
MOST_SHRINKING = 1e8  # the factor by which it shrinks
DIFFERENCE = 0.2  # the distance of two gradients, in units of the last curvature's scale
MIN_SHARED = 96.0  # effective draws that a tempered stage keeps
SUFFICES = 1024.0  # effective draws, untempered, at which there is no need of another stage
N_COMPONENTS = 12
WIDER = 3.0  # the factor of the scales of a second copy of the components
WIDE_SHARE = 0.4  # the share of that copy
N_EVEN = 512  # draws of equal weight to which the components are fitted
LOCAL_SHARE = 0.2  # the share of the local Gaussian


@dataclass(kw_only=True)
class _Population:
    """All draws so far, (S, N, D) each, with their log joint densities and the log of the sum of all proposals'
    densities, each times its number of draws.
    """

    model: SamplesPrior
    block: Block
    proposals: list[tuple[float, Callable[[Tensor], Tensor]]] = field(default_factory=list)
    draws: list[Tensor] = field(default_factory=list)
    joints: list[Tensor] = field(default_factory=list)
    proposed: list[Tensor] = field(default_factory=list)

    def add(self, z: Tensor, log_density: Callable[[Tensor], Tensor]) -> None:
        """Add draws of a proposal."""
        parts = [log_joint(self.model, self.block.x, part).double() for part in z.split(GROUP)]
        joint = torch.cat(parts)
        self.joints.append(torch.where(torch.isfinite(joint), joint, -torch.inf))
        share = math.log(len(z))
        earlier = zip(self.proposed, self.draws, strict=True)
        self.proposed = [torch.logaddexp(proposed, share + log_density(y).double()) for proposed, y in earlier]
        self.proposals.append((share, log_density))
        self.draws.append(z)
        self.proposed.append(torch.logsumexp(torch.stack([s + q(z).double() for s, q in self.proposals]), 0))

    def even(self, generator: torch.Generator) -> Tensor:
        """N_EVEN of the draws (N_EVEN, N, D), in proportion to their tempered weights."""
        z = torch.cat(self.draws).double().nan_to_num(posinf=0.0, neginf=0.0)
        return resampled(z, _tempered(self.log_w), N_EVEN, uniform((z.shape[1],), generator, z, data_axis=0))

    def joint_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The log joint (C, N) of z (C, N, D) and its gradient (C, N, D); -inf and zero where one is not finite."""
        value, grad = log_joint_and_grad(self.model, self.block.x, z.to(self.draws[0]))
        good = torch.isfinite(value) & torch.isfinite(grad).all(-1)
        return torch.where(good, value.double(), -torch.inf), torch.where(good[..., None], grad.double(), 0.0)

    @property
    def log_w(self) -> Tensor:
        """Log weights (S, N) of all draws, up to a constant."""
        return torch.cat(self.joints) - torch.cat(self.proposed)


def adapted_mixture(
    model: SamplesPrior, block: Block, local: StudentT, seed: int
) -> tuple[ComponentMixture, ComponentMixture, float]:
    """Mixtures that cover the posteriors of a block of B data, and their cost in units of work per datum.

    The first is for importance sampling and holds the wider copy; the second, without it, is where annealing starts,
    whose chains find their way into the tails by themselves.
    """
    coordinates = local.coordinates
    population, generator = _Population(model=model, block=block), seeded(seed, "mixture", "prior", block.number)
    with torch.no_grad():
        population.add(*_prior_draws(model, block, coordinates.center, generator))
        even = population.even(generator)
        mixture = fitted_mixture(even, N_COMPONENTS, generator)
        modes, cost = _climbed(population, _starts(mixture, even, generator))
        is_small = coordinates.center.shape[-1] <= MAX_MIXTURE_SIZE
        mixture = joined(mixture, modes, CLIMBED_SHARE) if is_small else modes
        done = torch.zeros_like(block.index, dtype=torch.bool, device=coordinates.center.device)
        for stage in range(MAX_STAGES if is_small else 0):
            generator = seeded(seed, "mixture", stage, block.number)
            noise = normal((N_STAGE, len(block.index), mixture.noise_size), generator, coordinates.center, data_axis=1)
            proposal = _widened(mixture)
            population.add(proposal.rsample_and_log_q(noise)[0], proposal.log_prob)
            mixture = _chosen(done, mixture, fitted_mixture(population.even(generator), N_COMPONENTS, generator))
            done |= effective_sample_size(population.log_w) >= SUFFICES
            if bool(done.all()):
                break
    whole = torch.zeros_like(mixture.log_shares[:1])
    single = ComponentMixture(whole, coordinates.center[None].double(), coordinates.scale[None].double())
    mixture = joined(mixture, single, LOCAL_SHARE)
    cost += 0.5 * sum(len(z) for z in population.draws)
    return _widened(mixture) if is_small else mixture, mixture, cost


def _prior_draws(
    model: SamplesPrior, block: Block, like: Tensor, generator: torch.Generator
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Draws of the prior (N_PRIOR, B, D) and their density; every other one is moved away from their center."""
    z = prior_draws(model, N_PRIOR, block.x, len(block.index), generator).to(like)
    center = z.median(0).values
    z[1::2] = center + WIDENED * (z[1::2] - center)

    def log_density(z: Tensor) -> Tensor:
        inner = model.log_prior(center + (z - center) / WIDENED, block.x) - z.shape[-1] * math.log(WIDENED)
        return torch.logaddexp(model.log_prior(z, block.x), inner) - math.log(2)

    return z, log_density


def _starts(mixture: ComponentMixture, even: Tensor, generator: torch.Generator) -> ComponentMixture:
    """Draws that lie apart, from which to climb, each with the scale of the component that explains it best."""
    d = even.shape[-1]
    centers = spread_out(even, N_STARTS * 2**d if d <= MAX_MIXTURE_SIZE else N_STARTS_OF_MANY, generator)
    owner = mixture.log_terms(centers).argmax(0).T
    scales = mixture.scales[owner, torch.arange(even.shape[1], device=even.device)]
    return ComponentMixture(torch.full_like(centers[..., 0], -math.log(len(centers))), centers, scales)


def _climbed(population: _Population, start: ComponentMixture) -> tuple[ComponentMixture, float]:
    """The mixture after each component has climbed to a mode, with the curvature there, and the cost of that.

    Newton's method with a damping that rises where a step leads down, in the coordinates of the last curvature.
    """
    z, scales = start.centers, start.scales
    value, grad = population.joint_and_grad(z)
    damping = torch.ones_like(value)
    for _ in range(N_CLIMBING):
        curvature, vectors = torch.linalg.eigh(_curvature(population, z, grad, scales))
        size = curvature.abs()
        pulled = (vectors.mT @ (scales.mT @ grad[..., None]))[..., 0]
        step = (scales @ (vectors @ (pulled / (size + damping[..., None]))[..., None]))[..., 0]
        length = (start.inverse_scales @ step[..., None]).norm(dim=-2)
        moved = z + step * (LONGEST / length).clamp(max=1.0)
        new_value, new_grad = population.joint_and_grad(moved)
        better = new_value > value
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-3, 1e6)
        z, grad = torch.where(better[..., None], moved, z), torch.where(better[..., None], new_grad, grad)
        value = torch.where(better, new_value, value)
        turned = scales @ (vectors * size.clamp(1 / MOST_GROWTH, MOST_SHRINKING).rsqrt()[..., None, :])
        scales = cholesky(turned @ turned.mT, scales)
    return ComponentMixture(start.log_shares, z, scales), len(z) * (N_CLIMBING * (1.0 + z.shape[-1]) + 1)


def _curvature(population: _Population, z: Tensor, grad: Tensor, scales: Tensor) -> Tensor:
    """Minus the second derivatives (C, N, D, D) of the log joint at z, from differences of gradients, in the
    coordinates of `scales`.
    """
    columns = []
    for axis in range(z.shape[-1]):
        _, beside = population.joint_and_grad(z + DIFFERENCE * scales[..., axis])
        columns.append((scales.mT @ ((grad - beside) / DIFFERENCE)[..., None])[..., 0])
    joined = torch.stack(columns, -1)
    return 0.5 * (joined + joined.mT)


def _widened(mixture: ComponentMixture) -> ComponentMixture:
    """The mixture and a wider copy of itself; one latent leaves no room to bend, and needs none."""
    if mixture.size == 1:
        return mixture
    wide = ComponentMixture(mixture.log_shares, mixture.centers, WIDER * mixture.scales)
    return joined(mixture, wide, WIDE_SHARE)


def _chosen(done: Tensor, mixture: ComponentMixture, refitted: ComponentMixture) -> ComponentMixture:
    """The mixture of each datum that is `done` (N,), and the refitted one of the others."""
    if not bool(done.any()):
        return refitted
    shares = torch.where(done, mixture.log_shares, refitted.log_shares)
    centers = torch.where(done[:, None], mixture.centers, refitted.centers)
    return ComponentMixture(shares, centers, torch.where(done[:, None, None], mixture.scales, refitted.scales))


def _tempered(log_w: Tensor) -> Tensor:
    """Shares (S, N) of the draws, proportional to w^b."""
    log_w = torch.where(torch.isfinite(log_w).any(0), log_w, 0.0)
    low, high = torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
    enough = effective_sample_size(log_w) >= MIN_SHARED
    for _ in range(30):
        middle = 0.5 * (low + high)
        shared = effective_sample_size(_powered(log_w, middle)) >= MIN_SHARED
        low, high = torch.where(shared, middle, low), torch.where(shared, high, middle)
    return torch.softmax(_powered(log_w, torch.where(enough, 1.0, low)), 0)


def _powered(log_w: Tensor, power: Tensor) -> Tensor:
    """log w^b, which is -inf where w is zero even for b = 0."""
    return torch.where(torch.isfinite(log_w), log_w * power, -torch.inf)
