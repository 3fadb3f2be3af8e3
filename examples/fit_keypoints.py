"""Fit bodies to keypoints, look at what came out, and save it.

    python examples/fit_keypoints.py

The keypoints are drawn from a few bodies of the pose prior, so that the truth is known. Use your own instead: COCO's 17,
OpenPose's 25 (`fit_openpose`), or any named joints (`fit_named`), in pixels of the image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from spin import Fitter
from spin.body import CompactBody, load_body
from spin.fitting.prior import load_pose_prior
from spin.joints import JOINTS


def some_keypoints(people: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return COCO keypoints (N, 17, 3) of random poses, seen from 4 m by a lens of 1,000 px, and the true joints (m)."""
    body = CompactBody(load_body())
    pose = np.zeros((people, 72), np.float32)
    pose[:, 3:] = load_pose_prior().sample(people, np.random.default_rng(seed))
    pose[:, 0] = np.pi  # upright in a camera whose y points down
    with torch.no_grad():
        points = body.keypoints(body(torch.from_numpy(pose), torch.zeros(people, 10))).numpy()
    joints = points[:, list(JOINTS.coco)] + np.array([0, 0, 4], np.float32)
    pixels = 1000 * joints[..., :2] / joints[..., 2:] + 500
    return np.concatenate([pixels, np.ones((people, 17, 1))], -1), joints


def main(out: Path = Path("fits.npz"), people: int = 8) -> None:
    keypoints, _ = some_keypoints(people)
    fits = Fitter.load().fit_coco(keypoints)

    print(f"{fits.valid.sum()} of {len(fits)} fits are valid")
    for status, score in zip(fits.status, fits.score):
        print(f"  {status}: expected error {score:.0f} mm")
    off = np.linalg.norm(fits.keypoints_px()[:, list(JOINTS.coco)] - keypoints[..., :2], axis=-1)
    print(f"the bodies meet the keypoints within {off.mean():.1f} px on average")
    print(f"meshes: {fits.vertices().shape[1]:,} vertices each, {len(fits.faces):,} triangles")
    print(f"saved to {fits.save(out)}: pose, betas, valid_fit")


if __name__ == "__main__":
    main()
