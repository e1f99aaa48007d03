"""Which latents can be measured: real numbers without a constraint, since fits and annealing follow gradients in z.

A posterior or a prior that lives elsewhere is refused by name, with the transformation that would help, if any does.
"""

import torch
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

__all__ = ["fault_of_support", "lies_on_a_sphere"]

UNBOUNDED = type(constraints.real)
SIMPLEX = type(constraints.simplex)
SPREAD = 1e-4  # relative, of the lengths of draws that lie on a sphere


def fault_of_support(who: str, distribution: object) -> str | None:
    """What is wrong with the support of q's or the prior's distribution, as one sentence; None if nothing is, or if it
    does not say where it lives.
    """
    if not isinstance(distribution, TorchDistribution):
        return None
    try:
        support = distribution.support
    except (NotImplementedError, AttributeError):
        return None
    plain = _innermost(support)
    if support is None or isinstance(plain, UNBOUNDED):
        return None
    kind = type(_plain(distribution)).__name__
    if getattr(support, "is_discrete", False):
        return (
            f"latents must be real numbers; {who} gives {kind}, whose latents are discrete and have no gradient. "
            "No transformation helps: elbowroom measures continuous latents only"
        )
    where = "on a simplex" if isinstance(plain, SIMPLEX) else f"with the support {type(plain).__name__.strip('_')}"
    return (
        f"latents must be real numbers without a constraint; {who} gives {kind}, {where}. Write the model in "
        "u = biject_to(support).inv(z), and add log |dz/du| to log p(z) and log q(z)"
    )


def lies_on_a_sphere(z: Tensor) -> bool:
    """Whether draws z (S, N, D) of two dimensions or more all have the same length."""
    if z.shape[-1] < 2:
        return False
    length = z.double().norm(dim=-1)
    return bool(length.min() > 0) and bool((length - length.mean()).abs().max() <= SPREAD * length.mean())


def _innermost(support: Constraint | None) -> Constraint | None:
    """The constraint of single numbers, or of vectors, behind those of independent numbers and of mixtures."""
    while support is not None and hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _plain(distribution: TorchDistribution) -> TorchDistribution:
    """The distribution behind independent ones."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution
