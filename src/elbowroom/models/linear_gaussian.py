"""Probabilistic PCA (Tipping and Bishop 1999), where every quantity has a closed form: the oracle of the tests."""

import torch
from torch import Tensor

from .decoder import DecoderModel
from .likelihoods import gaussian

__all__ = ["LinearGaussian"]


class LinearGaussian(DecoderModel):
    """Probabilistic PCA (Tipping and Bishop 1999): z ~ N(0, I), x|z ~ N(W z + b, sigma^2 I).

    Its closed forms are the exact values that estimators are tested against.

    Args:
        weight: W, (P, D).
        bias: b, (P,).
        scale: sigma, positive.
    Raises:
        ValueError: a scale that is not positive.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, scale: float) -> None:
        super().__init__(self._mean, gaussian(scale), weight.shape[1])
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.scale = float(scale)

    def extra_repr(self) -> str:
        """The numbers of features and latents and the scale, which torch prints."""
        return f"{len(self.bias)} features, {self.weight.shape[1]} latents, scale {self.scale:g}"

    def _mean(self, z: Tensor) -> Tensor:
        return z @ self.weight.T + self.bias

    def precision(self, kl_weight: float = 1.0) -> Tensor:
        """Precision (D, D) of the posterior of p(z) p(x|z)^(1/w), with w = kl_weight: I + W'W / (w sigma^2)."""
        eye = torch.eye(self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        return eye + self.weight.T @ self.weight / (kl_weight * self.scale**2)

    def posterior_mean(self, x: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Mean (N, D) of the posterior of p(z) p(x|z)^(1/w), with w = kl_weight, for x (N, P)."""
        right = (x - self.bias) @ self.weight / (kl_weight * self.scale**2)
        return torch.linalg.solve(self.precision(kl_weight), right.T).T

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W' + sigma^2 I) in nats: x (N, P) -> (N,)."""
        eye = torch.eye(self.weight.shape[0], dtype=self.weight.dtype, device=self.weight.device)
        covariance = self.weight @ self.weight.T + self.scale**2 * eye
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)

    def exact_elbo(self, x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
        """The ELBO of q = N(mean, covariance) in nats, log p(x) - KL(q || p(z|x)), (N,).

        x is (N, P), mean is (N, D), and covariance is (N, D, D) or (D, D).
        """
        a = self.precision()
        delta = mean - self.posterior_mean(x)
        trace = torch.einsum("ij,...ji->...", a, covariance)
        quadratic = torch.einsum("ni,ij,nj->n", delta, a, delta)
        log_dets = torch.logdet(a) + torch.logdet(covariance)
        return self.log_evidence(x) - 0.5 * (trace + quadratic - len(a) - log_dets)

    def best_elbo(self, x: Tensor, *, full: bool = False, kl_weight: float = 1.0) -> Tensor:
        """The ELBO in nats, (N,), of the Gaussian that is best for p(z) p(x|z)^(1/w), with w = kl_weight.

        That Gaussian is diagonal unless `full`. Its ELBO is taken under the model itself, where w = 1.
        """
        a = self.precision(kl_weight)
        covariance = torch.linalg.inv(a) if full else torch.diag(1.0 / a.diagonal())
        return self.exact_elbo(x, self.posterior_mean(x, kl_weight), covariance)
