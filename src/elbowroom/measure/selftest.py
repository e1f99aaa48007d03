r"""The pipeline on models with known answers: truth beside estimate, and their distance in standard errors.

    x | z ~ N(W z + b, sigma^2 I),  z ~ N(0, I)   (`LinearGaussian`)

The truth of each rung has a closed form and is averaged over the same data as the estimate, so that Monte Carlo
(`mc_se`) is the only error between them. An unbiased estimate may be off on neither side. A lower bound may not lie
above the truth at all, but may fall short of it by `SHORTFALL` nats, since a fit may end before its optimum; an upper
bound is the other way round. All rows together raise a false alarm with probability `FALSE_ALARM` at most.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import observed, seeded
from ..models import LinearGaussian
from ..posteriors import Amortized, DiagonalGaussian, FullGaussian
from ..results import Estimate, Gaps
from .decompose import decompose
from .sandwich import sandwich

__all__ = ["FALSE_ALARM", "N_MODELS", "SHORTFALL", "TruthRow", "limit_of", "off", "run_selftest"]

FALSE_ALARM = 1e-6  # largest probability that a selftest of a correct installation fails
SHORTFALL = 0.03  # nats per datum that an unfinished local fit may cost
ROUNDING = 1e-6  # nats: estimates without Monte-Carlo error are exact up to this
ONE_DATUM = 0.02  # nats: twice the error of log p(x) of one datum from 2,000 draws of nearly the posterior
N_DATA = 50


@dataclass(frozen=True, kw_only=True)
class TruthRow:
    """One quantity whose truth is known, in nats per datum.

    Attributes:
        model: name of the model.
        quantity: name of the quantity.
        truth: its true value.
        estimate: its estimate.
        error: Monte Carlo error of the estimate.
        side: side on which the estimate may err, as in `Estimate`.
        shortfall: how far the estimate may lie from the truth on that side.
    """

    model: str
    quantity: str
    truth: float
    estimate: float
    error: float
    side: str
    shortfall: float

    @property
    def distance(self) -> float:
        """Signed standard errors from the truth, beyond the shortfall that the side allows; NaN for a NaN estimate."""
        low = self.shortfall if self.side in ("lower", "neither") else 0.0
        high = self.shortfall if self.side in ("upper", "neither") else 0.0
        gap = self.estimate - self.truth
        return (max(gap - high, 0.0) if gap > 0 else min(gap + low, 0.0)) / self.error


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A model, and an encoder with `tilt` times the right mean plus `shift`, and `width` times the right scale."""

    name: str
    n_observed: int
    n_latent: int
    scale: float
    tilt: float = 1.0
    shift: float = 0.0
    width: float = 1.0
    kl_weight: float = 1.0


CASES = (
    _Case(name="2 latents", n_observed=4, n_latent=2, scale=0.7),
    _Case(name="10 latents", n_observed=20, n_latent=10, scale=0.5),
    _Case(name="wrong encoder, 5 latents", n_observed=10, n_latent=5, scale=0.6, tilt=0.9, shift=0.3, width=1.4),
    _Case(name="beta-VAE (4), 5 latents", n_observed=10, n_latent=5, scale=0.6, kl_weight=4.0),
)
N_MODELS = len(CASES) + 1  # the cases, and one for the sandwich


def limit_of(n_rows: int) -> float:
    """Standard errors beyond which one of `n_rows` rows is off: a two-sided normal quantile, Bonferroni-corrected.

    >>> round(limit_of(31), 1)
    5.5
    """
    return NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * n_rows))


def off(rows: Sequence[TruthRow]) -> list[TruthRow]:
    """The rows that chance does not explain; a row whose distance is NaN is one of them."""
    return [row for row in rows if not abs(row.distance) <= limit_of(len(rows))]


def run_selftest(seed: int = 0, progress: Callable[[int, int], None] | None = None) -> list[TruthRow]:
    """Compare the ladder of each case, and the sandwich on the second, with their closed forms.

    Args:
        seed: seed of the models, the data and all draws.
        progress: called with (models done, models in all).
    Returns:
        All rows; `off` tells which of them fail.
    """
    rows: list[TruthRow] = []
    for done, case in enumerate(CASES):
        rows += list(_ladder_rows(case, seed))
        if progress is not None:
            progress(done + 1, N_MODELS)
    rows += list(_sandwich_rows(CASES[1], seed))
    if progress is not None:
        progress(N_MODELS, N_MODELS)
    return rows


def _ladder_rows(case: _Case, seed: int) -> Iterator[TruthRow]:
    model, q, mean, covariance = _build(case, seed)
    generator = seeded(seed, "selftest", case.name)
    z = torch.randn(N_DATA, case.n_latent, generator=generator, dtype=torch.float64)
    x = observed(model.sample_data(z, None, generator))
    gaps = decompose(model, q, x, seed=seed, kl_weight=case.kl_weight)
    truth = _truths(model, x, mean(x), covariance, case.kl_weight)
    for name, estimate in _measured(gaps).items():
        side = "neither" if name in ("encoder", "mismatch") else estimate.side
        shortfall = 0.0 if estimate is gaps.elbo else SHORTFALL
        yield _row(case, name, truth[name], estimate.mean, estimate.mc_se, side, shortfall)
    yield _furthest(case, model.log_evidence(x).numpy(), gaps.log_evidence)


def _row(
    case: _Case, quantity: str, truth: float, estimate: float, error: float, side: str, shortfall: float = SHORTFALL
) -> TruthRow:
    return TruthRow(
        model=case.name,
        quantity=quantity,
        truth=truth,
        estimate=estimate,
        error=float(np.hypot(error, ROUNDING)),
        side=side,
        shortfall=shortfall,
    )


def _furthest(case: _Case, truth: NDArray[np.float64], estimate: Estimate) -> TruthRow:
    """The datum whose log p(x) is furthest off. Its own error is no excuse: a full Gaussian is the posterior here."""
    worst = int(np.argmax(np.abs(estimate.values - truth)))
    return TruthRow(
        model=case.name,
        quantity="log p(x), furthest",
        truth=truth[worst],
        estimate=estimate.values[worst],
        error=ONE_DATUM,
        side=estimate.side,
        shortfall=SHORTFALL,
    )


def _measured(gaps: Gaps) -> dict[str, Estimate]:
    """What a case is compared on: rungs, and the steps between them that have a closed form."""
    rungs = [gaps.elbo, gaps.local[DiagonalGaussian.name], gaps.local[FullGaussian.name], gaps.log_evidence]
    closed = ("amortization", "encoder", "mismatch", "factorization")
    steps = {name: step for name, step in gaps.steps.items() if name in closed}
    return {**{rung.name: rung for rung in rungs}, **steps}


def _truths(model: LinearGaussian, x: Tensor, mean: Tensor, covariance: Tensor, kl_weight: float) -> dict[str, float]:
    """Closed forms, averaged over x, by what they are called in a ladder. The best full Gaussian is the posterior."""
    elbo = model.exact_elbo(x, mean, covariance).mean().item()
    diagonal, full = (model.best_elbo(x, full=full).mean().item() for full in (False, True))
    tempered = model.best_elbo(x, kl_weight=kl_weight).mean().item()
    return {
        "L[q]": elbo, f"L[q*_{DiagonalGaussian.name}]": diagonal, f"L[q*_{FullGaussian.name}]": full,
        "log p(x)": model.log_evidence(x).mean().item(), "amortization": diagonal - elbo,
        "factorization": full - diagonal, "encoder": tempered - elbo, "mismatch": diagonal - tempered,
    }  # fmt: skip


def _sandwich_rows(case: _Case, seed: int) -> Iterator[TruthRow]:
    """Both bounds against log p of the simulated data; the upper one's error is that of its distances to the truth."""
    model = _build(case, seed)[0]
    both = sandwich(model, N_DATA, seed=seed)
    truth = model.log_evidence(observed(both.x)).numpy()
    for name, estimate in (("sandwich, below", both.lower), ("sandwich, above", both.upper)):
        distances = estimate.values - truth
        error = float(distances.std(ddof=1) / np.sqrt(N_DATA))
        yield _row(case, name, float(truth.mean()), estimate.mean, error, estimate.side)


def _build(case: _Case, seed: int) -> tuple[LinearGaussian, Amortized, Callable[[Tensor], Tensor], Tensor]:
    """The model, its posterior q, q's mean as a function of x, and q's covariance."""
    generator = seeded(seed, "selftest model", case.name)
    weight = torch.randn(case.n_observed, case.n_latent, generator=generator, dtype=torch.float64) / case.n_latent**0.5
    bias = torch.randn(case.n_observed, generator=generator, dtype=torch.float64)
    model = LinearGaussian(weight, bias, case.scale)
    variance = case.width**2 / model.precision(case.kl_weight).diagonal()

    def mean(x: Tensor) -> Tensor:
        return case.tilt * model.posterior_mean(x, case.kl_weight) + case.shift

    def net(x: Tensor) -> tuple[Tensor, Tensor]:
        centers = mean(x)
        return centers, variance.log().expand_as(centers)

    return model, Amortized(net, DiagonalGaussian(case.n_latent)), mean, torch.diag(variance)
