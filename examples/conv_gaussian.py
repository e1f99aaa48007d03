"""A convolutional VAE with BatchNorm and a Gaussian likelihood whose scale is learned.

    elbowroom gaps --model examples/conv_gaussian.py:factory --plan quick

Trains for a few seconds on images of one bright spot each, then hands over the model, the encoder and both sets. To
measure networks of your own, replace `encoder`, `decoder` and `spots`, and read your weights instead of training.
"""

import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.training import Settings, fit

N_LATENT, SIDE, NOISE = 6, 16, 0.2


def encoder() -> nn.Module:
    """Images (N, 1, 16, 16) -> (N, 12): mean and log-variance of six latents."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 2 * N_LATENT),
    )  # fmt: skip


def decoder() -> nn.Module:
    """Latents (R, 6) -> means of the pixels (R, 1, 16, 16)."""
    return nn.Sequential(
        nn.Linear(N_LATENT, 16 * 4 * 4), nn.Unflatten(1, (16, 4, 4)), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
    )  # fmt: skip


def spots(n: int, seed: int) -> Tensor:
    """Images (n, 1, 16, 16) of a round spot somewhere, of some width and brightness, under Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    x, y, width, height = torch.rand(4, n, 1, 1, generator=generator)
    grid = torch.linspace(0, 1, SIDE)
    squares = (grid[None, :, None] - 0.2 - 0.6 * y) ** 2 + (grid[None, None, :] - 0.2 - 0.6 * x) ** 2
    images = (0.5 + height) * torch.exp(-squares / (2 * (0.08 + 0.12 * width) ** 2))
    return (images + NOISE * torch.randn(images.shape, generator=generator))[:, None]


def factory(epochs: int = 12) -> tuple[er.DecoderModel, er.Amortized, dict[str, Tensor]]:
    """What `elbowroom gaps --model` asks for: model, posterior, and named data sets."""
    torch.manual_seed(0)
    model = er.DecoderModel(decoder(), er.likelihoods.gaussian(scale="learned"), N_LATENT)
    q = er.Amortized(encoder(), er.DiagonalGaussian(N_LATENT))
    images = {"train": spots(2000, seed=1), "test": spots(500, seed=2)}
    settings = Settings(epochs=epochs, batch_size=50, learning_rate=3e-3, schedule="cosine")
    fit(model, q, images["train"], settings)
    return model, q, images
