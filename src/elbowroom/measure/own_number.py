"""The user's own ELBO against ours: whether they agree, and which known mistake explains it if they do not.

    ours = E[log p(x|z)] - KL,    KL = E[log q(z|x) - log p(z)],    in nats, a mean over data

Every explanation is a number that a known mistake would make of ours, or a reading of the encoder's output under which
ours would be theirs. Those that lie within the errors are named.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import Block, Data, as_data, forked, n_data, normal, observed, read_rows, seeded
from ..evidence import CheckError, prepared_pair
from ..models import LatentModel, latent_size, samples_in_a_call
from ..posteriors import Amortized, DiagonalGaussian, PosteriorLike, VariationalDistribution
from .train_mode import train_mode

__all__ = ["OwnNumber", "check_own_number"]

Explanation: TypeAlias = tuple[str, float, float]  # a sentence, the number, and its unit in nats
OwnNumber: TypeAlias = float | Sequence[float] | NDArray[Any] | Tensor | Callable[[Any], Any]
MOST_ERRORS = 4.0  # combined Monte Carlo errors by which the numbers may differ
EQUAL = 1e-4  # of the number, by which they may always differ
CALLS = {4: 8.15, 8: 2.12, 16: 1.37}  # of the user's function: how much wider Student's t is than 4 errors of a normal
MOST_SECONDS = 0.5  # for these calls, beyond which no more are made
MOST_NAMED = 3  # explanations
WEIGHTS = (0.1, 0.25, 0.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0)  # KL weights that people use
DRAWS, LEAST_DRAWS, ALL_DRAWS = 64, 8, 20_000  # of each datum at most and at least, and of all data about
ALL_VALUES = 2**23  # numbers of x that all draws of all data make, about


@dataclass(frozen=True)
class _Terms:
    """Reconstruction and KL (K, N) in nats at K draws of each of N data."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def elbo(self) -> float:
        return float((self.reconstruction - self.kl).mean())

    @property
    def error(self) -> float:
        """The Monte Carlo error of the mean."""
        k, n = self.kl.shape
        return self.error_of_one_draw / math.sqrt(k) if k > 1 and n else math.inf

    @property
    def error_of_one_draw(self) -> float:
        """The same of a mean with a single draw for each datum."""
        each = self.reconstruction - self.kl
        return float((each.var(0).sum() / each.shape[1] ** 2).sqrt())


def check_own_number(model: LatentModel, q: PosteriorLike, x: Data, own: OwnNumber, seed: int) -> str:
    """Compare the user's ELBO, a mean over all N data or one value for each, with ours.

    The error of a single number is not known, and taken for that of one draw for each datum. A function is called with
    the data 4 to 16 times, and its spread is its error.

    Returns:
        A sentence that says how well they agree.
    Raises:
        CheckError: they differ by more than MOST_ERRORS combined errors, with the explanations that fit.
        TypeError: a number of another kind, or a function that does not return one.
        ValueError: an array of another length than N, or a number that is not finite.
    """
    n = n_data(as_data(x))
    terms = _terms_of(model, q, x, seed)
    value, error = _value_and_error(own, x, n, terms)
    limit = MOST_ERRORS * math.hypot(terms.error, error) + EQUAL * abs(value)
    difference = value - terms.elbo
    if abs(difference) <= limit:
        return (
            f"your ELBO {value:.3f} agrees with {terms.elbo:.3f} here: they differ by {difference:+.3f}, and "
            f"{limit:.3f} is allowed"
        )
    found = [
        text
        for text, number, unit in _explanations(model, q, x, seed, terms)
        if math.isfinite(number) and abs(value - number) <= limit * unit
    ]
    reason = "; or ".join(dict.fromkeys(found[:MOST_NAMED])) or _last_resort(terms, value)
    raise CheckError(
        f"your ELBO must be that of the model and q as they are given; yours is {value:.3f} and it is {terms.elbo:.3f} "
        f"here, {abs(difference) / limit * MOST_ERRORS:.0f} combined errors off. What fits: {reason}"
    )


def _last_resort(terms: _Terms, value: float) -> str:
    """The weight of the KL that would explain the number, if there is one."""
    kl, reconstruction = float(terms.kl.mean()), float(terms.reconstruction.mean())
    for sign, words in ((1.0, ""), (-1.0, "the other sign and ")):
        weight = (reconstruction - sign * value) / kl if kl > 0 else math.nan
        if 0 < weight < 1000:
            return f"no known mistake; {words}a weight of {weight:.3g} on the KL would explain it"
    return "no known mistake"


def _value_and_error(own: OwnNumber, x: Data, n: int, terms: _Terms) -> tuple[float, float]:
    """The user's mean and its Monte Carlo error."""
    if callable(own):
        return _of_calls(lambda: float(_array(own(x), n).mean()), terms.error_of_one_draw)
    values = _array(own, n)
    if values.ndim and n > 1:  # paired with ours, datum by datum
        apart = values - (terms.reconstruction - terms.kl).mean(0).numpy()
        return float(values.mean()), float(apart.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()), terms.error_of_one_draw


def _of_calls(call: Callable[[], float], error_of_one_draw: float) -> tuple[float, float]:
    """The mean of several calls of the user's function and its error; more calls if they are fast.

    The spread of few calls may be small by luck, so it is widened as Student's t asks, up to the error of a function
    that draws once for each datum.
    """
    calls: list[float] = []
    start = time.perf_counter()
    with forked(0):
        for n_calls in CALLS:
            calls += [call() for _ in range(n_calls - len(calls))]
            if time.perf_counter() - start > MOST_SECONDS:
                break
    spread, root = float(np.std(calls, ddof=1)), math.sqrt(len(calls))
    if spread == 0:
        return calls[0], error_of_one_draw
    return float(np.mean(calls)), min(CALLS[len(calls)] * spread, max(spread, error_of_one_draw)) / root


def _array(own: object, n: int) -> NDArray[np.float64]:
    """A number, or an array (N,), as an array."""
    given = own.detach().cpu() if isinstance(own, Tensor) else own
    try:
        values = np.asarray(given, dtype=np.float64) if given is not None else None
    except (TypeError, ValueError):
        values = None
    if values is None:
        raise TypeError(f"own_elbo must be a number, N numbers, or a function of x; got {type(own).__name__}")
    if values.ndim and values.shape != (n,):
        raise ValueError(f"own_elbo must be one number or one for each of {n} data; got the shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("own_elbo must be finite; got NaN or infinite values")
    return values


def _terms_of(
    model: LatentModel,
    q: PosteriorLike,
    x: Data,
    seed: int,
    reading: Callable[[Tensor], Tensor] | None = None,
    train: bool = False,
) -> _Terms:
    """The terms at the same draws for every `reading`, which makes log scales of what the encoder's are read as."""
    data = as_data(x)
    n, size = n_data(data), observed(read_rows(data, torch.arange(1))).numel()
    n_draws = max(LEAST_DRAWS, min(DRAWS, ALL_DRAWS // n, ALL_VALUES // (n * size)))
    parts = []
    mode = train_mode(model, q) if train else nullcontext()
    with prepared_pair(model, q, data) as (posterior, blocks), mode, torch.no_grad():
        for block in blocks:
            dist = posterior.rows(block.index)(block.x)
            if reading is not None and isinstance(dist, VariationalDistribution):
                params = dist.params | {"log_scale": reading(dist.params["log_scale"])}
                dist = VariationalDistribution(dist.family, params)
            shape = (n_draws, len(block.index), dist.noise_size)
            z, log_q = dist.rsample_and_log_q(normal(shape, seeded(seed, "own elbo", block.number), block.like))
            parts.append(tuple(part[:, : block.rows] for part in _densities(model, block, z, log_q)))
    return _Terms(torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts], 1))


def _densities(model: LatentModel, block: Block, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    parts = [
        (model.log_likelihood(block.x, part), model.log_prior(part, block.x))
        for part in z.split(samples_in_a_call(block.x, z))
    ]
    likelihood, prior = (torch.cat([pair[i] for pair in parts]).double() for i in range(2))
    return likelihood.cpu(), (log_q.double() - prior).cpu()


def _explanations(model: LatentModel, q: PosteriorLike, x: Data, seed: int, terms: _Terms) -> Iterator[Explanation]:
    """What a known mistake would make of our number, the likely ones first."""
    n, size = n_data(as_data(x)), observed(read_rows(as_data(x), torch.arange(1))).numel()
    yield "the other sign: pass the ELBO, not the loss", -terms.elbo, 1.0
    yield from _other_readings(model, q, x, seed, terms)
    yield from _in_train_mode(model, q, x, seed)
    every = (
        _in_other_units(terms, n, size),
        _with_other_terms(model, terms, size),
        _without_constants(model, terms, size),
    )
    for text, number, unit in (*chain(*every), *_with_other_weights(terms)):
        yield text, number, unit
        yield f"{text}, with the other sign", -number, unit


def _in_other_units(terms: _Terms, n: int, size: int) -> Iterator[Explanation]:
    for text, unit in (
        (f"your number is a sum over the {n} data", n),
        (f"your number is divided by the {size} dimensions of x", 1 / size),
        (f"your number is divided by the {n} data once more", 1 / n),
        (f"your number is divided by the {n} data and the {size} dimensions", 1 / (n * size)),
        ("your number is in bits", 1 / math.log(2)),
        ("your number is in bits per dimension", 1 / (size * math.log(2))),
    ):
        yield text, terms.elbo * unit, unit


def _with_other_terms(model: LatentModel, terms: _Terms, size: int) -> Iterator[Explanation]:
    kl, reconstruction, latents = float(terms.kl.mean()), float(terms.reconstruction.mean()), latent_size(model)
    constant = 0.5 * latents * math.log(2 * math.pi)
    yield "your number is the reconstruction alone, without the KL", reconstruction, 1.0
    yield "your KL is counted twice", reconstruction - 2 * kl, 1.0
    yield "your reconstruction is a mean over the dimensions of x, where a sum belongs", reconstruction / size - kl, 1.0
    yield "your KL is a mean over the latents, where a sum belongs", reconstruction - kl / latents, 1.0
    yield "your log p(z) lacks the constant -L/2 log 2 pi", terms.elbo + constant, 1.0
    yield "your log q(z|x) lacks the constant -L/2 log 2 pi", terms.elbo - constant, 1.0


def _without_constants(model: LatentModel, terms: _Terms, size: int) -> Iterator[Explanation]:
    """Those that leave constants of a density out, which a probability mass has none of."""
    likelihood = getattr(model, "likelihood", None)
    if getattr(likelihood, "discrete", False):
        return
    elbo, kl, reconstruction = terms.elbo, float(terms.kl.mean()), float(terms.reconstruction.mean())
    constant = 0.5 * size * math.log(2 * math.pi)
    yield "your log p(x|z) lacks the constant -D/2 log 2 pi", elbo + constant, 1.0
    yield "your log p(x|z) has half of the constant -D/2 log 2 pi", elbo + 0.5 * constant, 1.0
    yield "your squared errors lack the factor 1/2, and the constant", 2 * (reconstruction + constant) - kl, 2.0
    scale = getattr(likelihood, "constant_scale", None)
    if scale is not None:
        missing = size * math.log(scale)
        yield "your log p(x|z) lacks -D log sigma", elbo + missing, 1.0
        yield "your log p(x|z) lacks -D log sigma and -D/2 log 2 pi", elbo + missing + constant, 1.0


def _with_other_weights(terms: _Terms) -> Iterator[Explanation]:
    kl, reconstruction = float(terms.kl.mean()), float(terms.reconstruction.mean())
    for weight in WEIGHTS:
        text = f"your KL has the weight {weight:g}: declare kl_weight={weight:g}, and compare without it"
        yield text, reconstruction - weight * kl, 1.0


def _other_readings(model: LatentModel, q: PosteriorLike, x: Data, seed: int, terms: _Terms) -> Iterator[Explanation]:
    """The ELBO under other readings of the second output of an encoder of diagonal Gaussians."""
    with prepared_pair(model, q, read_rows(as_data(x), torch.arange(1)), size=1) as (posterior, blocks):
        dist = posterior(blocks[0].x)
    if not (isinstance(dist, VariationalDistribution) and type(dist.family) is DiagonalGaussian):
        return
    if isinstance(q, Amortized):  # what it emits is taken for a log variance, 2 log scale
        kinds: list[tuple[str, Callable[[Tensor], Tensor]]] = [
            ("the encoder's second output is a standard deviation, not a log variance", lambda s: (2 * s).log()),
            ("the encoder's second output is a variance, not a log variance", lambda s: 0.5 * (2 * s).log()),
            ("the encoder's second output is the log of a standard deviation, not of a variance", lambda s: 2 * s),
        ]
    else:
        kinds = [
            ("the scale of q is a variance, where a standard deviation belongs", lambda s: 0.5 * s),
            ("the scale of q is a log variance, where a standard deviation belongs", lambda s: 0.5 * s.exp()),
            ("the scale of q is the log of a standard deviation", lambda s: s.exp()),
        ]
    for text, reading in kinds:
        read = _terms_of(model, q, x, seed, reading)
        yield text, read.elbo, read.error_of_one_draw / terms.error_of_one_draw


def _in_train_mode(model: LatentModel, q: PosteriorLike, x: Data, seed: int) -> Iterator[Explanation]:
    """The ELBO with dropout and batch statistics on, block by block."""
    quiet = _terms_of(model, q, x, seed)
    try:
        with forked(seed):
            loud = _terms_of(model, q, x, seed, train=True)
    except ValueError:  # batch statistics of too few rows
        return
    if abs(loud.elbo - quiet.elbo) > EQUAL * abs(quiet.elbo):
        worse = max(1.0, loud.error_of_one_draw / quiet.error_of_one_draw)
        yield "your number was computed in train mode: call eval() before", loud.elbo, worse
