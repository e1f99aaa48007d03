"""Approximate posteriors q(z|x): families of distributions, and two ways to assign each datum a member of a family."""

from .affine import GAUSSIAN_PARAMS, AffineMap, scale_tril
from .auxiliary import AuxiliaryFlow
from .callables import CallablePosterior, as_posterior
from .coupling import CouplingFlow, bounded_log_scale
from .family import WEIGHTS_KEY, Ascent, Budget, Family
from .gaussians import DiagonalGaussian, FullGaussian, complete_sets
from .posterior import Amortized, Local, VariationalDistribution, encoder_context
from .protocols import Distribution, Posterior, PosteriorLike
from .registry import FAMILIES, VARIANTS, as_family, ladder_rungs, register, rung_families
from .small_networks import Params, absorb_context, apply_network, batched_matmul, copy_per_datum, initial_network
from .zuko_flows import ZUKO_FEATURES, ZUKO_KINDS, ZukoPosterior, zuko_posterior

__all__ = [
    "AffineMap",
    "Amortized",
    "Ascent",
    "AuxiliaryFlow",
    "Budget",
    "CallablePosterior",
    "CouplingFlow",
    "DiagonalGaussian",
    "Distribution",
    "FAMILIES",
    "Family",
    "FullGaussian",
    "GAUSSIAN_PARAMS",
    "Local",
    "Params",
    "Posterior",
    "PosteriorLike",
    "VARIANTS",
    "VariationalDistribution",
    "WEIGHTS_KEY",
    "ZUKO_FEATURES",
    "ZUKO_KINDS",
    "ZukoPosterior",
    "absorb_context",
    "apply_network",
    "as_family",
    "as_posterior",
    "batched_matmul",
    "bounded_log_scale",
    "complete_sets",
    "copy_per_datum",
    "encoder_context",
    "initial_network",
    "ladder_rungs",
    "register",
    "rung_families",
    "scale_tril",
    "zuko_posterior",
]
