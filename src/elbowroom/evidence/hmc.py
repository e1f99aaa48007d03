r"""Hamiltonian Monte Carlo (Neal 2011): many independent chains at once, one gradient per leapfrog step.

    state, info = step(state, momentum, uniform, log_density, step_size, n_leapfrog)

The sampler knows a log density and nothing else: no model, no tuning, no randomness of its own. Its momenta and
uniforms are handed in. Chains are (C, N, D): C chains for each of N targets.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Evaluation", "Info", "LogDensity", "State", "init", "leapfrog", "step"]


@dataclass(frozen=True)
class Evaluation:
    """A log density at z: value (C, N), gradient (C, N, D), and `parts`, whatever else was computed there, (C, N,
    ...).
    """

    value: Tensor
    grad: Tensor
    parts: tuple[Tensor, ...] = ()


LogDensity = Callable[[Tensor], Evaluation]


@dataclass(frozen=True)
class State:
    """Where the chains are, with the density there: the next step starts without evaluating anything."""

    z: Tensor
    at: Evaluation


@dataclass(frozen=True)
class Info:
    """What a person wants to know of a step, all (C, N): acceptance probability, energy error (nats), non-finite or
    not.
    """

    acceptance: Tensor
    energy_error: Tensor
    diverged: Tensor


def init(z: Tensor, log_density: LogDensity) -> State:
    """Chains at z (C, N, D)."""
    return State(z, log_density(z))


def leapfrog(
    state: State, momentum: Tensor, log_density: LogDensity, step_size: Tensor, n_leapfrog: int
) -> tuple[State, Tensor]:
    """n_leapfrog steps of size step_size (N,) from the state, momentum (C, N, D): new state and momentum;
    reversible.
    """
    size = step_size[..., None]
    z, at = state.z, state.at
    momentum = momentum + 0.5 * size * at.grad
    for i in range(n_leapfrog):
        z = z + size * momentum
        at = log_density(z)
        momentum = momentum + (size if i + 1 < n_leapfrog else 0.5 * size) * at.grad
    return State(z, at), momentum


def step(
    state: State, momentum: Tensor, uniform: Tensor, log_density: LogDensity, step_size: Tensor, n_leapfrog: int
) -> tuple[State, Info]:
    """One Metropolis-corrected trajectory.

    Args:
        state: chains (C, N, D). momentum: standard normal (C, N, D). uniform: on [0, 1), (C, N).
        step_size: (N,). n_leapfrog: leapfrog steps, the number of gradients this costs.
    Returns:
        The next state, and `Info`. A proposal whose energy is not finite is rejected and marked as diverged.
    """
    proposal, final = leapfrog(state, momentum, log_density, step_size, n_leapfrog)
    kinetic = 0.5 * (momentum.double().square().sum(-1) - final.double().square().sum(-1))
    change = proposal.at.value.double() - state.at.value.double() + kinetic
    diverged = ~torch.isfinite(change)
    acceptance = torch.where(diverged, 0.0, change.clamp(max=0.0).exp())
    accept = uniform < acceptance
    return _choose(accept, proposal, state), Info(acceptance, -change, diverged)


def _choose(accept: Tensor, new: State, old: State) -> State:
    """`new` where accepted (C, N), else `old`."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(accept[(...,) + (None,) * (a.ndim - accept.ndim)], a, b)

    parts = tuple(pick(a, b) for a, b in zip(new.at.parts, old.at.parts, strict=True))
    return State(
        pick(new.z, old.z), Evaluation(pick(new.at.value, old.at.value), pick(new.at.grad, old.at.grad), parts)
    )
