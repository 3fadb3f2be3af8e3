"""Where a fit begins. One 2D view leaves several 3D explanations; the solver goes down to the nearest, so starts decide."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.camera import CROP_PX
from spin.fitting.objective import Anchor, body_weights, noise_px
from spin.fitting.observations import Observations, Views
from spin.joints import JOINTS
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle, rot6d_to_matrix, upright

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.lifter import Lift, Lifter
    from spin.fitting.prior import PosePrior

# Kinds of start, kept with a fit as their place in this tuple.
START_KINDS = ("multistart", "lifter", "store", "file", "network")
YAWS_DEG = (0.0, 90.0, 180.0, 270.0)
MIN_JOINTS = 4  # fewer than this many confident joints don't fix a camera and a pose
# How far a given body (of a file, the store, the network) is trusted that says nothing of its own uncertainty.
GIVEN_POSE_SIGMA_RAD, GIVEN_BETAS_SIGMA = 0.3, 1.0
_CONFIDENT = 0.05
_BODY = ("pose_aa", "betas", "camera_m")


@dataclass(frozen=True)
class Start:
    """Body and translation that a solver starts from; with an anchor, an anchored objective also holds the fit to it."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]
    kind: str = "file"
    anchor: Anchor | None = None
    lift: Lift | None = None  # what the lifter said, where one view is all there is: the scorer wants it, too
    mixed_kinds: Int[Tensor, " B"] | None = None  # places in START_KINDS, where not all are of one kind

    @property
    def kinds(self) -> Int[Tensor, " B"]:
        """The kind of each sample's start, as its place in START_KINDS."""
        if self.mixed_kinds is not None:
            return self.mixed_kinds
        return torch.full_like(self.betas[:, 0], START_KINDS.index(self.kind), dtype=torch.long)

    def to(self, device: torch.device, dtype: torch.dtype) -> Start:
        """The same numbers elsewhere, without gradients."""
        pose, betas, camera = (getattr(self, n).detach().to(device, dtype) for n in _BODY)
        anchor = None
        if self.anchor is not None:
            anchor = Anchor(*(getattr(self.anchor, f.name).to(device, dtype) for f in fields(Anchor)))
        return replace(self, pose_aa=pose, betas=betas, camera_m=camera, anchor=anchor)

    def take(self, rows: Tensor) -> Start:
        anchor = None if self.anchor is None else _taken(self.anchor, rows)
        kinds = None if self.mixed_kinds is None else self.mixed_kinds[rows]
        pose, betas, camera = (getattr(self, n)[rows] for n in _BODY)
        return Start(pose, betas, camera, self.kind, anchor, None, kinds)

    def at(self, camera_m: Float[Tensor, "B 3"]) -> Start:
        """The same body in other places."""
        return replace(self, camera_m=camera_m)

    def where(self, mask: Bool[Tensor, " B"], other: Start) -> Start:
        """This start where the mask is set, elsewhere the other one (which, if it has no anchor, is held to by nothing)."""

        def mix(mine: Tensor, others: Tensor) -> Tensor:
            return torch.where(mask.reshape(-1, *[1] * (mine.ndim - 1)), mine, others)

        pose, betas, camera = (mix(getattr(self, n), getattr(other, n)) for n in _BODY)
        kinds = mix(self.kinds, other.kinds)
        if self.anchor is None:
            return Start(pose, betas, camera, self.kind, mixed_kinds=kinds)
        free = torch.full_like(self.pose_aa, torch.inf), torch.full_like(self.betas, torch.inf)
        theirs = other.anchor or Anchor(other.pose_aa, other.betas, *free, torch.ones_like(self.betas[:, 0]))
        anchor = Anchor(*(mix(getattr(self.anchor, f.name), getattr(theirs, f.name)) for f in fields(Anchor)))
        return Start(pose, betas, camera, self.kind, anchor, None, kinds)


def _taken(anchor: Anchor, rows: Tensor) -> Anchor:
    return Anchor(*(getattr(anchor, f.name)[rows] for f in fields(Anchor)))


def confident_joints(keypoints_px: Float[Tensor, "*b 49 3"]) -> Float[Tensor, "*b"]:
    """How many different places the body term sees with confidence: joints that both halves name count once."""
    seen = body_weights(keypoints_px) > _CONFIDENT
    twice = torch.zeros_like(seen)
    for openpose, superset in JOINTS.named_twice:
        twice[..., superset] = seen[..., openpose] & seen[..., superset]
    return (seen & ~twice).sum(-1)


# ---- the camera ---------------------------------------------------------------------------------------------------------


def camera_start(points_m: Float[Tensor, "B 49 3"], observations: Observations) -> Float[Tensor, "B 3"]:
    """Translation (m) that puts the body's confident joints where the keypoints are.

    One view: equal spread, equal centre; unlike a linear solution, the ratio of spreads stays sensible when the body's
    pose is still wrong. Several views meet in a point, which least squares finds.
    """
    if observations.keypoints_px.shape[1] == 1:
        return _by_spread(points_m, observations)
    return _by_intersection(points_m, observations)


def _by_spread(points_m: Tensor, observations: Observations) -> Tensor:
    views, keypoints = observations.views, observations.keypoints_px[:, 0]
    rotation, focal = views.rotation[:, 0], views.focal_px[:, 0]
    turned = points_m @ rotation.transpose(-1, -2)
    weight = keypoints[..., 2:].clamp_min(0)
    total = weight.sum(1).clamp_min(1e-6)
    unseen = weight.sum(1) == 0

    def centre_and_spread(xy: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """`middle`: of samples that nothing is seen of."""
        centre = torch.where(unseen, middle, (xy * weight).sum(1) / total)
        return centre, (((xy - centre[:, None]) ** 2 * weight).sum((1, 2)) / total[:, 0]).sqrt()

    body_centre, body_spread = centre_and_spread(turned[..., :2], turned[..., :2].mean(1))
    image_centre, image_spread = centre_and_spread(keypoints[..., :2], views.principal_px[:, 0])
    # Points that coincide have no spread: a person as large as the crop is then as good a guess as any.
    px_per_m = torch.where(image_spread > 1.0, image_spread / body_spread.clamp_min(1e-3), image_spread.new_tensor(CROP_PX / 2))
    xy = (image_centre - views.principal_px[:, 0]) / px_per_m[:, None] - body_centre
    placed = torch.cat([xy, (focal / px_per_m)[:, None]], 1)
    return ((placed - views.translation_m[:, 0])[:, None] @ rotation)[:, 0]


def _by_intersection(points_m: Tensor, observations: Observations) -> Tensor:
    """Each keypoint (u, v) says (r_x - u r_z) · (X + T) + t_x - u t_z = 0, and the same for v: linear in T."""
    views, keypoints = observations.views, observations.keypoints_px
    ray = (keypoints[..., :2] - views.principal_px[:, :, None]) / views.focal_px[:, :, None, None]
    rows = views.rotation[:, :, None, :2] - ray[..., None] * views.rotation[:, :, None, 2:]  # (B, V, 49, 2, 3)
    known = views.translation_m[:, :, None, :2] - ray * views.translation_m[:, :, None, 2:]
    known = known + (rows @ points_m[:, None, :, :, None])[..., 0]
    weight = keypoints[..., 2].clamp_min(0)[..., None, None]
    normal = (weight * rows).flatten(1, 3).transpose(1, 2) @ rows.flatten(1, 3)
    right = (weight * rows).flatten(1, 3).transpose(1, 2) @ known.flatten(1)[..., None]
    ridge = 1e-6 * torch.eye(3, dtype=normal.dtype, device=normal.device)
    return -torch.linalg.solve_ex(normal + ridge, right)[0][..., 0]  # what has no solution has no finite cost


# ---- bodies -------------------------------------------------------------------------------------------------------------


def mean_pose_starts(
    body: CompactBody, prior: PosePrior, observations: Observations, yaws_deg: tuple[float, ...] = YAWS_DEG
) -> list[Start]:
    """The prior's mean pose, upright in the first view, once for each yaw."""
    return _upright_starts(body, prior.mean_pose()[None], observations, yaws_deg)


def component_starts(body: CompactBody, prior: PosePrior, observations: Observations) -> list[Start]:
    """The mean of each of the prior's components, upright, once for each yaw: ways to stand, walk, sit, raise the arms."""
    return _upright_starts(body, prior.means_np.astype(np.float32), observations, YAWS_DEG)


def _upright_starts(
    body: CompactBody,
    body_poses: Float[np.ndarray, "M 69"],
    observations: Observations,
    yaws_deg: tuple[float, ...],
) -> list[Start]:
    keypoints = observations.keypoints_px
    count, dtype, device = len(keypoints), keypoints.dtype, keypoints.device
    back = observations.views.rotation[:, 0].transpose(-1, -2)
    if torch.equal(back, back[:1].expand_as(back)):
        back = back[:1]  # as in every single view: all samples start from the same bodies, which are posed once
    betas = torch.zeros(len(back), 10, dtype=dtype, device=device)
    starts = []
    for yaw in yaws_deg:
        root = torch.as_tensor(np.asarray(upright(yaw)), dtype=dtype, device=device)
        roots = matrix_to_axis_angle(back @ axis_angle_to_matrix(root.expand(len(back), 3)))
        for body_pose in torch.as_tensor(body_poses, dtype=dtype, device=device):
            pose = torch.cat([roots, body_pose.expand(len(back), 69)], 1)
            points = body.keypoints(body(pose, betas)).expand(count, -1, -1)
            camera = camera_start(points, observations)
            starts.append(Start(pose.expand(count, 72), betas.expand(count, 10), camera, "multistart"))
    return starts


def lifter_start(body: CompactBody, lifter: Lifter, observations: Observations) -> Start:
    """The lifter's answer, in the fit's frame, held to as firmly as the lifter is sure.

    Each view is lifted alone; what is depth in one is seen in another, so the mean of the answers, weighted by the error that
    each expects of itself, is better than any of them.
    """
    turned, betas, sigmas, trust, noise = [], [], [], [], []
    for view in range(observations.keypoints_px.shape[1]):
        lift = lifter.lift(body, observations.keypoints_px[:, view])
        back = observations.views.rotation[:, view].transpose(-1, -2)
        local = axis_angle_to_matrix(lift.pose_aa.reshape(-1, 24, 3))
        turned.append(back[:, None] @ body.global_rotations(local))
        betas.append(lift.betas)
        sigmas.append(torch.cat([lift.pose_sigma_rad, lift.betas_sigma], 1))
        trust.append(1 / lift.error_mm**2)
        # From the side a guess looks worse than the keypoints are: their noise shows in the view that it was made from.
        seen = replace(observations.view(view), views=Views.crops(observations.keypoints_px))
        points = body.keypoints(body(lift.pose_aa, lift.betas))
        noise.append(noise_px(points, camera_start(points, seen), seen))
    share = torch.stack(trust) / torch.stack(trust).sum(0)
    mean = (share[..., None, None, None] * torch.stack(turned)).sum(0)
    rotations = body.local_rotations(rot6d_to_matrix(mean[..., :2].flatten(2)))
    pose = matrix_to_axis_angle(rotations).flatten(1)
    shape = (share[..., None] * torch.stack(betas)).sum(0)
    sigma = (share[..., None] * torch.stack(sigmas)).sum(0)  # one lifter errs alike in every view
    camera = camera_start(body.keypoints(body(pose, shape)), observations)
    noise_of_all = (share * torch.stack(noise)).sum(0)
    anchor = Anchor(pose, shape, sigma[:, :72], sigma[:, 72:], noise_of_all)
    return Start(pose, shape, camera, "lifter", anchor, lift if len(trust) == 1 else None)


def given_start(
    body: CompactBody,
    pose_aa: Float[Tensor, "B 72"],
    betas: Float[Tensor, "B 10"],
    observations: Observations,
    *,
    kind: str,
    camera_m: Float[Tensor, "B 3"] | None = None,
) -> Start:
    """A start at a body from elsewhere, in the fit's frame; its camera from the keypoints, unless it is given."""
    points = body.keypoints(body(pose_aa, betas))
    if camera_m is None:
        camera_m = camera_start(points, observations)
    sigma = torch.full_like(pose_aa, GIVEN_POSE_SIGMA_RAD), torch.full_like(betas, GIVEN_BETAS_SIGMA)
    anchor = Anchor(pose_aa, betas, *sigma, noise_px(points, camera_m, observations))
    return Start(pose_aa, betas, camera_m, kind, anchor)


def best_of(starts: list[Start], costs: Float[Tensor, "S B"], keep: int) -> list[Start]:
    """For each sample the `keep` cheapest of several starts of one kind, cheapest first."""
    rows = torch.arange(costs.shape[1], device=costs.device)
    order = torch.nan_to_num(costs, nan=torch.inf).argsort(dim=0, stable=True)[:keep]

    def pick(chosen: Tensor, parts: list[Tensor]) -> Tensor:
        return torch.stack(parts)[chosen, rows]

    out = []
    for chosen in order:
        anchor = None
        if starts[0].anchor is not None:
            anchors = [s.anchor for s in starts if s.anchor is not None]
            anchor = Anchor(*(pick(chosen, [getattr(a, f.name) for a in anchors]) for f in fields(Anchor)))
        pose, betas, camera = (pick(chosen, [getattr(s, name) for s in starts]) for name in _BODY)
        out.append(Start(pose, betas, camera, starts[0].kind, anchor))
    return out
