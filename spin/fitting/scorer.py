"""The judge: what 3D error is to be expected of a fit, in mm. The lower wins, whatever made the fits, and when.

The reprojection loss is no judge: the fit that meets the keypoints best is rarely the one nearest to the person. The lifter
is one. It says where the body should be and how wrong it expects itself to be; a fit's expected squared error grows with the
lifter's own, with the fit's distance from it, and with what is left of the keypoints' residual. With several views or 3D
joints the residual alone tells. The weights are non-negative, so that a worse sign never improves a score, and are
calibrated on people whose true body is known (docs/fitting.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from spin.fitting.lifter import Lift
from spin.fitting.objective import body_weights
from spin.fitting.observations import Evidence
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


# What a sample is judged by: its kind of evidence. Names of the lifter's calibrated numbers.
KINDS = ("single", "views", "joints3d")


@dataclass(frozen=True)
class Opinion:
    """What the judge holds of a batch before it sees a fit.

    `rows`: the samples of each kind; `lift` and its points are those of the samples of which one view is all there is.
    """

    evidence: Evidence
    rows: dict[str, Int[Tensor, " n"]]
    lift: Lift
    lifted_points_m: Float[Tensor, "n 14 3"]


class Judge:
    """Scores fits. The same fit and evidence always give the same score, whatever else is in the batch."""

    def __init__(self, body: CompactBody, lifter: Lifter) -> None:
        self.body, self.lifter = body, lifter

    def look(self, evidence: Evidence, lift: Lift | None = None) -> Opinion:
        """What can be known from the evidence alone; the lifter is asked, unless its answer to all samples is at hand."""
        seeing = _seeing(evidence)
        by_joints = _joints3d_known(evidence) >= _ENOUGH_JOINTS3D
        by_views = ~by_joints & (seeing.sum(1) > 1)
        groups = (~by_joints & ~by_views, by_views, by_joints)
        rows = {kind: group.nonzero()[:, 0] for kind, group in zip(KINDS, groups)}
        single = rows["single"]
        if lift is None:
            # A view's rotation doesn't matter: what is compared with the lifted body is aligned to it.
            view = _joints_seen(evidence)[single].argmax(1)
            lift = self.lifter.lift(self.body, evidence.keypoints_px[single, view])
        elif len(single) < len(evidence):
            lift = Lift(*(getattr(lift, f.name)[single] for f in fields(Lift)))
        return Opinion(evidence, rows, lift, self.body(lift.pose_aa, lift.betas)[:, list(LSP_POINTS)])

    def expected_error_mm(
        self,
        opinion: Opinion,
        points_m: Float[Tensor, "B 44 3"],
        camera_m: Float[Tensor, "B 3"],
    ) -> Float[Tensor, " B"]:
        """The PA-MPJPE that fits with these model points may be expected to have."""
        out = torch.empty_like(camera_m[:, 0])
        for kind, rows in opinion.rows.items():
            if len(rows):
                signs = self.signs(opinion, points_m, camera_m, kind)
                weights = self.lifter.get_buffer(f"judge_{kind}").to(signs.dtype)
                # a sum, not a product of matrices: those sum in another order in a batch of another size
                out[rows] = (signs * weights).sum(1).clamp_min(0.0).sqrt()
        return out

    def signs(
        self,
        opinion: Opinion,
        points_m: Float[Tensor, "B 44 3"],
        camera_m: Float[Tensor, "B 3"],
        kind: str,
    ) -> Float[Tensor, "n F"]:
        """What an expected squared error (mm²) of the samples of a kind is summed from, all of it non-negative."""
        rows = opinion.rows[kind]
        evidence, points = opinion.evidence.take(rows), points_m[rows]
        keypoints = self.body.keypoints(points)
        residual = _residual_mm(keypoints, camera_m[rows], evidence) ** 2
        one = torch.ones_like(residual)
        if kind == "joints3d":
            return torch.stack([one, residual, _joints3d_mm(keypoints, evidence) ** 2], 1)
        if kind == "views":
            return torch.stack([one, residual, residual / _seeing(evidence).sum(1)], 1)
        distance = aligned_distance_mm(points[:, list(LSP_POINTS)], opinion.lifted_points_m) ** 2
        own = opinion.lift.error_mm
        return torch.stack([one, own**2, distance, residual, own * residual.sqrt()], 1)


def _joints_seen(evidence: Evidence) -> Int[Tensor, "B V"]:
    return (evidence.keypoints_px[..., 2] > 0).sum(-1)


def _seeing(evidence: Evidence) -> Bool[Tensor, "B V"]:
    """Which views see enough of the person to count."""
    return _joints_seen(evidence) >= _ENOUGH_JOINTS


def _joints3d_known(evidence: Evidence) -> Int[Tensor, " B"]:
    if evidence.joints3d_m is None:
        return torch.zeros_like(evidence.keypoints_px[:, 0, 0, 0], dtype=torch.long)
    return (evidence.joints3d_m[..., 3] > 0).sum(1)


def _residual_mm(keypoints_m: Tensor, camera_m: Tensor, evidence: Evidence) -> Float[Tensor, " B"]:
    """Root mean square distance to the keypoints, in mm at the body's depth."""
    placed = evidence.views.place(keypoints_m + camera_m[:, None])
    pixels = evidence.views.project(keypoints_m + camera_m[:, None])
    weight = body_weights(evidence.keypoints_px)
    mm_per_px = 1000 * placed[..., 2] / evidence.views.focal_px[:, :, None]
    away = (pixels - evidence.keypoints_px[..., :2]).norm(dim=-1) * mm_per_px.abs()
    squared = weight * away.clamp_max(_FAR_MM) ** 2
    return (squared.sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-6)).sqrt()


def _joints3d_mm(keypoints_m: Tensor, evidence: Evidence) -> Float[Tensor, " B"]:
    assert evidence.joints3d_m is not None
    weight = evidence.joints3d_m[..., 3:]
    away = keypoints_m[:, JOINTS.superset] - evidence.joints3d_m[..., :3]
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
