"""A VAE of the usual repository, one module with methods to encode and decode, as (model, q).

What the methods return cannot be told from their shapes: two tensors may be a mean and a log variance, or a mean and a
standard deviation. So it is asked, and `check(..., own_elbo=)` finds a wrong answer.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, distributions, nn

from ..core import Rows, forked, kind_of, observed
from ..models import DecoderModel, Prior, VampPrior, likelihoods
from ..posteriors import Amortized, CallablePosterior, DiagonalGaussian

__all__ = ["plain"]

Encode: TypeAlias = Literal["mean_logvar", "mean_std", "layers", "distribution"]
Decode: TypeAlias = Literal["logits", "probs", "mean", "mean_logvar", "distribution"]
LikelihoodLike: TypeAlias = str | likelihoods.Likelihood | Callable[..., Any]
PriorLike: TypeAlias = Prior | Callable[[Tensor], Tensor] | Literal["vamp"] | None
ENCODERS, DECODERS = ("encode", "encoder"), ("decode", "decoder")  # methods or modules, by the names that people use
PSEUDO_INPUTS = ("pseudo_inputs", "pseudoinputs", "pseudos", "means")  # of a VampPrior, by the names that people use
LATENT_SIZES = ("latent_dim", "latent_size", "latent_dims", "n_latent", "n_latents", "z_dim", "zdim", "dim_z", "z_size")


def plain(
    net: nn.Module,
    likelihood: LikelihoodLike | None = None,
    encode: Encode | None = None,
    decode: Decode | None = None,
    latent_shape: int | Sequence[int] | None = None,
    prior: PriorLike = None,
) -> tuple[DecoderModel, Amortized | CallablePosterior]:
    """The model and the posterior of a VAE that is one module.

    Args:
        net: a trained module with a method or a submodule `encode` or `encoder`, called with x (N, *event), and
            `decode` or `decoder`, called with z (R, *latent_shape). It is left as it is.
        likelihood: as in `DecoderModel`. It may be left out where `decode` implies it: "logits" is a Bernoulli's,
            "probs" a Bernoulli's too, "mean_logvar" a Gaussian's, and "distribution" its own.
        encode: what the encoder returns: "mean_logvar" or "mean_std", two tensors (N, *latent_shape) or one with both
            side by side; "layers", a pair (mean, log variance) for each layer of latents, which are joined to one
            vector; or "distribution", a torch Distribution.
        decode: what the decoder returns: "logits", "probs", "mean", "mean_logvar" (two tensors, or one with twice the
            channels), or "distribution".
        latent_shape: D, or a tuple; None for the module's attribute of a usual name, such as `latent_dim`.
        prior: as in `DecoderModel`, None for N(0, I); or "vamp" for the mixture of the encoder's answers to the
            module's pseudo-inputs, which is its tensor `pseudo_inputs`, or what its method or submodule of that name or
            `means` returns, called with the module's `idle_input` if there is one.
    Raises:
        TypeError: `net` is no module, or a likelihood or a prior of another kind.
        ValueError: an answer that is missing or unknown, a module without such methods or pseudo-inputs, or no
            latent_shape.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch module with encode and decode; got {type(net).__name__}")
    _require(
        "encode", encode, get_args(Encode), "two tensors may be (mean, log variance) or (mean, standard deviation)"
    )
    _require("decode", decode, get_args(Decode), "a tensor may be logits, probabilities or a mean")
    encoder, decoder = _Part(net, _name_of(net, ENCODERS)), _Part(net, _name_of(net, DECODERS))
    shape = latent_shape if latent_shape is not None else _latent_size(net)
    kind = _DistributionModel if decode == "distribution" else DecoderModel
    gaussian = _Gaussian(encoder, str(encode))
    own_prior: Any = prior
    if isinstance(prior, str):
        own_prior = _vamp_prior(net, gaussian, prior, str(encode))
    model = kind(decoder, _likelihood(likelihood, str(decode)), shape, own_prior)
    if encode == "distribution":
        return model, CallablePosterior(encoder)
    return model, Amortized(gaussian, DiagonalGaussian(shape))


class _Part(nn.Module):
    """A method or a submodule of a module, as a module of its own, so that the whole is in eval mode when it runs."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net, self.name = net, name

    def forward(self, x: Tensor) -> object:
        return getattr(self.net, self.name)(x)


class _DistributionModel(DecoderModel):
    """A model whose decoder returns torch distributions of rows (R, *event)."""

    def log_likelihood(self, x: Rows, z: Tensor) -> Tensor:
        """log p(x|z) in nats: x (N, *event), z (S, N, D) -> (S, N)."""
        s, n = z.shape[:2]
        data = observed(x)
        value = self._answer(z).log_prob(data.expand(s, *data.shape).flatten(0, 1))
        return value.reshape(s, n, -1).sum(-1)

    def sample_data(self, z: Tensor, x: Any, generator: torch.Generator) -> Any:
        """Simulate one datum for each z (N, D)."""
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with forked(seed, generator.device), torch.no_grad():
            return self._answer(z[None]).sample()

    def _answer(self, z: Tensor) -> distributions.Distribution:
        return _its_own(self.decoder(z.reshape(-1, *self.latent_shape)))


class _Gaussian(nn.Module):
    """An encoder's mean and scale as mean and log variance, (N, D) each."""

    def __init__(self, encoder: nn.Module, encode: str) -> None:
        super().__init__()
        self.encoder, self.encode = encoder, encode

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output = self.encoder(x)
        parts = output.chunk(2, dim=1) if isinstance(output, Tensor) else output
        if self.encode == "layers":
            parts = _side_by_side(parts)
        gives_std = self.encode == "mean_std"
        if not isinstance(parts, tuple | list) or len(parts) != 2 or not all(isinstance(p, Tensor) for p in parts):
            got = f"{len(parts)} parts" if isinstance(parts, tuple | list) else type(parts).__name__
            if isinstance(parts, tuple | list) and not all(isinstance(p, Tensor) for p in parts):
                got = 'lists of tensors. Where these are a pair for each layer of latents, encode is "layers"'
            scale = "standard deviation" if gives_std else "log variance"
            raise ValueError(
                f"the encoder must return two tensors, a mean and its {scale}; got {got}. Give the module a method "
                "encode that returns those two"
            )
        mean, second = (part.flatten(1) for part in parts)
        if not gives_std:
            return mean, second
        if bool((second <= 0).any()):
            raise ValueError(
                'encode="mean_std" says that the second output is a standard deviation; got values that are not '
                'positive. It may be a log variance: encode="mean_logvar"'
            )
        return mean, 2 * second.log()


def _side_by_side(layers: object) -> list[Tensor]:
    """The means of all layers of latents side by side, (N, D), and their log variances.

    Raises:
        ValueError: they are not a pair of tensors of one shape for each layer.
    """
    pairs = layers if isinstance(layers, tuple | list) else ()
    for pair in pairs or (None,):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or getattr(pair[0], "shape", 0) != pair[1].shape:
            raise ValueError(
                'encode="layers" says that the encoder returns a pair (mean, log variance) of one shape for each '
                f"layer; got {kind_of(layers)} that holds {kind_of(pair)}"
            )
    return [torch.cat([part.flatten(1) for part in parts], dim=1) for parts in zip(*pairs, strict=True)]


def _vamp_prior(net: nn.Module, encoder: _Gaussian, name: str, encode: str) -> VampPrior:
    """The prior that is the mixture of the encoder's answers to the pseudo-inputs of the module."""
    if name != "vamp":
        raise ValueError(f'prior must be "vamp", an object with log_prob, a function or None; got {name!r}')
    if encode == "distribution":
        raise ValueError('prior="vamp" needs an encode that gives a Gaussian; got "distribution"')
    found = next((name for name in PSEUDO_INPUTS if getattr(net, name, None) is not None), None)
    if found is None:
        raise ValueError(
            f'prior="vamp" needs pseudo-inputs, and {type(net).__name__} has none of {", ".join(PSEUDO_INPUTS)}. Add a '
            "method pseudo_inputs that returns them"
        )
    idle = getattr(net, "idle_input", None)

    def pseudo_inputs() -> Tensor:
        source = getattr(net, found)
        if not callable(source):
            return torch.as_tensor(source)
        inputs: Tensor = source() if idle is None else source(idle)
        return inputs

    return VampPrior(encoder, pseudo_inputs)


def _require(name: str, given: object, known: tuple[str, ...], reason: str) -> None:
    """Raise ValueError unless the answer is one of those that are known."""
    if given in known:
        return
    options = " or ".join(f'"{option}"' for option in known)
    if given is None:
        raise ValueError(f"{name} must say what the module returns, for {reason}: {name}={options}")
    raise ValueError(f"{name} must be {options}; got {given!r}")


def _name_of(net: nn.Module, names: tuple[str, ...]) -> str:
    """The first of these names that the module has."""
    for name in names:
        if callable(getattr(net, name, None)):
            return name
    has = sorted(name for name, _ in net.named_children())
    raise ValueError(
        f"{type(net).__name__} must have {' or '.join(names)}; its submodules are {has}. Add a method of that name, or "
        "use er.DecoderModel and er.Amortized"
    )


def _latent_size(net: nn.Module) -> int:
    """The number of latents by an attribute of a usual name."""
    for name in LATENT_SIZES:
        size = getattr(net, name, None)
        if isinstance(size, int) and not isinstance(size, bool):
            return size
    raise ValueError(
        f"latent_shape must be given, because {type(net).__name__} has no attribute such as {LATENT_SIZES[0]}: "
        "latent_shape=20, for example"
    )


def _likelihood(given: LikelihoodLike | None, decode: str) -> LikelihoodLike:
    """The likelihood that was given, checked against what the decoder returns, or the one that `decode` implies."""
    implied: dict[str, LikelihoodLike] = {
        "logits": "bernoulli",
        "probs": "bernoulli_probs",
        "mean_logvar": likelihoods.gaussian("decoder"),
        "distribution": _its_own,
    }
    if given is None:
        if decode not in implied:
            raise ValueError(
                'decode="mean" needs a likelihood, for instance er.likelihoods.gaussian(0.1). For a loss of a times '
                "the sum of squared errors plus b times the KL, the variance is b / (2 a)"
            )
        return implied[decode]
    if decode == "distribution":
        raise ValueError('decode="distribution" brings its own likelihood; leave likelihood out')
    if decode == "probs" and given == "bernoulli":
        return "bernoulli_probs"
    return given


def _its_own(output: object) -> distributions.Distribution:
    """The distribution that a decoder returns."""
    if not isinstance(output, distributions.Distribution):
        raise TypeError(f'decode="distribution" says that the decoder returns one; got {type(output).__name__}')
    return output
