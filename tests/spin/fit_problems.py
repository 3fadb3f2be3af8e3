"""People whose true body is known, for the tests of fitting."""

from __future__ import annotations

import numpy as np
import torch

from spin.body import CompactBody
from spin.camera import project
from spin.fitting.objective import OBJECTIVES
from spin.fitting.observations import Observations
from spin.fitting.prior import PosePrior
from spin.fitting.starts import Start
from spin.joints import JOINTS
from spin.rotations import rotate_in_plane, upright

PUBLISHED, ANCHORED = OBJECTIVES["published"], OBJECTIVES["anchored"]
EVERY_JOINT = tuple(range(JOINTS.count))


class Problem:
    """People of the prior, seen upright from anywhere: the truth, and its exact projection."""

    def __init__(self, body: CompactBody, prior: PosePrior, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        roots = np.stack([upright(yaw) for yaw in rng.uniform(0, 360, count)])
        pose = np.concatenate([roots, prior.sample(count, rng)], 1)
        self.pose = rotate_in_plane(
            torch.tensor(pose, dtype=torch.float32),
            torch.tensor(rng.normal(0, 8, count), dtype=torch.float32),
        )
        self.betas = torch.tensor(rng.normal(size=(count, 10)), dtype=torch.float32).clamp(-2.5, 2.5)
        points = body.keypoints(body(self.pose, self.betas))
        centre = (points.amax(1) + points.amin(1)) / 2
        size = (points[..., :2].amax(1) - points[..., :2].amin(1)).amax(1)
        self.camera = torch.stack([-centre[:, 0], -centre[:, 1], 5000 * size / (0.8 * 224)], 1)
        self.points_m = points
        self.keypoints = torch.cat([project(points, self.camera), torch.ones(count, 49, 1)], -1)

    def noisy(self, joints: tuple[int, ...], noise_px: float, seed: int = 1) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        out = torch.zeros_like(self.keypoints)
        out[:, joints] = self.keypoints[:, joints]
        out[:, joints, :2] += noise_px * torch.randn(len(out), len(joints), 2, generator=generator)
        return out

    def near_truth(self, seed: int = 2) -> Start:
        generator = torch.Generator().manual_seed(seed)
        noise = 0.15 * torch.randn(self.pose.shape, generator=generator)
        return Start(self.pose + noise, torch.zeros_like(self.betas), self.camera)

    @property
    def observations(self) -> Observations:
        return Observations.of(self.keypoints)
