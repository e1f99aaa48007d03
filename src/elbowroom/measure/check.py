"""`check` finds what is wrong with a model or a posterior before any number is computed from it.

Each check fails with one line that says what was expected, what was found, and what to do.
"""

from __future__ import annotations  # signatures in help() then show types by their names

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..core import Block, Data, MapStyle, Rows, as_data, forked, n_data, normal, observed, read_rows, seeded
from ..evidence import CheckError, check_door, prepared, prepared_pair
from ..models import DecoderModel, LatentModel, latent_size, log_joint, modules_of
from ..posteriors import Local, Posterior, PosteriorLike, VariationalDistribution
from .densities import check_density, check_slope
from .own_number import OwnNumber, check_own_number
from .train_mode import train_mode

__all__ = ["check", "data_notes"]

CHECK_SAMPLES = 4
MODE_TOLERANCE = 1.0  # nats by which the ELBO may differ between train and eval mode
MODE_SHARE = 0.005  # or this share of the ELBO: batch statistics of 256 images cost a good VAE some 2 of 890 nats
CROWD = 256  # rows on which the modes are compared; the batch statistics of fewer rows are too noisy
BATCH_TOLERANCE = 0.01  # nats by which a datum's terms may depend on its batch, beyond rounding


def check(
    model: LatentModel,
    q: PosteriorLike | None,
    x: Data,
    seed: int = 0,
    own_elbo: OwnNumber | None = None,
    missing: bool = False,
) -> list[str]:
    """Check a model, a posterior and data before anything is measured, and against the user's own ELBO.

    On the first rows of x these are shapes, finiteness, gradients, train and eval mode, batch independence, and that a
    likelihood of the user's own is a density. The model and the global random state are left as they were.

    Args:
        model: a `LatentModel`.
        q: a posterior, or None to check the model alone.
        x: N data.
        seed: seed of the draws.
        own_elbo: the ELBO of the user's own code on x, in nats: a mean over the N data, a value for each, or a function
            of x. Ours must lie within 4 combined Monte Carlo errors; if not, the explanations that fit are named.
        missing: NaN in x stands for missing numbers, of which the likelihood and q take care.
    Returns:
        Notes on what is unusual but not an error, each also issued as a UserWarning; and how well the ELBOs agree.
    Raises:
        CheckError: the first fault that was found, in one line.
        TypeError: an `own_elbo` of another kind.
        ValueError: an `own_elbo` that is not finite, or has another number of values than x has data.
    """
    try:
        check_door(model, q, x)
    except (ValueError, TypeError) as error:  # the sentence of whatever it went through
        raise error if isinstance(error, CheckError) else CheckError(str(error)) from error
    data = as_data(x)
    first = torch.arange(min(n_data(data), 8))
    head = read_rows(data, first)
    few = q.rows(first) if isinstance(q, Local) else q
    with prepared(model, few, head, size=len(first)) as (posterior, blocks), forked(seed):
        block = blocks[0]
        _check_data(block.x, missing, getattr(model, "mask", None))
        noise = normal((CHECK_SAMPLES, len(block.index), latent_size(model)), seeded(seed, "check"), block.like)
        _check_model(model, block.x, noise)
        check_slope(model, block.x, noise, seed)
        notes = check_density(model, block.x, seed)
        if posterior is not None:
            _check_posterior(posterior, block, seed)
    crowd = torch.arange(min(n_data(data), CROWD))
    local = q.rows(crowd) if isinstance(q, Local) else q
    if local is not None:
        with prepared_pair(model, local, read_rows(data, crowd), size=len(crowd)) as (posterior, blocks), forked(seed):
            _check_modes(model, local, posterior, blocks[0], seed)
    notes += data_notes(model, data)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if own_elbo is None:
        return notes
    if q is None:
        raise ValueError("own_elbo needs q, whose ELBO it is; got None")
    return [*notes, check_own_number(model, q, data, own_elbo, seed)]


def data_notes(model: LatentModel, x: Rows | MapStyle) -> list[str]:
    """Notes on what is unusual about the data for this likelihood, from at most the first 256 rows.

    They are about a learned scale that was not learned, gray values under a Bernoulli likelihood, 8-bit data under a
    continuous density, and other data under a likelihood of 8-bit levels.
    """
    likelihood = getattr(model, "likelihood", None)
    name = getattr(likelihood, "name", None)
    learned = getattr(likelihood, "log_scale", None)
    if isinstance(learned, Tensor) and bool((learned == 0).all()):
        return [
            f'the learned scale of likelihood "{name}" is exactly 1, as it starts: was it trained, or its value loaded?'
        ]
    data = observed(read_rows(x, torch.arange(min(n_data(x), 256)))).double()
    if name in ("bernoulli", "bernoulli_probs") and not bool(((data == 0) | (data == 1)).all()):
        return ["gray values under a Bernoulli likelihood: an unnormalized quantity, not comparable with binary data"]
    levels = (data * 255).round() / 255
    eight_bit = bool((torch.isclose(data, levels, atol=1e-6)).all()) and bool(((data >= 0) & (data <= 1)).all())
    if name == "discretized_logistic" and not eight_bit:
        return ["values that are not k / 255: a discretized logistic scores the nearest level"]
    fine = data.unique().numel() > 2
    if name in ("gaussian", "laplace", "continuous_bernoulli") and eight_bit and fine:
        return [
            "a continuous density on 8-bit data: log p(x) can grow without bound; dequantize, or use a discrete one"
        ]
    return []


def _saturation(model: LatentModel, x: Rows, z: Tensor) -> str:
    """The cause of values that are not finite, if it is that probabilities are exactly 0 or 1."""
    if not isinstance(model, DecoderModel) or model.likelihood.name != "bernoulli_probs":
        return ""
    with torch.no_grad():
        probs, logits = model.probabilities(z, x)
    if logits is not None or not isinstance(probs, Tensor):
        return ""
    share = ((probs == 0) | (probs == 1)).double().mean().item()
    return (
        ""
        if share == 0
        else (
            f". {share:.2%} of the decoder's probabilities are exactly 0 or 1, which removes data from all bounds: "
            'return logits, with likelihood "bernoulli", or end the decoder in a sigmoid, or make it double precision'
        )
    )


def _check_data(x: Rows, missing: bool, mask: str | None) -> None:
    data = x["x"] if isinstance(x, Mapping) and "x" in x else x
    if isinstance(data, Mapping):
        raise CheckError(f'a mapping must hold the data under "x"; got keys {sorted(data)}')
    bad = ~torch.isfinite(data) if data.is_floating_point() else torch.zeros_like(data, dtype=torch.bool)
    if missing:
        bad &= ~torch.isnan(data)
    if mask is not None and isinstance(x, Mapping) and mask in x:
        bad &= x[mask].bool()
    if bad.any():
        raise CheckError(
            f"x must be finite; got {int(bad.sum())} NaN or infinite values in its first rows. Where NaN is a missing "
            "number, name a mask in er.DecoderModel(mask=), or pass missing=True if your likelihood knows NaN"
        )


def _check_model(model: LatentModel, x: Rows, z: Tensor) -> None:
    """Finiteness, gradient and batch independence of log p(x, z) at standard normal z."""
    with _named("log_likelihood"):
        point = z.clone().requires_grad_()
        with torch.enable_grad():
            value = log_joint(model, x, point)
            likelihood = model.log_likelihood(x, point)
    if not torch.isfinite(value).all():
        raise CheckError(
            f"log p(x, z) must be finite at draws from N(0, I); got {_bad(value)} of {value.numel()} that are not"
            f"{_saturation(model, x, z)}"
        )
    if not _depends_on(likelihood, point):
        raise CheckError("log_likelihood must be differentiable in z; it does not depend on z, or detaches it")
    (grad,) = torch.autograd.grad(value.sum(), point)
    if not torch.isfinite(grad).all():
        raise CheckError(
            f"the gradient of log p(x, z) in z must be finite; got {_bad(grad)} of {grad.numel()} that are not"
            f"{_saturation(model, x, z)}"
        )
    first = read_rows(x, torch.arange(1))
    with _named("log_likelihood"), torch.no_grad():
        alone = log_joint(model, first, z[:, :1])[:, 0]
    difference = (alone - value.detach()[:, 0]).abs().max().item()
    if difference > BATCH_TOLERANCE + 1e-4 * value.detach().abs().max().item():
        raise CheckError(
            f"log p(x, z) of a datum must not depend on its batch; alone it differs by {difference:.3g} nats. "
            "A normalization over the batch is still active in eval mode: track its running statistics."
        )


def _check_posterior(q: Posterior, block: Block, seed: int) -> None:
    """Finiteness and batch independence of q."""
    x, n = block.x, len(block.index)
    with _named("q"), torch.no_grad():
        dist = q(x)
        noise = normal((CHECK_SAMPLES, n, dist.noise_size), seeded(seed, "check-q"), block.like)
        z, log_q = dist.rsample_and_log_q(noise)
        if not (torch.isfinite(z).all() and torch.isfinite(log_q).all()):
            raise CheckError(f"q must give finite z and log q; got {_bad(z) + _bad(log_q)} values that are not")
        if not isinstance(dist, VariationalDistribution):
            return
        single = q.rows(torch.arange(1))(read_rows(x, torch.arange(1))).rsample_and_log_q(noise[:, :1])[0]
        difference = (single[:, 0] - z[:, 0]).abs().max().item()
        if difference > 1e-3 * (1 + z.abs().max().item()):
            raise CheckError(
                f"q of a datum must not depend on its batch; alone its z differs by {difference:.3g}. "
                "A normalization over the batch is still active in eval mode: track its running statistics."
            )


def _check_modes(model: LatentModel, q: PosteriorLike, posterior: Posterior, block: Block, seed: int) -> None:
    """The ELBO in train mode against eval mode: stale running statistics show here."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    if not any(isinstance(part, kind) for module in modules_of(model, q) for part in module.modules()):
        return
    try:
        quiet = _rough_elbo(model, posterior, block, seed)
        with train_mode(model, q, kind):
            loud = _rough_elbo(model, posterior, block, seed)
    except ValueError:  # a batch too small for train mode says nothing of eval mode
        return
    n = len(block.index)
    # the statistics of a small batch cost nats in train mode; that eval mode is the worse one needs another reason
    difference = abs(loud - quiet) if n >= CROWD // 2 else loud - quiet
    if difference > max(MODE_TOLERANCE, MODE_SHARE * abs(quiet)):
        raise CheckError(
            f"the ELBO must not change between train and eval mode; got {loud:.2f} and {quiet:.2f} nats. BatchNorm's "
            "running statistics are stale: pass training batches through the model in train mode before measuring."
        )


def _rough_elbo(model: LatentModel, q: Posterior, block: Block, seed: int) -> float:
    x = block.x
    with torch.no_grad():
        dist = q(x)
        noise = normal((16, len(block.index), dist.noise_size), seeded(seed, "check-mode"), block.like)
        z, log_q = dist.rsample_and_log_q(noise)
        value = (log_joint(model, x, z) - log_q).mean().item()
    return value if math.isfinite(value) else math.inf


def _depends_on(value: Tensor, point: Tensor) -> bool:
    """Whether there is a way from `point` to `value`; one that only parameters lead to requires a gradient too."""
    if not value.requires_grad:
        return False
    (slope,) = torch.autograd.grad(value.sum(), point, retain_graph=True, allow_unused=True)
    return slope is not None


@contextmanager
def _named(who: str) -> Iterator[None]:
    """Errors of foreign code in one line that names whose they are."""
    try:
        yield
    except CheckError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise CheckError(f"{who} failed on the first rows of x: {type(error).__name__}: {text}") from error


def _bad(value: Tensor) -> int:
    return int((~torch.isfinite(value)).sum())
