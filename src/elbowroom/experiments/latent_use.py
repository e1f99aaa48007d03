"""How much of its latents a model uses."""

import numpy as np
import torch

from ..core import normal, seeded
from .experiment import NamedArrays, Trained

__all__ = ["ACTIVE", "latent_use"]

ACTIVE = 0.01  # variance over data of a latent's posterior mean, above which it is active (Burda et al. 2015)
N_DRAWS = 64


def latent_use(trained: Trained) -> NamedArrays:
    """What the encoder says of each of D latents on the training images, by draws of q(z|x).

    Returns:
        "kl": (D,) the mean over images of the KL divergence in nats from N(0, 1) of a Gaussian with the mean and the
            variance of the latent under q. It is that of q itself where q is a factorized Gaussian.
        "spread": (D,) the variance over images of the latent's mean.
    """
    x = trained.images["train"]
    with torch.no_grad():
        dist = trained.q(x)
        noise = normal((N_DRAWS, len(x), dist.noise_size), seeded(0, "latent use"), x, data_axis=1)
        z = dist.rsample_and_log_q(torch.cat([noise, -noise]))[0].double()
    mean, variance = z.mean(0), z.var(0)
    kl = 0.5 * (mean**2 + variance - 1 - variance.log())
    return {"kl": kl.mean(0).numpy(), "spread": np.asarray(mean.var(0))}
