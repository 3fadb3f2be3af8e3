"""How near static fits are to the truth, on poses that the prior was not fitted on. Prints one JSON line.

    python -m tools.bench.fit_accuracy [--clips DIR_OR_TAR] [--people 512]

Protocol: poses of CMU clips that the pose prior never saw (soccer, subject 02), betas N(0, 1), any yaw, 8° of tilt, the
person spanning 80 % of the crop; four mean-pose starts; PA-MPJPE on LSP's 14 of Human3.6M's joints, the per-vertex
error after the same alignment, and the mean distance to the keypoints that were fitted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spin.body import BodyMesh, CompactBody, load_body
from spin.camera import CROP_PX, FOCAL_PX, project
from spin.evaluation.metrics import error_2d_px, pa_mpjpe_mm, per_vertex_error_mm, procrustes_align
from spin.fitting.fitter import FitConfig, Fitter
from spin.fitting.prior import load_pose_prior
from spin.joints import H36M_TO_J14, JOINTS
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from tools.cmu_motion import HELD_OUT, load_poses

DEFAULT_CLIPS = Path(__file__).parents[3] / "shared" / "data" / "cmu_mocap.tar.xz"
TILT_DEG, SPAN = 8.0, 0.8
SETTINGS = {"coco17_2px": (JOINTS.coco, 2.0), "all_0px": (tuple(range(JOINTS.count)), 0.0)}


@dataclass(frozen=True)
class People:
    """True bodies and their exact projections."""

    pose_aa: torch.Tensor
    betas: torch.Tensor
    pixels: torch.Tensor  # (N, 49, 2)


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
    points = body.keypoints(body(pose, betas))
    low, high = points.amin(1), points.amax(1)
    centre = (low + high) / 2
    depth = FOCAL_PX * (high - low)[:, :2].amax(1) / (SPAN * CROP_PX)
    camera = torch.stack([-centre[:, 0], -centre[:, 1], depth], 1)
    return People(pose, betas, project(points, camera))


def measure(
    fitter: Fitter, mesh: BodyMesh, people: People, joints: tuple[int, ...], noise_px: float
) -> dict[str, float]:
    """Errors of the fits to some of the joints, with noise."""
    count = len(people.pixels)
    keypoints = torch.zeros(count, JOINTS.count, 3)
    noise = torch.randn(count, len(joints), 2, generator=torch.Generator().manual_seed(1))
    keypoints[:, joints, :2] = people.pixels[:, joints] + noise_px * noise
    keypoints[:, joints, 2] = 1
    begin = time.perf_counter()
    fits = fitter.fit(keypoints)
    seconds = time.perf_counter() - begin
    found, true = mesh(fits.pose_aa, fits.betas), mesh(people.pose_aa, people.betas)
    lsp = list(H36M_TO_J14)
    pixels = project(found.keypoints_m, fits.camera_m)
    aligned = procrustes_align(found.vertices_m.numpy(), true.vertices_m.numpy())
    return {
        "pa_mpjpe_mm": float(
            pa_mpjpe_mm(found.joints17_m[:, lsp].numpy(), true.joints17_m[:, lsp].numpy()).mean()
        ),
        "pve_mm": float(per_vertex_error_mm(aligned, true.vertices_m.numpy()).mean()),
        "error_2d_px": float(
            np.mean(error_2d_px(pixels.numpy(), keypoints[..., :2].numpy(), keypoints[..., 2].numpy()))
        ),
        "share_valid": float(fits.valid.float().mean()),
        "fits_per_s": count / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, default=DEFAULT_CLIPS)
    parser.add_argument("--people", type=int, default=512)
    arguments = parser.parse_args()
    if not arguments.clips.exists():
        sys.exit(
            f"no clips at {arguments.clips}: give --clips DIR with CMU's motion capture (mocap.cs.cmu.edu) in the "
            "folders bvh/, asfamc/ and expmap/"
        )
    body = load_body()
    compact, mesh = CompactBody(body), BodyMesh(body)
    fitter = Fitter(compact, load_pose_prior(), FitConfig())
    with torch.no_grad():
        people = held_out_people(arguments.clips, compact, arguments.people)
        result = {name: measure(fitter, mesh, people, *setting) for name, setting in SETTINGS.items()}
    print(json.dumps({"people": arguments.people, "body": body.fingerprint, **result}))


if __name__ == "__main__":
    main()
