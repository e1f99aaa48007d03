"""Provenance: what tells one saved run from another, in a form that JSON can hold."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core import MapStyle, Rows, digest_of, n_data
from ..models import LatentModel, latent_size, modules_of

__all__ = ["described", "described_data"]


def described(model: LatentModel, q: object) -> dict[str, Any]:
    """Describe model and posterior, each by its class and a SHA-256 of its numbers.

    The hash covers every parameter and buffer of the networks that can be found in it; it is None where there are none.
    """
    family = getattr(q, "family", None)
    return {
        "model": {
            "class": type(model).__name__,
            "likelihood": getattr(getattr(model, "likelihood", None), "name", None),
            "latents": latent_size(model),
            "weights": _weights(model),
        },
        "posterior": {
            "class": type(q).__name__,
            "family": None if family is None else family.name,
            "weights": _weights(q),
        },
    }


def described_data(x: Rows | MapStyle) -> dict[str, Any]:
    """Describe data by their sizes and a SHA-256 of their numbers. Data that are read row by row have no hash."""
    if not isinstance(x, Tensor | Mapping):
        return {"n": n_data(x), "shapes": None, "sha256": None}
    tensors = x if isinstance(x, Mapping) else {"x": x}
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    return {"n": n_data(x), "shapes": shapes, "sha256": digest_of(x)}


def _weights(thing: object) -> str | None:
    """A hash of the networks behind a model or posterior; None where there are none."""
    tensors = {
        f"{i}.{name}": value
        for i, module in enumerate(modules_of(thing))
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)  # the extra state of a module may be anything
    }
    return digest_of(tensors) if tensors else None
