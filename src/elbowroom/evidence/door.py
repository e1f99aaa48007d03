"""Checks that every entry point makes on the first rows of the data.

A setup that cannot be right is refused with a one-sentence error instead of a number. The checks cost a few passes of
16 rows; `check` is more thorough.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core import (
    Data,
    MapStyle,
    Rows,
    adapter_for,
    as_data,
    forked,
    n_data,
    normal,
    observed,
    raised_here,
    read_rows,
    seeded,
)
from ..models import DecoderModel, LatentModel, latent_size, log_joint
from ..posteriors import Local, PosteriorLike
from .preparation import prepared
from .supports import fault_of_support, lies_on_a_sphere

__all__ = ["CheckError", "check_door", "check_logits", "check_range"]

ROWS, SAMPLES = 8, 2
VALUES_AT_ONCE = 2**18  # of the data that are checked
ORDER = "The order of the arguments is (model, q, x)."
UNIT = {  # likelihoods whose data lie between 0 and 1
    "discretized_logistic": "pixels k / 255, k = 0..255",
    "continuous_bernoulli": "values from 0 to 1",
    "bernoulli": "values from 0 to 1",
    "bernoulli_probs": "values from 0 to 1",
}


class CheckError(ValueError):
    """A model, a posterior or data that cannot be measured as they are."""


def check_door(model: LatentModel, q: PosteriorLike | None, x: Data) -> None:
    """Check the arguments on the first rows of x, and refuse what cannot be right.

    This catches arguments of the wrong kind or in the wrong order, networks that are random in eval mode, a single
    datum or integers where networks take batches of floats, pixels from 0 to 255, probabilities where a Bernoulli takes
    logits, latents that are discrete or constrained, data that change when they are read again, a q of the wrong size,
    and densities of the wrong shape.

    Raises:
        CheckError: what is wrong, in one line. An error from the user's own code is reported as such.
        TypeError: data that can only be iterated, or a q that does not return a distribution.
        ValueError: no data, or a density of the model that is not (S, N).
    """
    _check_kinds(model, q)
    _refuse(fault_of_support("the prior", getattr(model, "prior", None)))
    data = as_data(x)
    check_readings(data)
    if isinstance(q, Local) and q.n != n_data(data):
        return  # the estimator says what is wrong
    first = torch.arange(min(n_data(data), ROWS))
    few, head = q.rows(first) if isinstance(q, Local) else q, read_rows(data, first)
    with prepared(model, few, head, size=len(first)) as (posterior, blocks), forked(0), torch.no_grad():
        block = blocks[0]
        z = normal((SAMPLES, len(first), latent_size(model)), seeded(0, "door"), block.like)
        if isinstance(model, DecoderModel) and isinstance(block.x, Mapping) and "x" not in block.x:
            raise CheckError(f'x must hold the data under "x"; got a mapping of {", ".join(map(str, block.x))}')
        with _explained("log_prior", block.x):
            model.log_prior(z, block.x)
        with _explained("log_likelihood", block.x):
            first_call, second_call = (log_joint(model, block.x, z) for _ in range(2))
        check_repeats("log_likelihood", first_call, second_call)
        check_logits(model, block.x, z)
        check_range(model, data if isinstance(data, Tensor) else block.x)
        if posterior is None:
            return
        with _explained("q", block.x):
            dist = posterior(block.x)
            _refuse(fault_of_support("q", getattr(dist, "distribution", None)))
            noise = normal((SAMPLES, len(first), dist.noise_size), seeded(0, "door q"), block.like)
            drawn, log_q = dist.rsample_and_log_q(noise)
            again, _ = posterior(block.x).rsample_and_log_q(noise)
        check_repeats("q", drawn, again)
        if drawn.shape == z.shape and lies_on_a_sphere(drawn):
            raise CheckError(
                "latents must be real numbers without a constraint; all draws of q have the same length, as on a "
                "sphere. Hyperspherical posteriors are not supported"
            )
        outputs = (("z", drawn, z.shape, ""), ("log q", log_q, z.shape[:2], ": sum over latents"))
        for name, value, shape, hint in outputs:
            if value.shape != shape:
                raise CheckError(
                    f"q must give {name} of shape {tuple(shape)} for {SAMPLES} draws of {len(first)} data with "
                    f"{z.shape[-1]} latents; got {tuple(value.shape)}{hint}"
                )


def check_readings(data: Rows | MapStyle) -> None:
    """Raise CheckError if two readings of the first rows of a data set differ."""
    if isinstance(data, Tensor | Mapping):
        return
    index = torch.arange(min(n_data(data), ROWS))
    with forked(0):
        first, second = (_tensors(read_rows(data, index)) for _ in range(2))
    pairs = zip(first, second, strict=True)
    if not all(a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs):
        raise CheckError(
            "data must be the same at every reading; two readings of the first rows differ, as with random "
            "binarization or augmentation. Freeze them: read them once into a tensor, or draw binary images by "
            'datasets.binarize(images, "stochastic", seed)'
        )


def _tensors(rows: Rows) -> list[Tensor]:
    return list(rows.values()) if isinstance(rows, Mapping) else [rows]


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise CheckError(fault)


def check_repeats(who: str, value: Tensor, again: Tensor) -> None:
    """Raise CheckError if two calls with the same arguments and noise differ beyond rounding."""
    if value.shape == again.shape and not torch.allclose(value, again, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise CheckError(
            f"{who} must be deterministic in eval mode; two calls with the same arguments differ. Dropout that is "
            "always on, or noise drawn inside the network, is the likely cause: switch it off."
        )


def check_logits(model: LatentModel, x: Rows, z: Tensor) -> None:
    """Raise CheckError if every output of a "bernoulli" decoder at z (S, N, D) is in [0, 1], like a probability."""
    decode = getattr(model, "decode", None)
    if decode is None or getattr(getattr(model, "likelihood", None), "name", None) != "bernoulli":
        return
    with torch.no_grad():
        output = decode(z, x)
    if isinstance(output, Tensor) and bool(((output >= 0) & (output <= 1)).all()):
        raise CheckError(
            'likelihood "bernoulli" takes logits; every output of the decoder lies in [0, 1], like probabilities. '
            'Remove the final sigmoid, or use likelihood "bernoulli_probs".'
        )


def check_range(model: LatentModel, x: Rows) -> None:
    """Raise CheckError if the likelihood takes counts or data from 0 to 1, and x holds others, such as 0 to 255."""
    likelihood = getattr(model, "likelihood", None)
    name = getattr(likelihood, "name", "")
    if getattr(likelihood, "takes_counts", False):
        _check_counts(name, observed(x))
    takes = UNIT.get(name)
    if takes is None:
        return
    ends = [part.aminmax() for part in _finite_parts(observed(x))]
    if not ends:
        return
    low, high = min(end.min.item() for end in ends), max(end.max.item() for end in ends)
    rule = "threshold" if name.startswith("bernoulli") else "gray"
    if low < 0 or high > 1:
        raise CheckError(
            f'likelihood "{name}" takes {takes}; got values from {low:g} to {high:g}. '
            f'Convert 8-bit images by datasets.binarize(images, "{rule}"), or in a shell by --binarize {rule}.'
        )


def _check_counts(name: str, data: Tensor) -> None:
    """Raise CheckError unless data are whole numbers from 0."""
    for finite in _finite_parts(data):
        wrong = finite[(finite < 0) | (finite != finite.round())]
        if len(wrong):
            raise CheckError(
                f'likelihood "{name}" takes counts 0, 1, 2, ...; got {wrong[0].item():g}. Give the raw counts, not '
                "their logarithm or share"
            )


def _finite_parts(data: Tensor) -> Iterator[Tensor]:
    """The finite numbers of data, some at a time, so that there is no copy of all."""
    for part in data.split(max(1, VALUES_AT_ONCE * len(data) // max(data.numel(), 1))):
        finite = part[torch.isfinite(part)]
        if len(finite):
            yield finite


def _check_kinds(model: LatentModel, q: PosteriorLike | None) -> None:
    """Raise CheckError unless `model` is a model and `q` is a posterior, a callable or None."""
    if not (callable(getattr(model, "log_prior", None)) and callable(getattr(model, "log_likelihood", None))):
        kind = type(model).__name__
        hint = _maker_of(model)
        raise CheckError(f"model must have log_prior and log_likelihood; got {kind}: {hint}. {ORDER}")
    if q is not None and (not callable(q) or callable(getattr(q, "log_likelihood", None))):
        raise CheckError(
            f"q must be a posterior, such as er.Amortized, or a callable x -> torch Distribution; got "
            f"{type(q).__name__}. {ORDER}"
        )


def _maker_of(net: object) -> str:
    """What makes a model of this object."""
    adapter = adapter_for(net)
    if adapter is not None:
        return f"{adapter}(model) makes a model and a posterior of it"
    if all(callable(getattr(net, name, None)) for name in ("model", "guide")):
        return "er.pyro(net.model, net.guide, x) makes a model and a posterior of a pair of Pyro"
    if not isinstance(net, nn.Module):
        return "er.DecoderModel and er.FunctionModel have them"
    if any(hasattr(net, name) for name in ("encode", "encoder")):
        return "model, q = er.plain(net, encode=, decode=) makes a model and a posterior of a whole VAE"
    return "er.DecoderModel(decoder, likelihood, latent_shape) makes a model of a decoder"


@contextmanager
def _explained(who: str, x: Rows) -> Iterator[None]:
    """Report errors of the user's own code in one line, with their likely cause; ours are sentences already."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError | TypeError) and raised_here(error):
            if isinstance(x, Tensor) and x.ndim < 2:
                raise CheckError(str(error).rstrip(".") + _hint(x)) from error
            raise
        text = " ".join(str(error).split())
        raise CheckError(f"{who} failed on the first rows of x: {type(error).__name__}: {text}{_hint(x)}") from error


def _hint(x: Rows) -> str:
    """What about the data may be the cause of an error, as the end of its message."""
    data = observed(x) if isinstance(x, Tensor) or "x" in x else None
    if data is None:
        return f'. A mapping holds the data under "x"; got {sorted(x)}.'
    if data.ndim < 2:
        return (
            ". x has one number per datum: a single datum needs a leading axis, x[None]; data of one feature "
            "need a second one, x[:, None]."
        )
    if not data.is_floating_point():
        return (
            f". x holds {str(data.dtype).removeprefix('torch.')}, and networks take floating numbers: x.float(), or "
            'datasets.binarize(images, "threshold") of 8-bit images.'
        )
    return ""
