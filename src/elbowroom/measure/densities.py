r"""Tests of a user's likelihood: that its gradient in z is its own, and that it is a density of x.

gradient       the slope along a random direction, by autograd and by a finite difference: a straight-through or
               nearest-code decoder has a gradient that its values do not have
tail           a density of D numbers falls faster than 1 / r^D along every ray; a likelihood whose scale is fitted to
               each x falls exactly so
normalization  if log p(x|z) is a sum over coordinates, sum_j log int exp(f_j(v)) dv = 0. One coordinate at a time is
               varied, over the values that the data suggest (bits, k / 255, counts), the real line, and [0, 1]

What cannot be tested is said in a note, not passed over.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from ..core import MapStyle, Rows, forked, n_data, normal, observed, read_rows, seeded
from ..evidence import CheckError, prepared
from ..models import DecoderModel, LatentModel, latent_size

__all__ = ["check_density", "check_slope", "density_notes"]

SUGGESTING = 8  # data that suggest which values a number may take
SLOPE_STEP = 1e-2  # of the finite difference, in units of the prior's scale
MOST_MISMATCH = 0.25  # of slopes, in the median over draws
LEAST_RAY, MOST_RAY = 1e3, 1e5  # lengths between which the tail is measured, in units of the data's scale
MARGIN = 0.5  # by which the power of the tail must exceed the dimension
MOST_COORDINATES = 1024  # that are varied one by one
GRID = torch.linspace(-12, 12, 129, dtype=torch.float64)  # t of a real coordinate, center + scale sinh(t)
SEARCHES = 12  # grids until center and scale fit the coordinate
ADDITIVE = 1e-3  # nats, and of the size of log p: what two coordinates may change together beyond what each does
NORMALIZED = 0.02  # nats in each coordinate by which the integral may be off, rounding included
TRUSTED = "elbowroom.models."  # whose likelihoods are tested here to be normalized
LEVELS = 255
UNIT_INTERVAL = torch.linspace(0, 1, 129, dtype=torch.float64)  # values of the unit interval

DensityOfRows: TypeAlias = Callable[[Tensor], Tensor]


def check_slope(model: LatentModel, x: Rows, z: Tensor, seed: int) -> None:
    """Raise CheckError if the gradient of log p(x|z) at z (S, N, D) is not what its finite difference is."""
    direction = normal(tuple(z.shape), seeded(seed, "check", "slope"), z)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    point = z.detach().requires_grad_()
    with torch.enable_grad():
        value = model.log_likelihood(x, point)
        (grad,) = torch.autograd.grad(value.sum(), point)
    slope = (grad * direction).sum(-1).double()
    with torch.no_grad():
        ahead, behind = (model.log_likelihood(x, z + s * SLOPE_STEP * direction).double() for s in (1.0, -1.0))
    measured = (ahead - behind) / (2 * SLOPE_STEP)
    rounding = 8 * torch.finfo(z.dtype).eps * value.detach().double().abs() / SLOPE_STEP
    size = torch.maximum(slope.abs(), measured.abs())
    mismatch = ((slope - measured).abs() - rounding).clamp(min=0) / (size + rounding).clamp(min=1e-30)
    worst = mismatch[torch.isfinite(mismatch)]
    if len(worst) and worst.median() > MOST_MISMATCH:
        middle = mismatch.flatten().argsort()[mismatch.numel() // 2]
        raise CheckError(
            f"the gradient of log p(x|z) must be that of its values; its slope is {slope.flatten()[middle]:.3g} where "
            f"a finite difference gives {measured.flatten()[middle]:.3g}. A decoder that passes gradients straight "
            "through a rounding or a nearest code (a vector-quantized VAE) is not supported"
        )


def check_density(model: LatentModel, x: Rows, seed: int) -> list[str]:
    """Test that a likelihood that is not the library's own is a density of x, on the first datum of x (N, *event).

    Returns:
        Notes on what could not be tested.
    Raises:
        CheckError: the tail or the normalization says that it is none.
    """
    likelihood = getattr(model, "likelihood", None)
    if type(likelihood).__module__.startswith(TRUSTED) and getattr(likelihood, "name", "custom") != "custom":
        return []
    data = observed(x)
    like = data.new_empty(0) if data.is_floating_point() else torch.empty(0, device=data.device)
    z = normal((1, 1, latent_size(model)), seeded(seed, "check", "density"), like)
    first, n, log_p = data[:1], data[0].numel(), _of_first_datum(model, x, z)
    here = float(log_p(first))
    if not math.isfinite(here):
        return []
    if not data.is_floating_point() or n > MOST_COORDINATES:
        return [f"log p(x|z) is not one of elbowroom's, and with {n} numbers in x it was not verified to be a density"]
    supports = _supports(data)
    if supports[0] is None and (fault := _fault_of_tail(log_p, first, n)):
        raise CheckError(fault)
    if n > 1 and not _is_additive(log_p, first, _other(first, supports), here):
        fault = _fault_of_tail(log_p, first, n)
        if fault is not None:
            raise CheckError(fault)
        return ["log p(x|z) is no sum over the numbers in x: it was not verified to be a density"]
    totals = []
    for support in supports:
        totals.append(here + _log_integrals(log_p, first, support))
        if abs(totals[-1]) <= NORMALIZED * n + 1e-5 * abs(here):
            return []
    known = [total for total in totals if math.isfinite(total)]
    if not known:
        return ["log p(x|z) could not be evaluated at other values of x: it was not verified to be a density"]
    total = known[0]
    raise CheckError(
        f"log p(x|z) must be normalized over x; its integral is exp({total:+.4g}), so all bounds are off by as many "
        f"nats. {_missing(total, n)}"
    )


def density_notes(model: LatentModel, x: Rows | MapStyle, seed: int) -> list[str]:
    """`check_density` on the first rows of any data, with the model prepared as an estimator does it."""
    head = read_rows(x, torch.arange(min(n_data(x), SUGGESTING)))
    with prepared(model, None, head, size=n_data(head)) as (_, blocks), forked(0):
        return check_density(model, blocks[0].x, seed)


def _of_first_datum(model: LatentModel, x: Rows, z: Tensor) -> DensityOfRows:
    """log p(x|z) in nats of the first datum with its numbers replaced by rows (R, *event), at one z (1, 1, D).

    It is NaN where the likelihood refuses the rows.
    """
    own = getattr(type(model), "log_likelihood", None)
    is_plain = own is DecoderModel.log_likelihood and not isinstance(x, Mapping)
    with torch.no_grad():
        output = model.decode(z) if isinstance(model, DecoderModel) and is_plain else None

    def log_p(rows: Tensor) -> Tensor:
        batch: Rows = rows
        if isinstance(x, Mapping):
            batch = {key: value[:1].expand(len(rows), *value.shape[1:]) for key, value in x.items()} | {"x": rows}
        try:
            with torch.no_grad():
                if isinstance(model, DecoderModel) and isinstance(output, Tensor):
                    spread = output.expand(1, len(rows), *output.shape[2:])
                    return model.likelihood.log_prob(rows, spread)[0].double()
                return model.log_likelihood(batch, z.expand(1, len(rows), -1))[0].double()
        except ValueError:  # a distribution that validates its values
            return torch.full((len(rows),), torch.nan, dtype=torch.float64)

    return log_p


def _fault_of_tail(log_p: DensityOfRows, first: Tensor, n: int) -> str | None:
    """What is wrong with the tail along a ray from the first datum (1, *event); None if nothing is."""
    ray = torch.full_like(first, _scale_of(first))
    near, far = log_p(torch.cat([first + LEAST_RAY * ray, first + MOST_RAY * ray])).tolist()
    power = (near - far) / math.log(MOST_RAY / LEAST_RAY)
    if not 0 < power < n + MARGIN:  # one that grows is evaluated where it is not defined, as a beta's beyond 1
        return None
    return (
        f"log p(x|z) must be a density of x; along a ray it falls like 1 / r^{power:.4g}, and a density of {n} numbers "
        f"falls faster than 1 / r^{n}. A scale that is fitted to each x does this: use one that depends on z alone"
    )


def _missing(total: float, n: int) -> str:
    """A guess at what was left out."""
    if abs(total - 0.5 * n * math.log(2 * math.pi)) < NORMALIZED * n:
        return "The constant -D/2 log 2 pi of a Gaussian is missing"
    return "Look for constants that were left out, or for a mean over pixels where a sum belongs"


def _other(first: Tensor, supports: list[Tensor | None]) -> Tensor:
    """A datum that differs from the first in every number, and lies in the same support."""
    if supports[-1] is UNIT_INTERVAL:
        return 1 - first
    return first + (_scale_of(first) if supports[0] is None else 1)


def _is_additive(log_p: DensityOfRows, first: Tensor, other: Tensor, here: float) -> bool:
    """Whether it is the sum of the two changes when both halves of the first datum become those of another one."""
    flat, changed = first.reshape(1, -1), other.reshape(1, -1)
    left = torch.arange(flat.shape[1], device=first.device) < (flat.shape[1] + 1) // 2
    rows = torch.cat([torch.where(left, changed, flat), torch.where(left, flat, changed), changed])
    one, two, both = log_p(rows.reshape(3, *first.shape[1:])).tolist()
    return abs(both - one - two + here) <= ADDITIVE * (1 + abs(here) + abs(one) + abs(two))


def _log_integrals(log_p: DensityOfRows, first: Tensor, values: Tensor | None) -> float:
    """The sum over numbers in the first datum of log int exp(log p) dv, less log p there.

    The integral is over `values`, or over the real line if they are None.
    """
    flat, total, scale = first.reshape(1, -1), 0.0, _scale_of(first)
    here = log_p(first)
    for j in range(flat.shape[1]):

        def at(points: Tensor, j: int = j) -> Tensor:
            rows = flat.repeat(len(points), 1)
            rows[:, j] = points.to(flat)
            return log_p(rows.reshape(len(points), *first.shape[1:])).cpu() - here.cpu()

        if values is UNIT_INTERVAL:
            total += float(torch.logsumexp(at(UNIT_INTERVAL), 0)) - math.log(len(UNIT_INTERVAL) - 1)
        elif values is not None:
            total += float(torch.logsumexp(at(values), 0))
        else:
            value, scale = _over_the_line(at, float(flat[0, j]), scale)
            total += value
        if not math.isfinite(total):
            break
    return total


def _over_the_line(at: DensityOfRows, center: float, scale: float) -> tuple[float, float]:
    """log of the integral of exp(at(v)) over the real line, and the width of the integrand, which starts the next one.

    The grid is center + scale sinh(t), which reaches far tails. Center and scale are the median and the spread between
    the quartiles on the grid before.
    """
    for _ in range(SEARCHES):
        points = center + scale * GRID.sinh()
        terms = at(points) + GRID.cosh().log()
        if bool(torch.isnan(terms).any()):
            return math.nan, scale
        reached = torch.softmax(terms, 0).cumsum(0)
        low, middle, high = (float(points[int((reached >= share).nonzero()[0])]) for share in (0.25, 0.5, 0.75))
        if 0.2 < (high - low) / scale < 5 and abs(middle - center) < scale:
            break
        center, scale = middle, max(high - low, 0.1 * scale)
    return float(torch.logsumexp(terms, 0)) + math.log(scale * float(GRID[1] - GRID[0])), scale


def _supports(data: Tensor) -> list[Tensor | None]:
    """The values that a number may take, to be tried in order, as the data look; None is the real line."""
    bits = bool(((data == 0) | (data == 1)).all())
    inside = bool((data >= 0).all()) and bool((data <= 1).all())
    levels = torch.arange(LEVELS + 1, dtype=torch.float64, device=data.device) / LEVELS
    whole = bool((data >= 0).all()) and bool((data == data.round()).all())
    values: list[Tensor | None] = []
    if bits:
        values.append(torch.tensor([0.0, 1.0], dtype=torch.float64, device=data.device))
    elif inside and bool(torch.isclose(data.double() * LEVELS, (data.double() * LEVELS).round(), atol=1e-4).all()):
        values.append(levels)
    elif whole:
        values.append(torch.arange(4 * float(data.max()) + 50, dtype=torch.float64, device=data.device))
    return [*values, None, *([UNIT_INTERVAL] if inside else [])]


def _scale_of(first: Tensor) -> float:
    """The spread of the numbers in a datum, or 1 where they do not differ."""
    spread = float(first.double().std()) if first.numel() > 1 else 0.0
    return spread if spread > 0 else 1.0
