"""A model with its likelihood raised to a power: the target that the encoder of a beta-VAE was trained towards."""

from torch import Tensor

from ..core import Rows
from .protocols import LatentModel

__all__ = ["Tempered"]


class Tempered:
    """p(z) p(x|z)^(1/b): what the encoder of a beta-VAE was trained towards. Only for fitting q, never for a bound."""

    def __init__(self, model: LatentModel, kl_weight: float) -> None:
        self.model = model
        self.kl_weight = float(kl_weight)
        self.latent_shape = model.latent_shape
        if hasattr(model, "sample_prior"):
            self.sample_prior = model.sample_prior

    def log_prior(self, z: Tensor, x: Rows) -> Tensor:
        """log p(z), unchanged."""
        return self.model.log_prior(z, x)

    def log_likelihood(self, x: Rows, z: Tensor) -> Tensor:
        """log p(x|z) / b."""
        return self.model.log_likelihood(x, z) / self.kl_weight
