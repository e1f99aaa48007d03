"""Section 5.1: what do posteriors of two latents look like, and what do families of q make of them?"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..fits import fit_local
from ..models import LatentModel, log_joint
from ..posteriors import CouplingFlow, DiagonalGaussian, FullGaussian, Local, VariationalDistribution
from ..results import Array, Estimate, FitReport
from .claims import Claim, decide
from .experiment import Experiment, Findings, Lab, NamedArrays, Trained
from .figures import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["POSTERIOR_PLANE"]

PLANES = "planes"  # the name of arrays
MODEL = "mnist-2d"
LOCAL_FITS = {"best diagonal": DiagonalGaussian(2), "best full": FullGaussian(2), "best flow": CouplingFlow(2)}
SHOWN_Q = ("amortized", *LOCAL_FITS)  # in the order of the arrays
N_IMAGES, N_SHOWN = 40, 4
HALF_WIDTH, N_COARSE, N_FINE, N_DRAWN = 6.0, 240, 300, 100  # a plane around zero, and points along an axis
AT_ONCE = 4_000  # points at which the decoder is called
DEPTH = 18.0  # nats below the peak, down to which a posterior's box reaches
START = -3.0  # the logarithm of the scales of a fit that starts at the top of the true posterior
REACH = 5.0  # standard deviations of q, up to which the box reaches
AMORTIZATION_IS_LARGER = Claim(
    name="amortization-is-larger-2d",
    says="amortization often accounts for more of the inference gap than the family does",
    estimand="KL(q || p) - 2 KL(q*_FFG || p), which is the amortization gap minus the approximation gap",
    data="training images of MNIST, with two latents",
)
FLOW_IS_CLOSER = Claim(
    name="flow-is-closer-2d",
    says="a flow is closer to the true posterior than a factorized Gaussian",
    estimand="KL(q*_FFG || p) - KL(q*_flow || p)",
    data="training images of MNIST, with two latents",
)


def _run(lab: Lab) -> Findings:
    """Integrate over the plane, and compare the divergences image by image."""
    found = lab.arrays(MODEL, PLANES, _planes)
    kl = {kind: Estimate(f"KL of {kind}", values) for kind, values in zip(SHOWN_Q, found["kl"], strict=True)}
    fits = {
        kind: FitReport(outcome, np.zeros_like(outcome), np.zeros(len(outcome)))
        for kind, outcome in zip(LOCAL_FITS, found["outcome"], strict=True)
    }
    diagonal, flow = kl["best diagonal"], kl["best flow"]
    return Findings(
        header=("q", "n", "KL(q || p) in nats", "largest", "ran out"),
        rows=[_row(kind, estimate, fits.get(kind)) for kind, estimate in kl.items()],
        decisions=[
            decide(AMORTIZATION_IS_LARGER, kl["amortized"] - diagonal - diagonal, fits["best diagonal"]),
            decide(FLOW_IS_CLOSER, diagonal - flow, fits["best diagonal"], fits["best flow"]),
        ],
        draw=partial(_draw, found),
    )


def _row(kind: str, kl: Estimate, fit: FitReport | None) -> list[str]:
    ran_out = "" if fit is None else f"{fit.counts().get('ran out', 0)} of {len(fit.outcome)}"
    return [kind, f"{len(kl):,}", f"{kl.mean:.3f} ({kl.se:.3f})", f"{kl.values.max():.2f}", ran_out]


def _planes(trained: Trained) -> NamedArrays:
    """The true posteriors of some training images and their approximations, by quadrature on a grid.

    Each family is fitted from the encoder's answer and from the top of the true posterior, and the closer fit is kept.

    Returns:
        "kl": (4, N) KL(q || p) in nats of each kind of q. "mass": (4, N) how much of q the grid sees.
        "outcome": (3, N) how the local fits ended. "log_evidence": (N,) log p(x) in nats.
        "box": (S, 4) the edges of the planes that are drawn. "density": (S, 5, n, n) the densities there, the true one
        first. "image": (S, *event) the images.
    """
    model, x = trained.model, trained.images["train"][:N_IMAGES]
    with torch.no_grad():
        reached = trained.q(x)
    seen = [_peak_and_box(model, x[i : i + 1], _datum(reached, i)) for i in range(len(x))]
    tops = {"mean": torch.stack([peak for peak, _ in seen]).to(x), "log_scale": x.new_full((len(x), 2), START)}
    starts = (trained.q, Local(DiagonalGaussian(2), len(x), tops))
    fits = [fit_local(family, model, x, start) for family in LOCAL_FITS.values() for start in starts]
    known: dict[str, list[Array]] = {"kl": [], "mass": [], "outcome": [], "log_evidence": [], "box": [], "density": []}
    for i, (_, box) in enumerate(seen):
        every = [_datum(dist, i) for dist in (reached, *(fit.q(x) for fit in fits))]
        log_p, log_q, evidence, cell = _densities(model, x[i : i + 1], every, _grid(box, N_FINE))
        mass = log_q.exp().sum(1) * cell
        kl = (log_q.exp() * (log_q - log_p)).sum(1) * cell / mass
        kept = [0, *(1 + k + int(kl[2 + k] < kl[1 + k]) for k in range(0, len(fits), 2))]
        known["kl"].append(kl[kept].numpy())
        known["mass"].append(mass[kept].numpy())
        known["outcome"].append(np.array([fits[k - 1].outcome[i] for k in kept[1:]]))
        known["log_evidence"].append(evidence.numpy())
        if i < N_SHOWN:
            log_p, log_q, _, _ = _densities(model, x[i : i + 1], [every[k] for k in kept], _grid(box, N_DRAWN))
            density = torch.cat([log_p[None], log_q]).exp().reshape(-1, N_DRAWN, N_DRAWN)
            known["box"].append(box.numpy())
            known["density"].append(density.numpy().astype(np.float32))
    stacked = {name: np.stack(parts) for name, parts in known.items()}
    return stacked | {name: stacked[name].T for name in ("kl", "mass", "outcome")} | {"image": x[:N_SHOWN].numpy()}


def _datum(dist: VariationalDistribution, i: int) -> VariationalDistribution:
    """The distribution of one datum."""
    params = dist.per_datum().params
    return VariationalDistribution(dist.family, {key: value[i : i + 1] for key, value in params.items()})


def _peak_and_box(model: LatentModel, x: Tensor, q: VariationalDistribution) -> tuple[Tensor, Tensor]:
    """The top (2,) of the true posterior, and a rectangle that holds it and q: left, right, bottom, top."""
    z = _grid(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64) * HALF_WIDTH, N_COARSE)
    log_p = _log_joint(model, x, z)
    inside = z[log_p > log_p.max() - DEPTH]
    mean, reach = q.params["mean"][0].double(), REACH * q.params["log_scale"][0].double().exp()
    step = 2 * HALF_WIDTH / (N_COARSE - 1)
    low = torch.minimum(inside.amin(0) - step, mean - reach)
    high = torch.maximum(inside.amax(0) + step, mean + reach)
    return z[log_p.argmax()], torch.stack([low, high], dim=1).flatten()


def _grid(box: Tensor, n: int) -> Tensor:
    """n x n points (n n, 2) in a rectangle, the second coordinate the slower one."""
    across, along = (torch.linspace(float(low), float(high), n, dtype=torch.float64) for low, high in box.reshape(2, 2))
    second, first = torch.meshgrid(along, across, indexing="ij")
    return torch.stack([first, second], dim=-1).reshape(-1, 2)


def _densities(
    model: LatentModel, x: Tensor, every: list[VariationalDistribution], z: Tensor
) -> tuple[Tensor, Tensor, Tensor, float]:
    """log p(z|x) (n n,), log q(z) (K, n n), log p(x) by the trapezoidal rule on a grid, and the area of a cell."""
    n = round(len(z) ** 0.5)
    cell = float((z[1, 0] - z[0, 0]) * (z[n, 1] - z[0, 1]))
    joint = _log_joint(model, x, z)
    evidence = joint.logsumexp(0) + np.log(cell)
    log_q = torch.stack([dist.log_prob(z[:, None].to(x))[:, 0].double() for dist in every])
    return joint - evidence, log_q.detach(), evidence, cell


def _log_joint(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) of one image at many z (n, 2), some at a time."""
    with torch.no_grad():
        parts = [log_joint(model, x, part[:, None].to(x))[:, 0] for part in z.split(AT_ONCE)]
    return torch.cat(parts).double()


def _draw(found: NamedArrays, figure: "Figure") -> None:
    """A column for each image, a row for each density; the lines in all of them are the true posterior."""
    n = len(found["box"])
    titles = ("true posterior", *SHOWN_Q)
    figure.set_size_inches(6.5, 1.5 * len(titles))
    panels = figure.subplots(len(titles), n, squeeze=False)
    for column in range(n):
        truth = found["density"][column, 0]
        for row, title in enumerate(titles):
            axes = panels[row, column]
            left, right, bottom, top = found["box"][column]
            extent = (left, right, bottom, top)
            axes.imshow(
                found["density"][column, row], origin="lower", extent=extent, cmap="Blues", aspect="auto", vmin=0.0
            )
            axes.contour(
                truth, levels=truth.max() * np.array([0.05, 0.3, 0.8]), extent=extent, colors=COLORS[4], linewidths=0.7
            )
            if row:
                written = f"KL {found['kl'][row - 1, column]:.2f}"
                axes.text(0.05, 0.05, written, transform=axes.transAxes, fontsize=8)
            axes.tick_params(labelsize=6)
            if column == 0:
                axes.set_ylabel(title, fontsize=9)
    _draw_images(panels[0], found["image"])


def _draw_images(panels: "Sequence[Axes]", images: Array) -> None:
    """Each image in a corner of its true posterior, if it is square."""
    side = round(images[0].size ** 0.5)
    if side * side != images[0].size:
        return
    for axes, image in zip(panels, images, strict=True):
        corner = axes.inset_axes((0.72, 0.02, 0.27, 0.36))
        corner.imshow(image.reshape(side, side), cmap="gray_r")
        corner.set_xticks([])
        corner.set_yticks([])


POSTERIOR_PLANE = Experiment(
    name="posterior-2d",
    section="5.1",
    question="What do true posteriors look like, and how close do amortized and fitted q come?",
    how="A model of MNIST with two latents, so that all can be integrated on a grid: the divergence of the encoder's "
    "Gaussian, and of the best diagonal Gaussian, full Gaussian and coupling flow of each image, fitted from the "
    "encoder's answer and from the top of the true posterior. In the figure the orange lines are the true posterior, "
    "and blue is the density that a row names.",
    models=(MODEL,),
    claims=[AMORTIZATION_IS_LARGER, FLOW_IS_CLOSER],
    run=_run,
    takes=(PLANES,),
)
