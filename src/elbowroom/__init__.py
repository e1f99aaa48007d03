"""A posterior is a module that returns a distribution; an inference gap is what changes when you swap two of them."""

from . import likelihoods
from .ais import ais
from .bounds import elbo, iwae
from .checks import check
from .estimate import Estimate
from .families import AuxiliaryFlow, CouplingFlow, DiagonalGaussian, FullGaussian
from .gaps import Plan, decompose
from .ladder import Gaps, compare, load_gaps
from .local import Fit, fit_local, refine
from .model import DecoderModel, FunctionModel, LinearGaussian
from .posteriors import Amortized, Local
from .sandwich import Sandwich, sandwich

__version__ = "0.1.0"
__all__ = [
    "Amortized",
    "AuxiliaryFlow",
    "CouplingFlow",
    "DecoderModel",
    "DiagonalGaussian",
    "Estimate",
    "Fit",
    "FullGaussian",
    "FunctionModel",
    "Gaps",
    "LinearGaussian",
    "Local",
    "Plan",
    "Sandwich",
    "ais",
    "check",
    "compare",
    "decompose",
    "elbo",
    "fit_local",
    "iwae",
    "likelihoods",
    "load_gaps",
    "refine",
    "sandwich",
]
