"""Architecture of a trained VAE: how its networks are built from a few entries of a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from torch import nn

from ..core import forked, seeded
from ..models import DecoderModel, likelihoods
from ..posteriors import (
    FAMILIES,
    VARIANTS,
    ZUKO_FEATURES,
    ZUKO_KINDS,
    Amortized,
    DiagonalGaussian,
    ZukoPosterior,
    as_family,
    zuko_posterior,
)
from .networks import conv_decoder, conv_encoder, mlp_decoder, mlp_encoder

__all__ = ["AmortizedPosterior", "Architecture", "architecture_of", "build", "family_names"]

AmortizedPosterior: TypeAlias = Amortized | ZukoPosterior
NETWORKS = ("mlp", "conv")
LOCATED = ("gaussian", "laplace", "discretized_logistic")  # likelihoods of a location, which need a scale too


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build the networks of a VAE. The defaults are those of Cremer, Li and Duvenaud 2018.

    Attributes:
        n_in: size of a datum, or its shape, such as (3, 32, 32).
        n_latent: number of latents.
        encoder_hidden: widths of the encoder's hidden layers for "mlp", its channels for "conv".
        decoder_hidden: the same for the decoder; three channels for "conv".
        family: family of q, one of `family_names()`.
        likelihood: name of the likelihood.
        scale: a number, "learned" or "decoder" for a gaussian, laplace or discretized_logistic likelihood; else None.
        networks: "mlp", or "conv" for images of 32 x 32 pixels.
    Raises:
        ValueError: an unknown family or kind of network, or sizes or a scale that cannot be.
    """

    n_in: int | tuple[int, ...] = 784
    n_latent: int = 50
    encoder_hidden: tuple[int, ...] = (200, 200)
    decoder_hidden: tuple[int, ...] = (200, 200)
    family: str = DiagonalGaussian.name
    likelihood: str = "bernoulli"
    scale: float | str | None = None
    networks: str = "mlp"

    def __post_init__(self) -> None:
        if self.networks not in NETWORKS or self.family not in family_names():
            raise ValueError(
                f"architecture: expected networks of {list(NETWORKS)} and a family of {family_names()}; "
                f"got {self.networks!r} and {self.family!r}"
            )
        event = self.n_in if isinstance(self.n_in, tuple) else (self.n_in,)
        sizes = (*event, self.n_latent, *self.encoder_hidden, *self.decoder_hidden)
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"architecture: sizes must be positive integers; got {list(sizes)}")
        if self.networks == "conv" and (event[1:] != (32, 32) or len(self.decoder_hidden) != 3):
            raise ValueError(
                "architecture: convolutional networks take images of (channels, 32, 32) and three decoder channels; "
                f"got n_in {list(event)} and decoder_hidden {list(self.decoder_hidden)}"
            )
        if self.likelihood not in LOCATED and self.scale is not None:
            raise ValueError(f"architecture: {self.likelihood} has no scale; got {self.scale!r}, leave it out")
        if self.likelihood in LOCATED and self.scale is None:
            raise ValueError(f'architecture: {self.likelihood} needs scale: a number, "learned" or "decoder"')


def family_names() -> list[str]:
    """The names of the families that q can belong to: those of `as_family`, and the flows of zuko."""
    return [*FAMILIES, *VARIANTS, *ZUKO_KINDS]


def architecture_of(entries: Mapping[str, Any]) -> Architecture:
    """The architecture that the entries of a configuration describe.

    Raises:
        ValueError: an unknown entry, or what `Architecture` raises.
    """
    known = {f.name for f in fields(Architecture)}
    unknown = sorted(entries.keys() - known) if isinstance(entries, Mapping) else [str(entries)]
    if unknown:
        raise ValueError(f"architecture: unknown entries {unknown}; known are {sorted(known)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
    return Architecture(**values)


def build(architecture: Architecture | Mapping[str, Any], seed: int = 0) -> tuple[DecoderModel, AmortizedPosterior]:
    """Build (model, q) with freshly drawn weights, a function of `seed`; the global random state is left as it was.

    Raises:
        ValueError: what `architecture_of` raises.
    """
    a = architecture if isinstance(architecture, Architecture) else architecture_of(architecture)
    likelihood = getattr(likelihoods, a.likelihood)(scale=a.scale) if a.likelihood in LOCATED else a.likelihood
    with forked(seeded(seed, "init").initial_seed()):
        if a.family in ZUKO_KINDS:
            encoder, decoder = _networks(a, 2 * a.n_latent + ZUKO_FEATURES)
            q: AmortizedPosterior = zuko_posterior(a.family, encoder, a.n_latent, seed=seed)
        else:
            family = as_family(a.family, a.n_latent)
            encoder, decoder = _networks(a, family.context_size)
            with torch.no_grad():
                for parameter in encoder[-1].parameters():  # a weight and a bias, a row and a number for each output
                    parameter[family.zero_at_first] = 0.0
            q = Amortized(encoder, family)
        return DecoderModel(decoder, likelihood, a.n_latent), q


def _networks(a: Architecture, n_context: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder. A decoder that also emits scales has twice the channels, or twice the numbers."""
    event = a.n_in if isinstance(a.n_in, tuple) else (a.n_in,)
    first = event[0] * (2 if a.scale == "decoder" else 1)
    if a.networks == "conv":
        return (
            conv_encoder(n_context, a.encoder_hidden, event[0]),
            conv_decoder(a.n_latent, first, a.decoder_hidden),
        )
    encoder = mlp_encoder(event, n_context, a.encoder_hidden)
    n_out = first
    for size in event[1:]:
        n_out *= size
    decoder = mlp_decoder(a.n_latent, n_out, a.decoder_hidden)
    if len(event) > 1:
        decoder.append(nn.Unflatten(1, (first, *event[1:])))
    return encoder, decoder
