r"""The ELBO of a fitted Gaussian and the estimated shortfall of its fit, on draws that no step has seen.

The gradients that tell the shortfall also make the ELBO more precise. With z = mean + L e, log w is nearly quadratic in
e, and a regression of its gradient on e gives that quadratic. Its mean is known, so it is a control variate:

    log w(e) - (b'e + 1/2 e'He) + 1/2 tr H,    b and H from other draws than e, so that nothing is biased

Where the posterior is a Gaussian, every single draw then gives the ELBO exactly.

The shortfall is half a squared natural gradient, which is right near the optimum. A nat away and more it is not, since
the ELBO is no quadratic in the scales of q. There it is that of a Gaussian posterior with this b and this H:

    1/2 (tr S - D - log |S|) + 1/2 b'S^-1 b,    S = I - H, of a diagonal q only the diagonal in the first part
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from ..core import Block, normal, seeded
from ..evidence import GROUP
from ..models import LatentModel, log_joint_and_grad
from ..posteriors import AffineMap, Ascent, Family, Params
from .natural_gradients import curvature_metric, natural_gradients, products_of, squared_norm

__all__ = ["Assessment", "assess", "has_control"]

FOLDS = 4
LEAST_RATIO = 1.5  # draws for each latent, at least, from which a quadratic is fitted
FAR = 1.0  # nats


@dataclass(frozen=True)
class Assessment:
    """The result for B data.

    Attributes:
        values: (K, B) numbers in nats whose mean is the ELBO: the log weights, less their control variate.
        shortfall: (B,) estimate in nats of what the fit still lacks.
        deviations: (G, B) those of G independent groups of draws, whose spread over sqrt(G) is that estimate's error.
    """

    values: Tensor
    shortfall: Tensor
    deviations: Tensor


def assess(
    model: LatentModel, block: Block, family: Family, params: Params, n_draws: int, seed: int, key: str,
    metric: AffineMap | None = None,
) -> Assessment:  # fmt: skip
    """Assess a Gaussian fit of one block of B data on n_draws draws, in groups of GROUP.

    Args:
        family, params: the fitted Gaussians, diagonal or full.
        metric: coordinates in which the posterior is about isotropic. Without them a diagonal Gaussian is judged in
            those of the curvature that its draws see.
    """
    q, full = AffineMap.of_gaussian(params), "lower" in params
    log_w, draws, grads = [], [], []
    for group in range(max(2, -(-n_draws // GROUP))):
        generator = seeded(seed, key, block.number, group)
        e = normal((GROUP, *params["mean"].shape), generator, params["mean"], data_axis=1)
        z = q(e)
        value, grad = log_joint_and_grad(model, block.x, z)
        log_w.append(value - family.log_prob(params, z).double())
        draws.append(e)
        grads.append(grad)
    if metric is None and not full:
        pairs = zip(draws, grads, strict=True)
        seen = torch.stack([products_of(q.pull_back(grad) + e, e) for e, grad in pairs]).mean(0)
        metric = curvature_metric(q, seen - torch.eye(seen.shape[-1]).to(seen))
    shortfall, deviations = squared_norm(natural_gradients(q, metric or q, draws, grads, full))
    e, values = torch.cat(draws), torch.cat(log_w)
    if len(e) >= LEAST_RATIO * e.shape[-1]:
        score = q.pull_back(torch.cat(grads)) + e
        folds = [_Moments.of(e[fold::FOLDS], score[fold::FOLDS]) for fold in range(FOLDS)]
        if has_control(len(e), family):
            values = _controlled(e, values, folds)
        ratio = _of_far_fits(folds, full) / shortfall
        ratio = torch.where((shortfall > FAR) & torch.isfinite(ratio), ratio, 1.0)
        shortfall, deviations = ratio * shortfall, ratio * deviations
    return Assessment(values, shortfall, deviations)


def has_control(n_draws: int, family: Family) -> bool:
    """Whether n_draws suffice to make the ELBO of a member of the family more precise by its gradients."""
    return family.ascent is Ascent.NATURAL and (1 - 1 / FOLDS) * n_draws >= LEAST_RATIO * family.size


@dataclass(frozen=True)
class _Moments:
    """Sums over draws, in double precision, from which the gradient in e is regressed on e; they can be added.

    Attributes:
        own: (B, D + 1, D + 1) the sum of x x', where x is e with a one before it.
        mixed: (B, D + 1, D) the sum of x grad'.
    """

    own: Tensor
    mixed: Tensor

    @classmethod
    def of(cls, e: Tensor, grad: Tensor) -> "_Moments":
        """Those of draws e (K, B, D) with these gradients (K, B, D)."""
        x = torch.nn.functional.pad(e.double(), (1, 0), value=1.0)
        return cls(torch.einsum("kbi,kbj->bij", x, x), torch.einsum("kbi,kbj->bij", x, grad.double()))

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(self.own + other.own, self.mixed + other.mixed)

    def quadratic(self) -> tuple[Tensor, Tensor]:
        """b (B, D) and a symmetric H (B, D, D) of the regression grad = b + H e."""
        usable = torch.isfinite(self.mixed).flatten(1).all(1)[:, None, None]
        mixed = torch.where(usable, self.mixed, 0.0)
        slope = torch.linalg.solve(self.own, mixed)[:, 1:]
        curvature = 0.5 * (slope + slope.mT)
        along = torch.einsum("bij,bj->bi", curvature, self.own[:, 0, 1:])
        return (mixed[:, 0] - along) / self.own[:, 0, :1], curvature


def _of_far_fits(folds: list[_Moments], full: bool) -> Tensor:
    """The shortfall (B,) of a Gaussian posterior for which log w has gradients in e with these moments."""
    linear, curvature = reduce(add, folds).quadratic()
    precision = torch.eye(curvature.shape[-1]).to(curvature) - curvature
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    factor, fault = torch.linalg.cholesky_ex(precision)
    ahead = torch.linalg.solve_triangular(factor, linear[..., None], upper=False)[..., 0]
    log_size = 2 * factor.diagonal(dim1=-2, dim2=-1).log() if full else diagonal.log()
    lacks = 0.5 * ((diagonal - 1 - log_size).sum(-1) + ahead.square().sum(-1))
    return torch.where(fault == 0, lacks, torch.nan)


def _controlled(e: Tensor, log_w: Tensor, folds: list[_Moments]) -> Tensor:
    """Log weights (K, B) at e (K, B, D), less a quadratic fitted to the other folds; draw k is of fold k mod FOLDS.

    They are returned as they are for data that it does not make more precise.
    """
    parts = []
    for fold in range(FOLDS):
        linear, curvature = reduce(add, folds[:fold] + folds[fold + 1 :]).quadratic()
        x = e[fold::FOLDS].double()
        foretold = torch.einsum("kbd,bd->kb", x, linear) + 0.5 * torch.einsum("kbi,bij,kbj->kb", x, curvature, x)
        parts.append(log_w[fold::FOLDS] - foretold + 0.5 * curvature.diagonal(dim1=-2, dim2=-1).sum(-1))
    controlled = torch.stack(parts, dim=1).flatten(0, 1)
    return torch.where(controlled.var(0) < log_w.var(0), controlled, log_w)
