"""VAEs of pythae (Chadebec and others 2022) as (model, q).

Its VAEs have a diagonal Gaussian q, whose encoder gives the mean and the log variance; that of VAE_IAF is moved by a
flow. The losses are, for each datum,

    "mse"   |x - m|^2 / 2 + beta KL     N(x; m, I) less the constant -D/2 log 2 pi, or N(x; m, beta I) for beta = 1
    "bce"   cross-entropy + beta KL     Bernoulli, whose decoder gives probabilities
"""

from __future__ import annotations  # signatures in help() then show types by their names

import importlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from ..core import Rows
from ..measure import check
from ..models import DecoderModel, VampPrior, likelihoods
from ..posteriors import Amortized, DiagonalGaussian, VariationalDistribution
from .registry import Adapter

__all__ = ["PYTHAE", "FlowDistribution", "FlowPosterior", "pythae"]

SUPPORTED = {  # classes with p(x|z) and a diagonal Gaussian q; whether they are trained on the ELBO, beta apart
    "VAE": True,
    "BetaVAE": True,
    "VAMP": True,
    "IWAE": False,
    "MIWAE": False,
    "CIWAE": False,
    "PIWAE": False,
    "BetaTCVAE": False,
    "DisentangledBetaVAE": False,
    "FactorVAE": False,
    "INFOVAE_MMD": False,
    "VAE_IAF": True,
}
REFUSED = {
    **dict.fromkeys(("AE", "RAE_GP", "RAE_L2", "WAE_MMD"), "it is an autoencoder without q(z|x), so it has no ELBO"),
    **dict.fromkeys(("VQVAE", "HRQVAE"), "its latents are discrete codes"),
    **dict.fromkeys(("Adversarial_AE", "VAEGAN"), "its loss is adversarial, so there is no density p(x|z)"),
    "MSSSIM_VAE": "its loss of structural similarity is no density p(x|z)",
    **dict.fromkeys(("HVAE", "RHVAE"), "its q follows a Hamiltonian flow of the model, which is not supported yet"),
    **dict.fromkeys(("SVAE", "PoincareVAE"), "its latents lie on a curved space, where Gaussian fits do not apply"),
    "VAE_LinNF": "its q is a flow whose parameters the encoder gives, which is not supported yet",
}


class _Encoded(Protocol):
    embedding: Tensor
    log_covariance: Tensor


class _Moved(Protocol):
    out: Tensor
    log_abs_det_jac: Tensor


class _Flow(Protocol):
    def __call__(self, z: Tensor, /) -> _Moved: ...
    def inverse(self, e: Tensor, /) -> _Moved: ...


class _Config(Protocol):
    reconstruction_loss: str
    input_dim: tuple[int, ...]


class _Source(Protocol):
    """What is used of a VAE of pythae; `number_components` and what has to do with inputs are VAMP's alone."""

    latent_dim: int
    input_dim: tuple[int, ...]
    training: bool
    model_config: _Config
    number_components: int
    idle_input: Tensor
    iaf_flow: _Flow

    def encoder(self, x: Tensor, /) -> _Encoded: ...
    def decoder(self, z: Tensor, /) -> dict[str, Tensor]: ...
    def loss_function(self, *terms: Tensor | int) -> tuple[Tensor, Tensor, Tensor]: ...
    def pseudo_inputs(self, x: Tensor, /) -> Tensor: ...
    def train(self, mode: bool = True) -> object: ...


def pythae(
    model: nn.Module, x: Tensor | None = None, sigma: Literal["unit", "implied"] = "unit"
) -> tuple[DecoderModel, Amortized | FlowPosterior]:
    """The model and the posterior of a trained VAE of pythae.

    Args:
        model: an instance of VAE, BetaVAE, VAMP, IWAE, MIWAE, CIWAE, PIWAE, BetaTCVAE, DisentangledBetaVAE, FactorVAE,
            INFOVAE_MMD or VAE_IAF, whose q is a flow: only its inference gap is a step. It is left as it is.
        x: some data (N, *input_dim), on which the ELBO is compared with the model's own loss; None to leave it out.
        sigma: how a loss of squared errors with a beta other than 1 is read: "unit" is N(x; m, I), trained with
            kl_weight=beta; "implied" is N(x; m, beta I), trained on the ELBO. The gaps of the two differ.
    Raises:
        CheckError: the ELBO on x is not that of the model's own loss. It is a ValueError.
        TypeError: no model of pythae, or one without a density or a q that is supported; the reason is said.
        ValueError: another loss, or another `sigma`.
    """
    name = _supported_name(model)
    source = cast(_Source, model)
    loss = source.model_config.reconstruction_loss
    if loss not in ("mse", "bce") or sigma not in ("unit", "implied"):
        raise ValueError(f'the loss must be "mse" or "bce", and sigma "unit" or "implied"; got {loss!r} and {sigma!r}')
    beta = float(getattr(source.model_config, "beta", 1.0)) if name == "BetaVAE" else 1.0
    implied = sigma == "implied" and loss == "mse"
    likelihood = likelihoods.gaussian(math.sqrt(beta) if implied else 1.0) if loss == "mse" else "bernoulli_probs"
    prior = _vamp_prior(model) if name == "VAMP" else None
    size = int(source.latent_dim)
    made = DecoderModel(_Decoder(model), likelihood, size, prior)
    gaussian = Amortized(_Encoder(model), DiagonalGaussian(size))
    q = FlowPosterior(model, gaussian) if name == "VAE_IAF" else gaussian
    if beta != 1 and not implied:
        other = f', or pythae(model, sigma="implied") for variance {beta:g} and the ELBO' if loss == "mse" else ""
        warnings.warn(f"trained with beta = {beta:g}: pass kl_weight={beta:g} to decompose{other}", stacklevel=2)
    if not SUPPORTED[name]:
        warnings.warn(
            f"{name} is not trained on the ELBO: its amortization gap includes that of the objective", stacklevel=2
        )
    if x is not None:
        check(made, q, x, own_elbo=lambda data: _own_elbo(source, data, loss, made, name == "VAE_IAF"))
    return made, q


def _supported_name(model: object) -> str:
    """The nearest class of pythae that the model is an instance of, if it is supported."""
    for kind in type(model).__mro__:
        if not kind.__module__.startswith("pythae.models"):
            continue
        if kind.__name__ in SUPPORTED:
            return kind.__name__
        reason = REFUSED.get(kind.__name__)
        if reason is not None:
            raise TypeError(f"{kind.__name__} of pythae cannot be measured: {reason}")
    raise TypeError(
        f"pythae takes a VAE of pythae, one of {', '.join(SUPPORTED)}; got {type(model).__name__}. For a module of "
        "your own use er.plain"
    )


def _own_elbo(source: _Source, x: Tensor, loss: str, made: DecoderModel, is_flow: bool) -> float:
    """The ELBO of pythae's own terms, with the constant that its squared errors leave out."""
    mode = source.training
    source.train(False)
    try:
        with torch.no_grad():
            encoded = source.encoder(x)
            mean, log_var = encoded.embedding, encoded.log_covariance
            z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
            moved = source.iaf_flow.inverse(z) if is_flow else None
            output = source.decoder(z if moved is None else moved.out)["reconstruction"]
            # where KL is an average over draws, log p(z) and log q(z|x) lack the same constant
            if moved is not None:
                flow_terms = (mean, log_var, z, moved.out, moved.log_abs_det_jac)
                _, reconstruction, kl = source.loss_function(output, x, *flow_terms)
            elif isinstance(made.prior, VampPrior):
                _, reconstruction, kl = source.loss_function(output, x, mean, log_var, z, 100)
            else:
                _, reconstruction, kl = _vae_loss(source)(source, output, x, mean, log_var, z)
    finally:
        source.train(mode)
    n = x[0].numel()
    scale = getattr(made.likelihood, "constant_scale", None)
    if loss == "mse" and scale is not None:
        reconstruction = reconstruction / scale**2 + 0.5 * n * math.log(2 * math.pi) + n * math.log(scale)
    return -float(reconstruction + kl)


def _vae_loss(source: object) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The loss of the class VAE, from which the others inherit."""
    return next(vars(kind)["loss_function"] for kind in type(source).__mro__ if kind.__name__ == "VAE")


class _Encoder(nn.Module):
    """x -> (mean, log variance)."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output = cast(_Source, self.source).encoder(x)
        return output.embedding, output.log_covariance


class _Decoder(nn.Module):
    """z -> means or probabilities, shaped as x."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source

    def forward(self, z: Tensor) -> Tensor:
        source = cast(_Source, self.source)
        output = source.decoder(z)["reconstruction"]
        return output.reshape(len(z), *source.input_dim)


def _vamp_prior(model: nn.Module) -> VampPrior:
    """The prior of a VAMP, the mixture of its encoder's answers to pseudo-inputs."""
    source = cast(_Source, model)

    def pseudo_inputs() -> Tensor:
        shape = (int(source.number_components), *source.model_config.input_dim)
        return source.pseudo_inputs(source.idle_input).reshape(shape)

    return VampPrior(_Encoder(model), pseudo_inputs)


class FlowPosterior(nn.Module):
    """q(z|x) of a VAE_IAF: an inverse autoregressive flow of the encoder's Gaussian (Kingma and others 2016)."""

    def __init__(self, source: nn.Module, gaussian: Amortized) -> None:
        super().__init__()
        self.source, self.gaussian = source, gaussian

    def forward(self, x: Rows) -> FlowDistribution:
        """The distribution of each of the N data in x."""
        return FlowDistribution(self.gaussian(x), cast(_Source, self.source).iaf_flow)

    def rows(self, index: Tensor) -> FlowPosterior:
        """The posterior itself, since an encoder serves any rows."""
        return self


class FlowDistribution:
    """A Gaussian of each datum, moved by a flow of pythae that all data share."""

    has_density = True

    def __init__(self, start: VariationalDistribution, flow: _Flow) -> None:
        self.start, self.flow, self.noise_size = start, flow, start.noise_size

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise (S, N, D) to z (S, N, D) and log q in nats (S, N)."""
        e, log_q = self.start.rsample_and_log_q(noise)
        moved = self.flow.inverse(e.flatten(0, 1))
        return moved.out.reshape(e.shape), log_q - moved.log_abs_det_jac.reshape(log_q.shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N), without a gradient."""
        with torch.no_grad():
            back = self.flow(z.flatten(0, 1))
            return self.start.log_prob(back.out.reshape(z.shape)) + back.log_abs_det_jac.reshape(z.shape[:2])


def _load(folder: Path) -> tuple[DecoderModel, Amortized | FlowPosterior]:
    """The model that pythae saved in a folder. Networks of the user's own are pickled there, and refused."""
    pickled = [name for name in ("encoder.pkl", "decoder.pkl") if (folder / name).exists()]
    if pickled:
        raise ValueError(
            f"{folder} must hold tensors alone; {' and '.join(pickled)} can run code when read. Build the model in a "
            "factory, and pass --model file.py:factory"
        )
    return pythae(importlib.import_module("pythae.models").AutoModel.load_from_folder(str(folder)))


PYTHAE = Adapter(load=_load)
