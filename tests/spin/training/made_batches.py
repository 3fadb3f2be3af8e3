"""Made-up bodies, fits and batches that the tests of training share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from spin.body import CompactBody
from spin.camera import project, weak_to_translation
from spin.network.hmr import HMR, MeanParameters
from spin.training.augment import (
    Augmentations,
)
from spin.training.config import StepConfig
from spin.training.step import Batch
from spin.training.targets import GroundTruth, StoredFits

CONFIG = StepConfig()
BATCH = 4


def random_body(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Poses (upright, facing anywhere), betas, and cameras that fill most of the crop."""
    g = torch.Generator().manual_seed(seed)
    pose = 0.3 * torch.randn(count, 72, generator=g, dtype=dtype)
    pose[:, 0] += torch.pi
    betas = torch.randn(count, 10, generator=g, dtype=dtype)
    weak = torch.tensor([0.9, 0.0, 0.0], dtype=dtype) + 0.1 * torch.randn(count, 3, generator=g, dtype=dtype)
    return pose, betas, weak_to_translation(weak)


def augmentations(flip: bool, rotation: float, scale: float, count: int = 4) -> Augmentations:
    none = Augmentations.none(count)
    return replace(
        none,
        flip=torch.full((count,), flip),
        rotation_deg=torch.full((count,), rotation),
        scale=torch.full((count,), scale),
    )


def fits(value: float, score: list[float]) -> StoredFits:
    """Fits whose pose and betas hold `value`, whose loss is their score."""
    n = len(score)
    return StoredFits(
        pose_aa=torch.full((n, 72), value),
        betas=torch.full((n, 10), value),
        camera_m=torch.zeros(n, 3),
        loss=torch.tensor(score),
        score=torch.tensor(score),
        valid=torch.ones(n, dtype=torch.bool),
    )


def no_truth(count: int) -> GroundTruth:
    nan = torch.full((count, 72), torch.nan)
    return GroundTruth(nan, nan[:, :10], torch.zeros(count, dtype=torch.bool))


@dataclass
class Recorder:
    """A fitter that answers with given fits and remembers what it was asked."""

    answer: StoredFits
    asked: tuple[torch.Tensor, ...] | None = None

    def __call__(self, *arguments: torch.Tensor) -> StoredFits:
        self.asked = arguments
        return self.answer


def make_batch(body: CompactBody, a: Augmentations) -> Batch:
    pose, betas, camera = random_body(BATCH, seed=5)
    pixels = project(body.keypoints(body(pose, betas)), camera)
    torch.manual_seed(0)
    return Batch(
        sample_ids=tuple(f"coco:{i}" for i in range(BATCH)),
        images=torch.randn(BATCH, 3, 32, 32),
        keypoints_crop_px=torch.cat([pixels, torch.ones(BATCH, 49, 1)], -1),
        augmentations=a,
        truth=no_truth(BATCH),
        joints_m=torch.zeros(BATCH, 24, 4),
        joints_known=torch.zeros(BATCH, dtype=torch.bool),
    )


def make_network() -> tuple[HMR, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = HMR("resnet18", mean=MeanParameters.from_body_pose(torch.zeros(69)))
    return network, torch.optim.Adam(network.parameters(), lr=1e-4)


def true_fits(score: float) -> StoredFits:
    pose, betas, camera = random_body(BATCH, seed=5)
    return replace(fits(0.0, [score] * BATCH), pose_aa=pose, betas=betas.clamp(-3, 3), camera_m=camera)
