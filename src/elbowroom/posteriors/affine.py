"""Affine coordinates of each datum, z = center + scale u: those of a Gaussian, in which it is standard normal."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .small_networks import Params

__all__ = ["GAUSSIAN_PARAMS", "AffineMap", "scale_tril"]

GAUSSIAN_PARAMS = frozenset({"mean", "log_scale", "lower"})  # the last of a full covariance alone


@dataclass(frozen=True)
class AffineMap:
    """z = center + scale u for each datum: center (N, D), scale lower triangular (N, D, D)."""

    center: Tensor
    scale: Tensor

    @staticmethod
    def of_gaussian(params: Params) -> "AffineMap":
        """The coordinates in which the Gaussian with these parameters is standard normal."""
        return AffineMap(params["mean"], scale_tril(params))

    @property
    def log_det(self) -> Tensor:
        """log |dz/du|, (N,)."""
        return self.scale.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    def __call__(self, u: Tensor) -> Tensor:
        """u (S, N, D) -> z."""
        return self.center + torch.bmm(u.transpose(0, 1), self.scale.mT).transpose(0, 1)

    def inverse(self, z: Tensor) -> Tensor:
        """z (S, N, D) -> u."""
        centered = (z - self.center).movedim(0, -1)  # (N, D, S)
        return torch.linalg.solve_triangular(self.scale, centered, upper=False).movedim(-1, 0)

    def displacement(self, u: Tensor) -> Tensor:
        """scale u: a displacement u (N, D) as one of z."""
        return torch.einsum("nij,nj->ni", self.scale, u)

    def pull_back(self, grad: Tensor) -> Tensor:
        """The gradient (S, N, D) of a function of z, as one of u."""
        return torch.bmm(grad.transpose(0, 1), self.scale).transpose(0, 1)

    def detached(self) -> "AffineMap":
        """The same coordinates, constant in what they were computed from."""
        return AffineMap(self.center.detach(), self.scale.detach())

    def rows(self, index: Tensor) -> "AffineMap":
        """The coordinates of some of the data."""
        return AffineMap(self.center[index], self.scale[index])

    def compose(self, params: Params) -> Params:
        """Parameters of a q of u -> those of the same q as a distribution of z: its outer affine map absorbs ours."""
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
    """L (N, D, D) of a Gaussian's parameters; diagonal where there is no lower part."""
    diagonal = torch.diag_embed(params["log_scale"].exp())
    return diagonal + params["lower"].tril(-1) if "lower" in params else diagonal
