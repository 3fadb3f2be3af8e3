"""The best similarity between sets of points, for all sets in one call, on any device.

A batched SVD of 3 × 3 matrices calls LAPACK (or cuSOLVER) once a matrix, which takes longer than all the rest. Here the best
rotation is computed in closed form, as a few sums and products over contiguous numbers; the few matrices whose best
rotation is nearly not unique use the SVD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_NEWTON_STEPS = 12  # convergence is quadratic, and the first bound is rarely off by half
_AT_ONCE = 2048  # sets whose numbers stay in a core's cache
_UNIQUE = 1e-2
"""How unique a best rotation must be for the closed form, ζ / λ³ below: its error is then under 1e-11. People are near 0.1."""


@dataclass(frozen=True)
class Similarity:
    """p -> scale * rotation @ p + translation_m, of N sets of points."""

    scale: Float[Tensor, " N"]
    rotation: Float[Tensor, "N 3 3"]
    translation_m: Float[Tensor, "N 3"]

    def apply(self, points_m: Float[Tensor, "N J 3"]) -> Float[Tensor, "N J 3"]:
        turned = points_m @ (self.scale[:, None, None] * self.rotation).transpose(1, 2)
        return turned + self.translation_m[:, None]


def similarity(points_m: Float[Tensor, "N J 3"], target_m: Float[Tensor, "N J 3"]) -> Similarity:
    """Return the similarity that brings each set of points closest to its target in least squares (Umeyama, PAMI 1991).

    Reflections are excluded. Where all points coincide, the scale is 0. Points must be finite and float64.
    """
    p, t = _columns(points_m), _columns(target_m)
    scale, rotation = _best(p - p.mean(1, keepdim=True), t - t.mean(1, keepdim=True))
    from_centre, to_centre = p.mean(1), t.mean(1)
    translation = to_centre - scale * (rotation * from_centre).sum(1)
    return Similarity(scale, rotation.permute(2, 0, 1), translation.T)


def align(points_m: Float[Tensor, "N J 3"], target_m: Float[Tensor, "N J 3"]) -> Float[Tensor, "N J 3"]:
    """Move each set of points by its best similarity (see `similarity`)."""
    out = torch.empty_like(points_m)
    for points, target, moved in zip(*(x.split(_AT_ONCE) for x in (points_m, target_m, out))):
        p, t = _columns(points), _columns(target)
        p, to_centre = p - p.mean(1, keepdim=True), t.mean(1, keepdim=True)
        scale, rotation = _best(p, t - to_centre)
        turn = scale * rotation
        for axis in range(3):
            x = turn[axis, 0] * p[0] + turn[axis, 1] * p[1] + turn[axis, 2] * p[2] + to_centre[axis]
            moved[:, :, axis] = x.T
    return out


def _columns(points_m: Float[Tensor, "N J 3"]) -> Float[Tensor, "3 J N"]:
    return points_m.permute(2, 1, 0).contiguous()


def _best(p: Float[Tensor, "3 J N"], t: Float[Tensor, "3 J N"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "3 3 N"]]:
    """Return scale and rotation of centred points."""
    b = torch.stack([(row * column).sum(0) for row in t for column in p]).view(3, 3, -1)
    spread = p.square().sum((0, 1))
    rotation = best_rotation(b, (spread + t.square().sum((0, 1))) / 2)
    trace = (rotation * b).sum((0, 1))
    return torch.where(spread > 0, trace / spread.clamp_min(torch.finfo(spread.dtype).tiny), 0.0), rotation


def best_rotation(b: Float[Tensor, "3 3 N"], bound: Float[Tensor, " N"]) -> Float[Tensor, "3 3 N"]:
    """Return the rotation R that maximises trace(Rᵀ B) for each matrix (Markley's FOAM, J. Astronautical Sciences 1993).

    `bound`: an upper bound of that trace. If several rotations are equally good (points on a line), one of them.
    """
    adjoint = torch.stack(  # rows are cross products of B's rows: the transposed adjugate
        [torch.linalg.cross(b[(i + 1) % 3], b[(i + 2) % 3], dim=0) for i in range(3)]
    )
    square, determinant = b.square().sum((0, 1)), (b[0] * adjoint[0]).sum(0)
    # λ, the largest trace, is the largest root of (λ² − |B|²)² − 8 λ det B − 4 |adj B|²; Newton's method descends to it.
    constant = 4 * adjoint.square().sum((0, 1))
    largest = torch.minimum(bound, (3 * square).sqrt())
    for _ in range(_NEWTON_STEPS):
        off = largest * largest - square
        slope = 4 * (largest * off - 2 * determinant)
        step = (off * off - 8 * largest * determinant - constant) / slope
        largest = torch.where(slope > 0, largest - step, largest)
    kappa = (largest * largest - square) / 2
    zeta = kappa * largest - determinant
    gram = (b[:, None] * b[None]).sum(2)  # B Bᵀ
    cubed = (gram[:, :, None] * b[None]).sum(1)
    rotation = ((kappa + square) * b + largest * adjoint - cubed) / zeta
    unsure = ~(zeta > _UNIQUE * largest**3)
    if unsure.any():
        rotation[:, :, unsure] = _by_svd(b[:, :, unsure].permute(2, 0, 1)).permute(1, 2, 0)
    return rotation


def _by_svd(b: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N 3 3"]:
    u, _, vt = torch.linalg.svd(b)
    sign = torch.ones_like(u[:, 0])
    # The least significant axis is reversed where the best orthogonal map would be a reflection.
    sign[:, 2] = torch.det(u @ vt).sign()
    return (u * sign[:, None]) @ vt
