"""Affine coordinates of each datum, z = center + scale u, in which a given Gaussian is standard normal."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .small_networks import Params

__all__ = ["GAUSSIAN_PARAMS", "AffineMap", "scale_tril"]

GAUSSIAN_PARAMS = frozenset({"mean", "log_scale", "lower"})  # `lower` only with a full covariance


@dataclass(frozen=True)
class AffineMap:
    """z = center + scale u for each datum, with center (N, D) and a lower-triangular scale (N, D, D)."""

    center: Tensor
    scale: Tensor

    @staticmethod
    def of_gaussian(params: Params) -> "AffineMap":
        """The coordinates in which the Gaussian with these parameters is standard normal."""
        return AffineMap(params["mean"], scale_tril(params))

    @property
    def log_det(self) -> Tensor:
        """log |det dz/du|, (N,)."""
        return self.scale.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    def __call__(self, u: Tensor) -> Tensor:
        """Map u (S, N, D) to z (S, N, D)."""
        return self.center + torch.bmm(u.transpose(0, 1), self.scale.mT).transpose(0, 1)

    def inverse(self, z: Tensor) -> Tensor:
        """Map z (S, N, D) to u (S, N, D)."""
        centered = (z - self.center).movedim(0, -1)  # (N, D, S)
        return torch.linalg.solve_triangular(self.scale, centered, upper=False).movedim(-1, 0)

    def displacement(self, u: Tensor) -> Tensor:
        """Map a displacement of u (N, D) to that of z, scale u (N, D)."""
        return torch.einsum("nij,nj->ni", self.scale, u)

    def pull_back(self, grad: Tensor) -> Tensor:
        """Map a gradient in z (S, N, D) to the gradient in u, scale' grad (S, N, D)."""
        return torch.bmm(grad.transpose(0, 1), self.scale).transpose(0, 1)

    def detached(self) -> "AffineMap":
        """The same coordinates, detached from the graph."""
        return AffineMap(self.center.detach(), self.scale.detach())

    def rows(self, index: Tensor) -> "AffineMap":
        """The coordinates of the data `index` (R,)."""
        return AffineMap(self.center[index], self.scale[index])

    def compose(self, params: Params) -> Params:
        """Turn the parameters of a distribution of u into those of the same distribution as one of z.

        This map is composed with the distribution's outer affine map. Parameters without `lower` need a diagonal scale.
        """
        diagonal = params["log_scale"].exp()
        composed = dict(params)
        composed["mean"] = self.center + self.displacement(params["mean"])
        if "lower" in params:
            tril = self.scale @ (torch.diag_embed(diagonal) + params["lower"].tril(-1))
            composed["log_scale"], composed["lower"] = tril.diagonal(dim1=-2, dim2=-1).log(), tril.tril(-1)
        else:
            composed["log_scale"] = (self.scale.diagonal(dim1=-2, dim2=-1) * diagonal).log()
        return composed


def scale_tril(params: Params) -> Tensor:
    """The lower-triangular scale L (N, D, D) of a Gaussian's parameters, diagonal if they have no `lower`."""
    diagonal = torch.diag_embed(params["log_scale"].exp())
    return diagonal + params["lower"].tril(-1) if "lower" in params else diagonal
