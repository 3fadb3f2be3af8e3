"""Score fits by the 3D error to be expected of them, in mm. The lower wins, independent of what made the fits, and when.

The reprojection loss is a poor score: the fit that meets the keypoints best is rarely the one nearest to the person. The
lifter is a better guide. It estimates the body and its own error; a fit's expected squared error grows with the
lifter's own, with the fit's distance from it, and with what is left of the keypoints' residual. With several views or 3D
joints the residual alone tells. The weights are non-negative, so that a worse term never improves a score, and are
calibrated on people whose true body is known (docs/fitting.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from spin.fitting.lifter import Lift
from spin.fitting.objective import body_weights
from spin.fitting.observations import Observations
from spin.joints import JOINTS, LSP_POINTS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.lifter import Lifter

_LARGEST_M = 1e3
_FAR_MM = 150.0  # residuals beyond count as this: one wrong keypoint must not decide everything
# Less than this and the residual, which a few joints can always be given, says nothing of the rest.
_ENOUGH_JOINTS3D, _ENOUGH_JOINTS = 12, 6


# What a sample is scored by: its kind of observations. Names of the lifter's calibrated numbers.
KINDS = ("single", "views", "joints3d")


@dataclass(frozen=True)
class ScoreBasis:
    """What the scorer knows of a batch before it sees a fit.

    `rows`: the samples of each kind; `lift` and its points are those of the samples of which one view is all there is.
    """

    observations: Observations
    rows: dict[str, Int[Tensor, " n"]]
    lift: Lift
    lifted_points_m: Float[Tensor, "n 14 3"]


class FitScorer:
    """Score fits. The same fit and observations always give the same score, in any batch."""

    def __init__(self, body: CompactBody, lifter: Lifter) -> None:
        self.body, self.lifter = body, lifter

    def basis(self, observations: Observations, lift: Lift | None = None) -> ScoreBasis:
        """Return what the observations alone say; `lift`: the lifter's answer to all samples, if it is at hand."""
        seeing = _seeing(observations)
        by_joints = _joints3d_known(observations) >= _ENOUGH_JOINTS3D
        by_views = ~by_joints & (seeing.sum(1) > 1)
        groups = (~by_joints & ~by_views, by_views, by_joints)
        rows = {kind: group.nonzero()[:, 0] for kind, group in zip(KINDS, groups)}
        single = rows["single"]
        if lift is None:
            # A view's rotation doesn't matter: what is compared with the lifted body is aligned to it.
            view = _joints_seen(observations)[single].argmax(1)
            lift = self.lifter.lift(self.body, observations.keypoints_px[single, view])
        elif len(single) < len(observations):
            lift = Lift(*(getattr(lift, f.name)[single] for f in fields(Lift)))
        return ScoreBasis(observations, rows, lift, self.body(lift.pose_aa, lift.betas)[:, list(LSP_POINTS)])

    def expected_error_mm(
        self,
        basis: ScoreBasis,
        points_m: Float[Tensor, "B 44 3"],
        camera_m: Float[Tensor, "B 3"],
    ) -> Float[Tensor, " B"]:
        """Return the PA-MPJPE (mm) to be expected of fits with these model points."""
        out = torch.empty_like(camera_m[:, 0])
        for kind, rows in basis.rows.items():
            if len(rows):
                terms = self.terms(basis, points_m, camera_m, kind)
                weights = self.lifter.get_buffer(f"judge_{kind}").to(terms.dtype)
                # a sum, not a product of matrices: those sum in another order in a batch of another size
                out[rows] = (terms * weights).sum(1).clamp_min(0.0).sqrt()
        return out

    def terms(
        self,
        basis: ScoreBasis,
        points_m: Float[Tensor, "B 44 3"],
        camera_m: Float[Tensor, "B 3"],
        kind: str,
    ) -> Float[Tensor, "n F"]:
        """Return what an expected squared error (mm²) of the samples of a kind is summed from, all of it non-negative."""
        rows = basis.rows[kind]
        observations, points = basis.observations.take(rows), points_m[rows]
        keypoints = self.body.keypoints(points)
        residual = _residual_mm(keypoints, camera_m[rows], observations) ** 2
        one = torch.ones_like(residual)
        if kind == "joints3d":
            return torch.stack([one, residual, _joints3d_mm(keypoints, observations) ** 2], 1)
        if kind == "views":
            return torch.stack([one, residual, residual / _seeing(observations).sum(1)], 1)
        distance = aligned_distance_mm(points[:, list(LSP_POINTS)], basis.lifted_points_m) ** 2
        own = basis.lift.error_mm
        return torch.stack([one, own**2, distance, residual, own * residual.sqrt()], 1)


def _joints_seen(observations: Observations) -> Int[Tensor, "B V"]:
    return (observations.keypoints_px[..., 2] > 0).sum(-1)


def _seeing(observations: Observations) -> Bool[Tensor, "B V"]:
    """Return which views see enough of the person to count."""
    return _joints_seen(observations) >= _ENOUGH_JOINTS


def _joints3d_known(observations: Observations) -> Int[Tensor, " B"]:
    if observations.joints3d_m is None:
        return torch.zeros_like(observations.keypoints_px[:, 0, 0, 0], dtype=torch.long)
    return (observations.joints3d_m[..., 3] > 0).sum(1)


def _residual_mm(keypoints_m: Tensor, camera_m: Tensor, observations: Observations) -> Float[Tensor, " B"]:
    """Root mean square distance to the keypoints, in mm at the body's depth."""
    placed = observations.views.place(keypoints_m + camera_m[:, None])
    pixels = observations.views.project(keypoints_m + camera_m[:, None])
    weight = body_weights(observations.keypoints_px)
    mm_per_px = 1000 * placed[..., 2] / observations.views.focal_px[:, :, None]
    away = (pixels - observations.keypoints_px[..., :2]).norm(dim=-1) * mm_per_px.abs()
    squared = weight * away.clamp_max(_FAR_MM) ** 2
    return (squared.sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-6)).sqrt()


def _joints3d_mm(keypoints_m: Tensor, observations: Observations) -> Float[Tensor, " B"]:
    assert observations.joints3d_m is not None
    weight = observations.joints3d_m[..., 3:]
    away = keypoints_m[:, JOINTS.superset] - observations.joints3d_m[..., :3]
    total = weight.sum(1).clamp_min(1e-6)
    away = away - (weight * away).sum(1, keepdim=True) / total[:, None]
    return 1000 * ((weight[..., 0] * (away * away).sum(-1)).sum(1) / total[:, 0]).sqrt()


def aligned_distance_mm(a_m: Float[Tensor, "B J 3"], b_m: Float[Tensor, "B J 3"]) -> Float[Tensor, " B"]:
    """Mean distance (mm) after the best similarity that takes a to b: PA-MPJPE, on any device (see evaluation.metrics).

    Infinite where a or b is not a number or a kilometre large.
    """
    fine = ((a_m.abs() < _LARGEST_M) & (b_m.abs() < _LARGEST_M)).flatten(1).all(1)
    a_m, b_m = (torch.where(fine[:, None, None], points, 0.0) for points in (a_m, b_m))
    a, b = a_m - a_m.mean(1, keepdim=True), b_m - b_m.mean(1, keepdim=True)
    u, singular, vt = torch.linalg.svd(b.transpose(1, 2) @ a)
    sign = torch.ones_like(singular)
    sign[:, 2] = torch.det(u @ vt).sign()
    scale = (singular * sign).sum(1) / (a * a).sum((1, 2)).clamp_min(1e-12)
    rotation = (u * sign[:, None]) @ vt
    distance = 1000 * (scale[:, None, None] * (a @ rotation.transpose(1, 2)) - b).norm(dim=-1).mean(1)
    return torch.where(fine, distance, torch.inf)
