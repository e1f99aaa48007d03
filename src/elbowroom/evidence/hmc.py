r"""Hamiltonian Monte Carlo (Neal 2011): many independent chains at once, one gradient per leapfrog step.

    state, info = step(state, momentum, uniform, log_density, step_size, n_leapfrog)

The sampler knows only a log density. It has no model, no tuning, and no randomness of its own: momenta and uniforms are
arguments. Chains are (C, N, D): C chains for each of N targets.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Evaluation", "Info", "LogDensity", "State", "init", "leapfrog", "step"]


@dataclass(frozen=True)
class Evaluation:
    """A log density at z: its value (C, N) in nats and gradient (C, N, D).

    `parts` are any other tensors (C, N, ...) that were computed at z.
    """

    value: Tensor
    grad: Tensor
    parts: tuple[Tensor, ...] = ()


LogDensity = Callable[[Tensor], Evaluation]


@dataclass(frozen=True)
class State:
    """The positions z (C, N, D) of the chains and the density there, so that the next step need not evaluate it."""

    z: Tensor
    at: Evaluation


@dataclass(frozen=True)
class Info:
    """Diagnostics of a step, each (C, N): acceptance probability, energy error in nats, and whether it diverged."""

    acceptance: Tensor
    energy_error: Tensor
    diverged: Tensor


def init(z: Tensor, log_density: LogDensity) -> State:
    """The state of chains at z (C, N, D)."""
    return State(z, log_density(z))


def leapfrog(
    state: State, momentum: Tensor, log_density: LogDensity, step_size: Tensor, n_leapfrog: int
) -> tuple[State, Tensor]:
    """Take n_leapfrog reversible steps of size step_size (N,) from a state and a momentum (C, N, D).

    Returns:
        The new state and the new momentum (C, N, D).
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
    """Run one leapfrog trajectory and accept or reject its end by a Metropolis test (Neal 2011).

    Args:
        state: chains (C, N, D).
        momentum: standard normal (C, N, D).
        uniform: uniform on [0, 1), (C, N).
        log_density: z (C, N, D) -> `Evaluation`.
        step_size: (N,).
        n_leapfrog: the number of leapfrog steps, each of which costs one gradient.
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
