"""Models that are hard to measure, whose log p(x) is known in closed form or by quadrature.

Reported of plan `standard` on each: the bias of log p(x), the error of the worst datum, the share of data that are
flagged, the share of the others that lie more than 3 errors off (promised: at most 3%), and how often the mean lies
within 2 of its errors (promised: 90% or more). A mean whose error is not to be believed counts without the data of
which the error is unknown, as the table prints it.
"""

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, StudentT

import elbowroom as er
from elbowroom.core import log_standard_normal
from elbowroom.measure import PlanLike

__all__ = ["CASES", "Case", "Problem", "Report", "errors_of", "hard", "joined", "report_on"]

N = 50  # data of each seed
BEYOND = 3.0  # errors
GRID = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
SPACING = float(GRID[1] - GRID[0])


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model, an encoder, N data of the model and their exact log p(x) (N,)."""

    model: Any
    q: Any
    x: Tensor
    truth: Tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model for each seed."""

    name: str
    make: Callable[[int], Problem]
    n_seeds: int = 20


@dataclass(frozen=True, kw_only=True)
class Report:
    """The errors (N,) of all seeds of a case, which data are flagged and beyond, and which means were covered."""

    errors: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    beyond: NDArray[np.bool_]
    covered: NDArray[np.bool_]
    believed: NDArray[np.bool_]

    def row(self) -> list[str]:
        """The cells of the table."""
        unflagged = self.beyond[~self.flagged]
        return [
            f"{self.errors.mean():+.3f}",
            f"{np.abs(self.errors).mean():.3f}",
            f"{self.errors[np.abs(self.errors).argmax()]:+.2f}",
            f"{self.flagged.mean():.1%}",
            f"{unflagged.mean():.1%}" if len(unflagged) else "-",
            f"{self.covered.sum()} of {len(self.covered)}",
            f"{self.believed.sum()}",
        ]


def report_on(case: Case, plan: PlanLike = "standard") -> Report:
    """Measure all seeds of a case."""
    reports = []
    for seed in range(case.n_seeds):
        problem = case.make(seed)
        gaps = er.decompose(problem.model, problem.q, problem.x, plan=plan, seed=seed)
        reports.append(errors_of(gaps, problem.truth.double().numpy()))
    return joined(reports)


def joined(reports: list[Report]) -> Report:
    """The report of several seeds."""
    names = [field.name for field in fields(Report)]
    return Report(**{name: np.concatenate([getattr(report, name) for report in reports]) for name in names})


def hard(names: list[str]) -> list[list[str]]:
    """The rows of the table, of the cases with these names or of all, in two processes of one thread each."""
    chosen = [case for case in CASES if not names or case.name in names]
    with ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rows = []
        for case, row in zip(chosen, pool.map(_row_of, [case.name for case in chosen]), strict=True):
            rows.append([case.name, *row])
            print(" | ".join(rows[-1]), flush=True)
    return rows


def _row_of(name: str) -> list[str]:
    return report_on(next(case for case in CASES if case.name == name)).row()


def errors_of(gaps: er.Gaps, truth: NDArray[np.float64]) -> Report:
    """The report of one seed, where log p(x) is `truth` (N,)."""
    found, counted = gaps.log_evidence, ~gaps.is_doubtful
    errors = found.values - truth
    mc_se = np.sqrt((found.mc_errors[counted] ** 2).sum()) / max(counted.sum(), 1)
    covered = bool(counted.any()) and bool(abs(errors[counted].mean()) <= 2 * mc_se)
    return Report(
        errors=errors,
        flagged=gaps.flags > 0,
        beyond=~(np.abs(errors) <= BEYOND * found.mc_errors),
        covered=np.array([covered]),
        believed=np.array([bool(counted.all())]),
    )


# ---- models of few latents, by quadrature over one of them


def _problem(
    decoder: Callable[[Tensor], Tensor], size: int, scale: float, encode: Any, truth: Any, seed: int
) -> Problem:
    """A Gaussian decoder on N(0, I), data of its own, and a diagonal encoder."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(N, size, generator=generator)
    mean = decoder(z)
    x = mean + scale * torch.randn(mean.shape, generator=generator)
    model = er.DecoderModel(decoder, er.likelihoods.gaussian(scale), size)
    return Problem(model=model, q=er.Amortized(encode, er.DiagonalGaussian(size)), x=x, truth=truth(x.double()))


def _log_normal(x: Tensor, mean: Tensor, scale: Tensor | float) -> Tensor:
    return Normal(mean, torch.as_tensor(scale, dtype=torch.float64)).log_prob(x)


def _on_grid(log_joint: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log of the integral over one latent of exp(log_joint(row)) (G,), for each row of x."""
    return torch.stack([torch.logsumexp(log_joint(row), 0) for row in x]) + math.log(SPACING)


def squares(size: int, scale: float) -> Callable[[int], Problem]:
    """x_i = z_i^2 + noise, with 2^D modes, and an encoder on the positive ones."""

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        root = x.clamp(min=1e-2).sqrt()
        return root, 2 * (scale / (2 * root)).log().clamp(max=0.0)

    def truth(x: Tensor) -> Tensor:
        prior = log_standard_normal(GRID[:, None])
        each = [_on_grid(lambda v: _log_normal(v, GRID**2, scale) + prior, x[:, i]) for i in range(size)]
        return torch.stack(each).sum(0)

    return lambda seed: _problem(lambda z: z.square(), size, scale, encode, truth, seed)


def ring(size: int, scale: float) -> Callable[[int], Problem]:
    """x = |z|^2 + noise: the posterior is a ring or a sphere. |z|^2 is chi-squared; the grid is twice its logarithm."""

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        root = x.clamp(min=1e-2).sqrt() / math.sqrt(size)
        return root.expand(-1, size), torch.full((len(x), size), 2 * math.log(scale))

    def truth(x: Tensor) -> Tensor:
        u = (0.5 * GRID).exp()  # from 0.002 to 400
        chi = torch.distributions.Chi2(torch.tensor(float(size), dtype=torch.float64)).log_prob(u) + 0.5 * GRID
        return _on_grid(lambda v: _log_normal(v, u, scale) + chi, x) + math.log(0.5)

    return lambda seed: _problem(lambda z: z.square().sum(-1, keepdim=True), size, scale, encode, truth, seed)


def funnel(scale: float) -> Callable[[int], Problem]:
    """x = exp(1.5 z_1) z_2 + noise, a normal given z_1."""

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([torch.zeros_like(x), x.clamp(-2, 2)], -1), torch.full((len(x), 2), -1.0)

    def truth(x: Tensor) -> Tensor:
        wide = ((3 * GRID).exp() + scale**2).sqrt()
        return _on_grid(lambda v: _log_normal(v, torch.zeros(()), wide) + log_standard_normal(GRID[:, None]), x)

    def decoder(z: Tensor) -> Tensor:
        return (1.5 * z[..., :1]).exp() * z[..., 1:]

    return lambda seed: _problem(decoder, 2, scale, encode, truth, seed)


def heavy_prior(freedom: float, scale: float) -> Callable[[int], Problem]:
    """A Student t prior on two latents, each seen with noise."""

    def make(seed: int) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(N, 2, generator=generator)
        z = z / (torch.randn(N, 2, int(freedom), generator=generator).square().mean(-1)).sqrt()
        x = z + scale * torch.randn(N, 2, generator=generator)
        prior = Independent(StudentT(freedom, torch.zeros(2), torch.ones(2)), 1)
        model = er.DecoderModel(torch.nn.Identity(), er.likelihoods.gaussian(scale), 2, prior=prior)
        q = er.Amortized(lambda x: (0.9 * x, torch.full_like(x, 2 * math.log(scale))), er.DiagonalGaussian(2))
        wide = 400 * GRID / GRID.max() * (GRID / GRID.max()).square() + GRID  # fine in the middle, to 412
        steps = (1200 * (GRID / GRID.max()).square() / GRID.max() + 1).log()
        prior_1d = StudentT(torch.tensor(freedom, dtype=torch.float64)).log_prob(wide) + steps
        each = [_on_grid(lambda v: _log_normal(v, wide, scale) + prior_1d, x[:, i].double()) for i in range(2)]
        return Problem(model=model, q=q, x=x, truth=torch.stack(each).sum(0))

    return make


# ---- linear models, in closed form


def linear(
    size: int, condition: float, scale: float = 0.5, spread: float = 1.0, n_features: int | None = None
) -> Callable[[int], Problem]:
    """x = W z + noise, with a posterior precision whose condition number is `condition`.

    The prior's standard deviations go from 1 / spread to spread, and the encoder has the best diagonal Gaussian.
    """

    def make(seed: int) -> Problem:
        generator = torch.Generator().manual_seed(1000 + seed)
        p = n_features or size + 5
        left = torch.linalg.qr(torch.randn(p, size, generator=generator, dtype=torch.float64))[0]
        right = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        singular = scale * (torch.logspace(math.log10(condition), 0, size, dtype=torch.float64) - 1).clamp(min=0).sqrt()
        weight = left * singular @ right.T
        deviations = torch.logspace(-1, 1, size, base=spread, dtype=torch.float64) if spread != 1 else torch.ones(size)
        z = torch.randn(N, size, generator=generator, dtype=torch.float64)
        x = z @ weight.T + scale * torch.randn(N, p, generator=generator, dtype=torch.float64)
        exact = er.LinearGaussian(weight, torch.zeros(p, dtype=torch.float64), scale)
        inward = (weight / deviations).float()
        prior = None if spread == 1 else Independent(Normal(torch.zeros(size), deviations.float()), 1)
        model = er.DecoderModel(lambda z: z @ inward.T, er.likelihoods.gaussian(scale), size, prior=prior)
        variance = (deviations**2 / exact.precision().diagonal()).float()
        gain = (torch.linalg.solve(exact.precision(), weight.T) / scale**2).T * deviations

        def encode(x: Tensor) -> tuple[Tensor, Tensor]:
            return x @ gain.float(), variance.log().expand(len(x), -1)

        q = er.Amortized(encode, er.DiagonalGaussian(size))
        return Problem(model=model, q=q, x=x.float(), truth=exact.log_evidence(x.float().double()))

    return make


def mixture_prior(size: int, apart: float, scale: float) -> Callable[[int], Problem]:
    """A prior of four normals `apart` from the origin, seen through a square matrix with noise."""

    def make(seed: int) -> Problem:
        generator = torch.Generator().manual_seed(2000 + seed)
        centers = torch.randn(4, size, generator=generator, dtype=torch.float64)
        centers = apart * centers / centers.norm(dim=-1, keepdim=True)
        weight = torch.randn(size, size, generator=generator, dtype=torch.float64) / math.sqrt(size)
        which = torch.randint(4, (N,), generator=generator)
        z = centers[which] + 0.5 * torch.randn(N, size, generator=generator, dtype=torch.float64)
        x = (z @ weight.T + scale * torch.randn(N, size, generator=generator, dtype=torch.float64)).float()
        kind = Categorical(torch.full((4,), 0.25))
        prior = MixtureSameFamily(kind, Independent(Normal(centers.float(), 0.5), 1))
        inward = weight.float()
        model = er.DecoderModel(lambda z: z @ inward.T, er.likelihoods.gaussian(scale), size, prior=prior)
        covariance = 0.25 * weight @ weight.T + scale**2 * torch.eye(size, dtype=torch.float64)
        marginal = MixtureSameFamily(
            Categorical(torch.full((4,), 0.25, dtype=torch.float64)), MultivariateNormal(centers @ weight.T, covariance)
        )
        q = er.Amortized(lambda x: torch.zeros(len(x), 2 * size), er.DiagonalGaussian(size))
        return Problem(model=model, q=q, x=x, truth=marginal.log_prob(x.double()))

    return make


def collapsed(size: int) -> Callable[[int], Problem]:
    """A decoder that ignores its latents; the encoder answers with the prior."""

    def make(seed: int) -> Problem:
        x = torch.randn(N, 5, generator=torch.Generator().manual_seed(seed))
        model = er.DecoderModel(lambda z: 0.0 * z[:, :1].expand(-1, 5), er.likelihoods.gaussian(1.0), size)
        q = er.Amortized(lambda x: torch.zeros(len(x), 2 * size), er.DiagonalGaussian(size))
        return Problem(model=model, q=q, x=x, truth=_log_normal(x.double(), torch.zeros(()), 1.0).sum(-1))

    return make


CASES = [
    *(Case(name=f"two modes, 1 latent, s {s:g}", make=squares(1, s)) for s in (0.3, 0.1, 0.03, 0.01, 0.003)),
    *(Case(name=f"four modes, 2 latents, s {s:g}", make=squares(2, s)) for s in (0.3, 0.1, 0.01)),
    Case(name="eight modes, 3 latents, s 0.1", make=squares(3, 0.1)),
    Case(name="ring, 2 latents, s 0.3", make=ring(2, 0.3)),
    Case(name="ring, 2 latents, s 0.03", make=ring(2, 0.03)),
    Case(name="sphere, 3 latents, s 0.1", make=ring(3, 0.1)),
    Case(name="funnel, 2 latents, s 0.1", make=funnel(0.1), n_seeds=60),
    Case(name="heavy prior (t, 3), 2 latents", make=heavy_prior(3, 0.5)),
    Case(name="mixture prior, 10 latents, s 0.3", make=mixture_prior(10, 3.0, 0.3)),
    Case(name="mixture prior, 10 latents, s 1", make=mixture_prior(10, 3.0, 1.0)),
    *(
        Case(name=f"near-deterministic, 10 latents, s {s:g}", make=linear(10, 1 + 0.5 / s**2, s))
        for s in (0.1, 0.01, 0.001)
    ),
    Case(name="collapsed, 10 latents", make=collapsed(10)),
    *(Case(name=f"linear, condition 10, D {d}", make=linear(d, 10.0)) for d in (1, 2, 20, 200)),
    Case(name="linear, condition 10, D 400", make=linear(400, 10.0), n_seeds=5),
    *(Case(name=f"linear, condition {c:g}, D 20", make=linear(20, c)) for c in (1.01, 1e2, 1e3, 1e4, 1e5)),
    Case(name="latents of scales 0.001 to 1,000, D 10", make=linear(10, 100.0, spread=1000.0)),
]
