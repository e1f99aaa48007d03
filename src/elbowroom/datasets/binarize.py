"""How gray pixels become data, always by a rule that is named; and the images that come with the package."""

from importlib import resources

import numpy as np
import torch
from torch import Tensor

from ..core import seeded

__all__ = ["binarize", "demo_images"]


def binarize(images: Tensor | np.ndarray, how: str = "threshold", seed: int | None = None) -> Tensor:
    """Turn uint8 images into floats of the default dtype and the same shape, by a named rule.

    "threshold"   1 where the pixel is at least 128, that is above one half of 255; else 0
    "stochastic"  1 with probability pixel / 255, drawn once under `seed`, which is required
    "gray"        pixel / 255, not binary: a Bernoulli likelihood of it is not normalized
    "gray256"     pixel / 256, the scale of the paper's evaluation code; not binary either

    Raises:
        ValueError: images that are not uint8, an unknown rule, or "stochastic" without a seed.

    >>> binarize(torch.tensor([0, 127, 128, 255], dtype=torch.uint8))
    tensor([0., 0., 1., 1.])
    """
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8:
        raise ValueError(f"binarize expects uint8 pixels, 0 to 255; got {images.dtype}. Pass the images as read.")
    dtype, how = torch.get_default_dtype(), how.replace("grey", "gray")  # both spellings, of which one is documented
    if how == "threshold":
        return (images >= 128).to(dtype)
    if how == "stochastic":
        return _bernoulli(images, seed).to(dtype)
    if how in ("gray", "gray256"):
        return images.to(dtype) / (255 if how == "gray" else 256)
    raise ValueError(f'how must be "threshold", "stochastic", "gray" or "gray256"; got {how!r}')


def demo_images() -> dict[str, Tensor]:
    """The sample of Fashion-MNIST in the package, binarized by "threshold": "train" and "heldout", each (250, 784)."""
    asset = resources.files("elbowroom") / "assets" / "fashion-mnist" / "images.npz"
    with asset.open("rb") as stream, np.load(stream, allow_pickle=False) as packed:
        bits = {name: np.unpackbits(packed[name], axis=1, count=784) for name in ("train", "heldout")}
    return {name: torch.from_numpy(pixels).to(torch.get_default_dtype()) for name, pixels in bits.items()}


def _bernoulli(images: Tensor, seed: int | None) -> Tensor:
    if seed is None:
        raise ValueError('how="stochastic" needs a seed: the drawn images are part of the data')
    uniform = torch.rand(images.shape, generator=seeded(seed, "binarize"), dtype=torch.float32)
    return uniform < images.cpu().float() / 255
