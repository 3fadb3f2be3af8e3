"""People in poses that neither the prior nor the lifter has seen, and what a detector would say of them.

Poses of CMU clips that were left out of all training (soccer, and all of subject 02), betas N(0, 1), any yaw, 8° of tilt, the
person spanning 80 % of the crop. Data from mocap.cs.cmu.edu, funded by NSF EIA-0196217.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.body import BodyMesh, CompactBody, load_body
from spin.camera import CROP_PX, FOCAL_PX, project
from spin.evaluation.metrics import error_2d_px, pa_mpjpe_mm, per_vertex_error_mm, procrustes_align
from spin.fitting.lifter import OPEN_LIFTER, Lifter, load_lifter
from spin.fitting.observations import Observations
from spin.fitting.prior import PosePrior, load_pose_prior
from spin.fitting.sampling import People, orbit
from spin.joints import H36M_TO_J14, JOINTS
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from tools.cmu_motion import HELD_OUT, load_poses

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from jaxtyping import Float
    from torch import Tensor

DEFAULT_CLIPS = Path(__file__).parents[3] / "shared" / "data" / "cmu_mocap.tar.xz"
TILT_DEG, SPAN = 8.0, 0.8
SETS: dict[str, tuple[int, ...]] = {
    "all": tuple(range(JOINTS.count)),
    "coco17": JOINTS.coco,
    "lsp14": JOINTS.lsp,
    "openpose25": tuple(range(25)),
}
NOISES_PX = (0.0, 2.0, 4.0, 6.0)
# What a detector does to OpenPose's joints besides noise: some are missing, and now and then it takes left for right.
DROPOUT, SIDES_SWAPPED = 0.15, 0.03


@dataclass(frozen=True)
class Lab:
    """All that a measurement needs."""

    body: CompactBody
    mesh: BodyMesh
    prior: PosePrior
    lifter: Lifter
    people: People


def add_clips(parser: ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, default=DEFAULT_CLIPS, help="CMU's clips: a folder or tar archive")
    parser.add_argument("--people", type=int, default=512)


def open_lab(clips: Path, count: int, lifter: Path = OPEN_LIFTER) -> Lab:
    """Ends the program, saying where clips are to be had, if they are not there."""
    if not clips.exists():
        sys.exit(
            f"no clips at {clips}: give --clips DIR with CMU's motion capture (mocap.cs.cmu.edu) in the folders bvh/, "
            "asfamc/ and expmap/"
        )
    data = load_body()
    body = CompactBody(data)
    people = held_out_people(clips, body, count)
    return Lab(body, BodyMesh(data), load_pose_prior(), load_lifter(lifter, data.fingerprint), people)


def held_out_people(clips: Path, body: CompactBody, count: int, seed: int = 0) -> People:
    """Bodies in held-out poses, seen from anywhere."""
    motion = load_poses(clips, body.rest_joints.numpy())
    poses = motion.pose_aa[np.isin(motion.activity, HELD_OUT)]
    rng = np.random.default_rng(seed)
    body_pose = torch.from_numpy(poses[rng.choice(len(poses), count)][:, 3:])
    yaw, tilt = torch.zeros(count, 3, dtype=torch.float64), torch.zeros(count, 3, dtype=torch.float64)
    yaw[:, 1] = torch.from_numpy(rng.uniform(0, 2 * np.pi, count))
    tilt[:, 0] = torch.from_numpy(np.pi + np.deg2rad(TILT_DEG) * rng.standard_normal(count))
    root = matrix_to_axis_angle(axis_angle_to_matrix(tilt) @ axis_angle_to_matrix(yaw)).float()
    pose = torch.cat([root, body_pose], 1)
    betas = torch.from_numpy(rng.standard_normal((count, 10))).float()
    turned = body.global_rotations(axis_angle_to_matrix(pose.view(-1, 24, 3)))
    points = body.from_global_rotations(turned, betas)
    keypoints = body.keypoints(points)
    low, high = keypoints.amin(1), keypoints.amax(1)
    centre = (low + high) / 2
    depth = FOCAL_PX * (high - low)[:, :2].amax(1) / (SPAN * CROP_PX)
    camera = torch.stack([-centre[:, 0], -centre[:, 1], depth], 1)
    return People(pose, betas, turned, camera, points, project(keypoints, camera))


def keypoints_of(people: People, name: str, noise_px: float, seed: int = 1) -> Float[Tensor, "B 49 3"]:
    """One of the sets, with noise; OpenPose's with dropouts and swapped sides."""
    generator = torch.Generator().manual_seed(seed)
    joints = list(SETS[name])
    pixels = people.pixels
    count = len(pixels)
    seen = torch.ones(count, len(joints))
    if name == "openpose25":
        limbs = [j for j in joints if JOINTS.names[j].split(" ")[-1] in ("elbow", "wrist", "knee", "ankle")]
        swapped = torch.rand(count, 1, 1, generator=generator) < SIDES_SWAPPED
        pixels = pixels.clone()
        pixels[:, limbs] = torch.where(swapped, people.pixels[:, [JOINTS.mirror[j] for j in limbs]], pixels[:, limbs])
        seen = (torch.rand(count, len(joints), generator=generator) >= DROPOUT).float()
    noise = noise_px * torch.randn(count, len(joints), 2, generator=generator)
    out = torch.zeros(count, JOINTS.count, 3)
    out[:, joints, :2] = (pixels[:, joints] + noise) * seen[..., None]
    out[:, joints, 2] = seen
    return out


def four_views(lab: Lab, noise_px: float) -> Observations:
    """COCO's keypoints in four calibrated cameras round the person."""
    views = orbit(lab.people, 4)
    pixels = views.project(lab.body.keypoints(lab.people.points_m) + lab.people.camera_m[:, None])
    joints = list(JOINTS.coco)
    noise = torch.randn(*pixels.shape[:2], len(joints), 2, generator=torch.Generator().manual_seed(1))
    keypoints = torch.zeros(*pixels.shape[:3], 3)
    keypoints[:, :, joints, :2] = pixels[:, :, joints] + noise_px * noise
    keypoints[:, :, joints, 2] = 1
    return Observations(keypoints, views)


def with_joints3d(lab: Lab, noise_px: float, noise_m: float) -> Observations:
    """COCO's keypoints, and the superset's 24 joints in 3D."""
    joints = lab.body.keypoints(lab.people.points_m)[:, JOINTS.superset]
    joints = joints + noise_m * torch.randn(joints.shape, generator=torch.Generator().manual_seed(2))
    known = torch.cat([joints, torch.ones(*joints.shape[:2], 1)], -1)
    return Observations.of(keypoints_of(lab.people, "coco17", noise_px), known)


@dataclass(frozen=True)
class Errors:
    """Of each person: PA-MPJPE on LSP's 14 of Human3.6M's joints, per-vertex error after the same alignment, and the mean
    distance to the keypoints that were fitted."""

    pa_mpjpe_mm: Float[np.ndarray, " B"]
    pve_mm: Float[np.ndarray, " B"]
    error_2d_px: Float[np.ndarray, " B"]

    def means(self) -> dict[str, float]:
        return {f.name: round(float(np.mean(getattr(self, f.name))), 2) for f in fields(self)}


def errors_of(lab: Lab, pose_aa: Tensor, betas: Tensor, camera_m: Tensor, observations: Observations) -> Errors:
    lsp = list(H36M_TO_J14)
    with torch.no_grad():
        found, true = lab.mesh(pose_aa, betas), lab.mesh(lab.people.pose_aa, lab.people.betas)
        pixels = observations.views.project(found.keypoints_m + camera_m[:, None]).flatten(1, 2)
    seen = observations.keypoints_px.flatten(1, 2).numpy()
    vertices, true_vertices = found.vertices_m.numpy(), true.vertices_m.numpy()
    return Errors(
        pa_mpjpe_mm(found.joints17_m[:, lsp].numpy(), true.joints17_m[:, lsp].numpy()),
        per_vertex_error_mm(procrustes_align(vertices, true_vertices), true_vertices),
        error_2d_px(pixels.numpy(), seen[..., :2], seen[..., 2]),
    )
