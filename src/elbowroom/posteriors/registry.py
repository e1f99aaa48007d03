"""The registry of all families by name, which ladders, plans, options and files use."""

import math
from collections.abc import Sequence
from typing import Any

from ..results import Rung
from .auxiliary import AuxiliaryFlow
from .coupling import CouplingFlow
from .family import Family
from .gaussians import DiagonalGaussian, FullGaussian

__all__ = ["FAMILIES", "VARIANTS", "as_family", "ladder_rungs", "register", "rung_families"]

FAMILIES: dict[str, type[Family]] = {}
VARIANTS: dict[str, dict[str, Any]] = {"auxiliary-sigmoid": {"family": AuxiliaryFlow.name, "scale": "sigmoid"}}


def register(family: type[Family]) -> type[Family]:
    """Register a family under its name and return it. ValueError if another has its name or its place in the ladder."""
    for other in FAMILIES.values():
        if other is not family and (other.name == family.name or (other.place == family.place is not None)):
            raise ValueError(f"{family.__name__} has the name or the place in the ladder of {other.__name__}")
    FAMILIES[family.name] = family
    return family


for _family in (DiagonalGaussian, FullGaussian, CouplingFlow, AuxiliaryFlow):
    register(_family)


def as_family(name: str, latent_shape: int | Sequence[int], **options: Any) -> Family:
    """The family with this name, or with the name of a variant. ValueError if there is none.

    The variant "auxiliary-sigmoid" is the auxiliary flow of Cremer, Li and Duvenaud (2018), whose scales can only
    contract. `options` are the keyword arguments of the family's class.

    >>> as_family("auxiliary-sigmoid", 50, hidden=100).scale
    'sigmoid'
    """
    if name not in (*FAMILIES, *VARIANTS):
        raise ValueError(f"family must be one of {[*FAMILIES, *VARIANTS]}; got {name!r}")
    given = VARIANTS.get(name, {"family": name}) | options
    return FAMILIES[given.pop("family")](latent_shape, **given)


def rung_families() -> list[type[Family]]:
    """The families that are rungs of the ladder, from the lowest to the highest."""
    placed = [(family.place, family) for family in FAMILIES.values() if family.place is not None]
    return [family for _, family in sorted(placed, key=lambda pair: pair[0])]


def ladder_rungs(own: Family | None) -> tuple[Rung, ...]:
    """The rungs of the ladder with their words, from the lowest to the highest.

    They include q's own family, which comes last if it has no place.
    """
    rungs = {family.name: family.rung() for family in rung_families()}
    if own is not None:
        rungs.setdefault(own.name, own.rung())
    return tuple(sorted(rungs.values(), key=lambda rung: math.inf if rung.place is None else rung.place))
