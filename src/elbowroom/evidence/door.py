"""The door: what every entry point looks at on the first rows of the data, so that a set-up that cannot be right gets
one sentence and no number. It costs a few passes of 16 rows; `check` looks deeper.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core import Data, Rows, as_data, forked, n_data, normal, observed, raised_here, read_rows, seeded
from ..models import LatentModel, latent_size, log_joint
from ..posteriors import Local, PosteriorLike
from .preparation import prepared

__all__ = ["CheckError", "check_door", "check_logits", "check_range"]

ROWS, SAMPLES = 8, 2
ORDER = "The order of the arguments is (model, q, x)."
UNIT = {  # likelihoods of data from 0 to 1
    "discretized_logistic": "pixels k / 255, k = 0..255",
    "continuous_bernoulli": "values from 0 to 1",
    "bernoulli": "values from 0 to 1",
    "bernoulli_probs": "values from 0 to 1",
}


class CheckError(ValueError):
    """A model, posterior or data that cannot be measured as they are."""


def check_door(model: LatentModel, q: PosteriorLike | None, x: Data) -> None:
    """Refuse what cannot be right: arguments of another kind or in another order, integers or a single datum for data,
    pixels from 0 to 255 or probabilities where a Bernoulli takes logits, a q of another size, densities of another
    shape.

    Raises:
        CheckError: what is wrong, in one line. Errors of the user's own code are named as theirs.
    """
    _check_kinds(model, q)
    data = as_data(x)
    if isinstance(q, Local) and q.n != n_data(data):
        return  # the estimator says what is wrong
    first = torch.arange(min(n_data(data), ROWS))
    few, head = q.rows(first) if isinstance(q, Local) else q, read_rows(data, first)
    with prepared(model, few, head, size=len(first)) as (posterior, blocks), forked(0), torch.no_grad():
        block = next(blocks)
        z = normal((SAMPLES, len(first), latent_size(model)), seeded(0, "door"), block.like)
        with _explained("log_likelihood", block.x):
            log_joint(model, block.x, z)
        check_logits(model, block.x, z)
        check_range(model, data if isinstance(data, Tensor) else block.x)
        if posterior is None:
            return
        with _explained("q", block.x):
            dist = posterior(block.x)
            noise = normal((SAMPLES, len(first), dist.noise_size), seeded(0, "door q"), block.like)
            drawn, log_q = dist.rsample_and_log_q(noise)
        outputs = (("z", drawn, z.shape, ""), ("log q", log_q, z.shape[:2], ": sum over latents"))
        for name, value, shape, hint in outputs:
            if value.shape != shape:
                raise CheckError(
                    f"q must give {name} of shape {tuple(shape)} for {SAMPLES} draws of {len(first)} data with "
                    f"{z.shape[-1]} latents; got {tuple(value.shape)}{hint}"
                )


def check_logits(model: LatentModel, x: Rows, z: Tensor) -> None:
    """CheckError for a "bernoulli" decoder that ends in a sigmoid: it promised logits and gives probabilities."""
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
    """CheckError for data on another scale than the model's likelihood: 0 to 255 where it takes 0 to 1."""
    name = getattr(getattr(model, "likelihood", None), "name", "")
    takes = UNIT.get(name)
    if takes is None:
        return
    data = observed(x)
    finite = data[torch.isfinite(data)]
    if len(finite) == 0:
        return
    low, high = finite.min().item(), finite.max().item()
    if low < 0 or high > 1:
        raise CheckError(
            f'likelihood "{name}" takes {takes}; got values from {low:g} to {high:g}. '
            'Divide 8-bit images by 255, as datasets.binarize(images, "grey") and, in a shell, --binarize grey do.'
        )


def _check_kinds(model: LatentModel, q: PosteriorLike | None) -> None:
    """A model is a model and q a posterior."""
    if not (callable(getattr(model, "log_prior", None)) and callable(getattr(model, "log_likelihood", None))):
        kind = type(model).__name__
        hint = "er.DecoderModel and er.FunctionModel have them"
        if isinstance(model, nn.Module):
            hint = "er.DecoderModel(decoder, likelihood, latent_shape) makes a model of a decoder"
        raise CheckError(f"model must have log_prior and log_likelihood; got {kind}: {hint}. {ORDER}")
    if q is not None and (not callable(q) or callable(getattr(q, "log_likelihood", None))):
        raise CheckError(
            f"q must be a posterior, such as er.Amortized, or a callable x -> torch Distribution; got "
            f"{type(q).__name__}. {ORDER}"
        )


@contextmanager
def _explained(who: str, x: Rows) -> Iterator[None]:
    """Errors of the user's own code in one line, with what is known to cause them; ours are sentences already."""
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
    """What of the data may be the cause."""
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
