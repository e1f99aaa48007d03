"""A model whose likelihood is raised to a power: the target for which the encoder of a beta-VAE was trained."""

from torch import Tensor

from ..core import Rows
from .protocols import LatentModel

__all__ = ["Tempered"]


class Tempered:
    """p(z) p(x|z)^(1/b), with b = kl_weight: the target of a beta-VAE's encoder (Higgins et al. 2017).

    It is used only to fit q, never for a bound, since p(x|z)^(1/b) is not a normalized density of x.
    """

    def __init__(self, model: LatentModel, kl_weight: float) -> None:
        self.model = model
        self.kl_weight = float(kl_weight)
        self.latent_shape = model.latent_shape
        if hasattr(model, "sample_prior"):
            self.sample_prior = model.sample_prior

    def log_prior(self, z: Tensor, x: Rows) -> Tensor:
        """log p(z) in nats, unchanged: (S, N, D) -> (S, N)."""
        return self.model.log_prior(z, x)

    def log_likelihood(self, x: Rows, z: Tensor) -> Tensor:
        """log p(x|z) / b in nats: x with N rows, z (S, N, D) -> (S, N)."""
        return self.model.log_likelihood(x, z) / self.kl_weight
