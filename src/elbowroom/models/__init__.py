"""Latent-variable models p(z) p(x|z): the protocols that estimators rely on, and classes that implement them."""

from . import likelihoods
from .compiled import CompiledModel
from .decoder import DecoderModel
from .function import FunctionModel
from .joint import log_joint, log_joint_and_grad, samples_in_a_call, value_and_grad
from .linear_gaussian import LinearGaussian
from .modules import called, device_and_dtype, evaluating, modules_of, n_parameters
from .own_priors import Prior, VampPrior
from .prior import is_standard_normal, prior_draws
from .protocols import LatentModel, SamplesData, SamplesPrior, as_shape, can_sample_prior, latent_size, samples_prior
from .tempered import Tempered

__all__ = [
    "CompiledModel",
    "DecoderModel",
    "FunctionModel",
    "LatentModel",
    "LinearGaussian",
    "Prior",
    "SamplesData",
    "SamplesPrior",
    "Tempered",
    "VampPrior",
    "as_shape",
    "called",
    "can_sample_prior",
    "device_and_dtype",
    "evaluating",
    "is_standard_normal",
    "latent_size",
    "likelihoods",
    "log_joint",
    "log_joint_and_grad",
    "modules_of",
    "n_parameters",
    "prior_draws",
    "samples_in_a_call",
    "samples_prior",
    "value_and_grad",
]
