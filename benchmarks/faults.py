"""Faults that people bring: what share `check` finds, without and with the user's own number; and its false alarms.

The sound VAE is trained here for a few seconds. A fault is planted in what is handed to `check`, while the user's own
number stays that of the sound VAE by plain code.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, distributions, nn
from torch.distributions import Independent, Normal

import elbowroom as er
from elbowroom.datasets import demo_images
from elbowroom.training import demo_model

__all__ = ["faults"]

P, D, N, NOISE = 16, 3, 200, 0.3
SEEDS = 10  # of each sound model
Setup: TypeAlias = tuple[Any, Any, Any]  # model, q, x
Own: TypeAlias = Callable[[Any], float]


@dataclass(frozen=True)
class Trained:
    """A VAE of bits or reals: encoder -> (mean, log variance), decoder -> logits or mean, and N data."""

    encoder: nn.Module
    decoder: nn.Module
    x: Tensor
    binary: bool

    def own(self, _: Any = None) -> float:
        """The mean ELBO of the data with one draw for each, as people compute it."""
        with torch.no_grad():
            mean, log_var = self.encoder(self.x).chunk(2, -1)
            out = self.decoder(mean + (0.5 * log_var).exp() * torch.randn_like(mean))
            if self.binary:
                reconstruction = -nn.functional.binary_cross_entropy_with_logits(out, self.x, reduction="none").sum(-1)
            else:
                reconstruction = Normal(out, NOISE).log_prob(self.x).sum(-1)
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        return float((reconstruction - kl).mean())

    @property
    def likelihood(self) -> Any:
        return "bernoulli" if self.binary else er.likelihoods.gaussian(NOISE)

    def model(self, decoder: Any = None, likelihood: Any = None, prior: Any = None) -> er.DecoderModel:
        return er.DecoderModel(decoder or self.decoder, likelihood or self.likelihood, D, prior)

    def q(self, encoder: Any = None) -> er.Amortized:
        return er.Amortized(encoder or self.encoder, er.DiagonalGaussian(D))


def trained(binary: bool, seed: int = 0, middle: Callable[[], nn.Module] = nn.Tanh) -> Trained:
    """A VAE after 400 steps of Adam."""
    g = torch.Generator().manual_seed(seed)
    z, weight = torch.randn(N, D, generator=g), torch.randn(D, P, generator=g)
    if binary:
        x = (torch.rand(N, P, generator=g) < (2 * z @ weight).sigmoid()).float()
    else:
        x = torch.tanh(z @ weight) + NOISE * torch.randn(N, P, generator=g)
    torch.manual_seed(seed)
    made = Trained(
        nn.Sequential(nn.Linear(P, 32), middle(), nn.Linear(32, 2 * D)),
        nn.Sequential(nn.Linear(D, 32), middle(), nn.Linear(32, P)),
        x,
        binary,
    )
    optimizer = torch.optim.Adam([*made.encoder.parameters(), *made.decoder.parameters()], 5e-3)
    for _ in range(400):
        mean, log_var = made.encoder(x).chunk(2, -1)
        out = made.decoder(mean + (0.5 * log_var).exp() * torch.randn_like(mean))
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        scored = distributions.Bernoulli(logits=out) if binary else Normal(out, NOISE)
        optimizer.zero_grad()
        (kl - scored.log_prob(x).sum(-1)).mean().backward()
        optimizer.step()
    made.encoder.eval()
    made.decoder.eval()
    return made


# ---- faults


def _changed(net: nn.Module, change: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    return lambda value: change(net(value))


def _with_second(bits: Trained, change: Callable[[Tensor], Tensor]) -> Setup:
    """The encoder's second output changed, and read as a log variance."""

    def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = bits.encoder(x).chunk(2, -1)
        return mean, change(log_var)

    return bits.model(), bits.q(encoder), bits.x


def _fresh(n_in: int, n_out: int) -> nn.Module:
    torch.manual_seed(99)
    return nn.Sequential(nn.Linear(n_in, 32), nn.Tanh(), nn.Linear(32, n_out))


class _Random(torch.utils.data.Dataset[Tensor]):
    """Bits that are drawn at every reading."""

    def __init__(self, p: Tensor) -> None:
        self.p = p

    def __len__(self) -> int:
        return len(self.p)

    def __getitem__(self, i: int) -> Tensor:
        return torch.bernoulli(0.1 + 0.8 * self.p[i])


def _normalized(net: nn.Module, width: int, tracked: bool) -> nn.Module:
    """A network behind a BatchNorm, whose statistics were never run (tracked) or are those of the batch."""
    return nn.Sequential(nn.BatchNorm1d(width, track_running_stats=tracked, affine=False), net).train(False)


def _straight_through(decoder: nn.Module) -> Callable[[Tensor], Tensor]:
    def decode(z: Tensor) -> Tensor:
        nearest = (2 * z).round() / 2
        return decoder(z + (nearest - z).detach())

    return decode


def _fitted_scale(x: Tensor, out: Tensor) -> Tensor:
    scale = (x - out).square().mean(-1, keepdim=True).sqrt().clamp(min=1e-3)
    return Normal(out, scale).log_prob(x).sum(-1)


def _faults(bits: Trained, reals: Trained) -> dict[str, tuple[Setup, Own]]:
    """Setups with a fault each, and the own number beside them."""
    b, r = bits.own, reals.own
    ok, okr = (bits.model(), bits.q(), bits.x), (reals.model(), reals.q(), reals.x)
    nan = reals.x.clone()
    nan[1, 1] = torch.nan
    two = lambda out: (out[:, :D].softmax(-1), out[:, D:])  # noqa: E731
    made: dict[str, tuple[Setup, Own]] = {
        "probabilities where logits belong": ((bits.model(_changed(bits.decoder, torch.sigmoid)), *ok[1:]), b),
        "logits where probabilities belong": ((bits.model(likelihood="bernoulli_probs"), *ok[1:]), b),
        "standard deviation read as log variance": (_with_second(bits, lambda v: (0.5 * v).exp()), b),
        "variance read as log variance": (_with_second(bits, torch.exp), b),
        "log of the scale read as log variance": (_with_second(bits, lambda v: 0.5 * v), b),
        "mean and log variance exchanged": (
            (ok[0], bits.q(_changed(bits.encoder, lambda o: o.chunk(2, -1)[::-1])), ok[2]),
            b,
        ),
        "Gaussian of scale 1": ((reals.model(likelihood=er.likelihoods.gaussian(1.0)), *okr[1:]), r),
        "variance given as scale": ((reals.model(likelihood=er.likelihoods.gaussian(NOISE**2)), *okr[1:]), r),
        "learned scale that was not loaded": (
            (reals.model(likelihood=er.likelihoods.gaussian("learned")), *okr[1:]),
            r,
        ),
        "pixels to 255": ((*ok[:2], 255 * bits.x), b),
        "data on another scale than in training": ((*okr[:2], (reals.x - reals.x.mean()) / reals.x.std()), r),
        "NaN in the data": ((*okr[:2], nan), r),
        "data that change": ((*ok[:2], _Random(bits.x)), b),
        "mean over dimensions in the likelihood": (
            (reals.model(likelihood=lambda x, out: Normal(out, NOISE).log_prob(x).mean(-1)), *okr[1:]),
            r,
        ),
        "likelihood that is not summed": (
            (reals.model(likelihood=lambda x, out: Normal(out, NOISE).log_prob(x)), *okr[1:]),
            r,
        ),
        "squared error without its constant": (
            (reals.model(likelihood=lambda x, out: -0.5 * ((x - out) / NOISE).square().sum(-1)), *okr[1:]),
            r,
        ),
        "scale fitted to each datum": ((reals.model(likelihood=_fitted_scale), *okr[1:]), r),
        "prior counted twice": (
            (
                er.FunctionModel(
                    lambda x, z: reals.model().log_likelihood(x, z) + Normal(0.0, 1.0).log_prob(z).sum(-1), D
                ),
                *okr[1:],
            ),
            r,
        ),
        "another prior than in training": (
            (bits.model(prior=Independent(Normal(torch.zeros(D), 2.0, validate_args=False), 1)), *ok[1:]),
            b,
        ),
        "dropout that is always on": (
            (bits.model(lambda z: bits.decoder(nn.functional.dropout(z, 0.3, training=True))), *ok[1:]),
            b,
        ),
        "BatchNorm without running statistics": (
            (ok[0], bits.q(_normalized(bits.encoder, P, False)), ok[2]),
            b,
        ),
        "BatchNorm whose statistics were never run": (
            (okr[0], reals.q(_normalized(reals.encoder, P, True)), reals.x + 5),
            lambda _: float(
                er.elbo(okr[0], reals.q(lambda x: reals.encoder((x - x.mean(0)) / x.std(0))), reals.x + 5).mean
            ),
        ),
        "decoder that detaches z": ((bits.model(lambda z: bits.decoder(z.detach())), *ok[1:]), b),
        "straight-through codes": ((bits.model(_straight_through(bits.decoder)), *ok[1:]), b),
        "one-hot latents": (
            (ok[0], lambda x: distributions.OneHotCategorical(logits=bits.encoder(x)[:, :D]), ok[2]),
            b,
        ),
        "latents on a simplex": ((ok[0], lambda x: distributions.Dirichlet(two(bits.encoder(x))[0] + 0.1), ok[2]), b),
        "q that is not summed over latents": ((ok[0], lambda x: Normal(bits.encoder(x), 1.0), ok[2]), b),
        "decoder that was not loaded": ((bits.model(_fresh(D, P)), *ok[1:]), b),
        "encoder that was not loaded": ((ok[0], bits.q(_fresh(P, 2 * D)), ok[2]), b),
        "encoder's rows in another order than the data": ((ok[0], bits.q(lambda x: bits.encoder(x.flip(1))), ok[2]), b),
    }
    return made


def _found(setup: Setup, own: Own | float | None) -> str | None:
    """What check says is wrong; None if it finds nothing. A note counts as found if it names the fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            notes = er.check(*setup, own_elbo=own)
        except (ValueError, TypeError) as error:
            return str(error)
    named = [note for note in notes if "exactly 1, as it starts" in note]
    return named[0] if named else None


# ---- sound models


def _sound(seed: int) -> dict[str, tuple[Setup, Own]]:
    """Thirty sound models with their own numbers, by the model's and q's own densities on one draw for each datum."""
    torch.manual_seed(1000 + seed)
    made: dict[str, tuple[Setup, Own]] = {}
    for kind in ("tanh", "dropout", "batch norm"):
        layers: dict[str, Callable[[], nn.Module]] = {
            "tanh": nn.Tanh,
            "dropout": lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.2)),
            "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(32, momentum=0.3), nn.ReLU()),
        }
        for binary in (True, False):
            vae = trained(binary, seed, layers[kind])
            made[f"{kind}, {'bits' if binary else 'reals'}"] = ((vae.model(), vae.q(), vae.x), vae.own)
    names: list[tuple[str, Any, int]] = [
        ("continuous_bernoulli", "continuous_bernoulli", 1),
        ("laplace", er.likelihoods.laplace(0.5), 1),
        ("gaussian, decoder", er.likelihoods.gaussian("decoder"), 2),
        ("discretized_logistic", er.likelihoods.discretized_logistic(0.1), 1),
        ("student_t", er.likelihoods.student_t(4, 0.5), 1),
        ("poisson", "poisson", 1),
        ("negative_binomial", "negative_binomial", 2),
        ("zero_inflated_negative_binomial", "zero_inflated_negative_binomial", 3),
        ("beta_binomial", er.likelihoods.beta_binomial(10), 2),
        ("von_mises", "von_mises", 2),
        ("own normal", lambda out: Normal(out, 0.5), 1),
        ("own bits", lambda out: distributions.Bernoulli(logits=out), 1),
    ]
    for name, likelihood, wide in names:
        for size in (2, 20):
            decoder = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, wide * P))
            model = er.DecoderModel(decoder, likelihood, size)
            g = torch.Generator().manual_seed(seed)
            x = model.sample_data(torch.randn(N, size, generator=g), None, g)
            encoder = nn.Sequential(nn.Linear(P, 32), nn.Tanh(), nn.Linear(32, 2 * size))
            q = er.Amortized(
                lambda x, net=encoder: 0.3 * net(x / (1 + x.abs().mean(-1, keepdim=True))), er.DiagonalGaussian(size)
            )
            made[f"{name}, {size} latents"] = ((model, q, x), _own_of(model, q))
    return made


def _own_of(model: Any, q: Any) -> Own:
    def own(x: Tensor) -> float:
        with torch.no_grad():
            dist = q(x)
            z, log_q = dist.rsample_and_log_q(torch.randn(1, len(x), dist.noise_size))
            return float((model.log_prior(z, x) + model.log_likelihood(x, z) - log_q).mean())

    return own


def faults(folder: Path) -> dict[str, Any]:
    """The table of planted faults, the rate of false alarms, and the cost of a check."""
    torch.set_num_threads(1)
    rows, found, with_own = [], 0, 0
    for name, (setup, own) in _faults(trained(True), trained(False)).items():
        alone, beside = _found(setup, None), _found(setup, own)
        found, with_own = found + (alone is not None), with_own + (beside is not None)
        rows.append(
            [name, "found" if alone else "-", "found" if beside else "-", (beside or "")[:110].replace("|", "/")]
        )
        print(" | ".join(rows[-1]), flush=True)
    alarms: list[str] = []
    total = 0
    for seed in range(SEEDS):
        for name, (setup, own) in _sound(seed).items():
            total += 1
            complaint = _found(setup, own)
            if complaint:
                alarms.append(f"{name}, seed {seed}: {complaint}")
                print(alarms[-1], flush=True)
    model, q = demo_model()
    demo = _seconds((model, q, demo_images()["heldout"]))
    notes = [
        f"{found} of {len(rows)} faults are found without the user's own number, {with_own} with it",
        f"false alarms: {len(alarms)} of {total} checks of 30 sound models, {SEEDS} seeds each, own numbers included",
        f"a check takes {demo:.1f} s on the demo's model, and {_seconds(_cifar()):.1f} s on convolutions for CIFAR-10",
    ]
    return {"rows": rows, "notes": notes}


def _cifar() -> Setup:
    """A decoder of 3 x 32 x 32 images by convolutions, with 128 latents and random weights."""
    torch.manual_seed(0)
    up = nn.Sequential(
        nn.Linear(128, 1024), nn.Unflatten(1, (64, 4, 4)), nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 6, 4, 2, 1),
    )  # fmt: skip
    down = nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 256)
    )
    model = er.DecoderModel(up, er.likelihoods.gaussian("decoder"), 128)
    g = torch.Generator().manual_seed(0)
    x = model.sample_data(torch.randn(500, 128, generator=g), None, g)
    return model, er.Amortized(down, er.DiagonalGaussian(128)), x


def _seconds(setup: Setup) -> float:
    start = time.perf_counter()
    _found(setup, -1.0)
    return time.perf_counter() - start
