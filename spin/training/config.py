"""What one train step needs to know. The defaults are the published training's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from spin.errors import TrainingError


def _require(owner: object, name: str, low: float, high: float, expected: str) -> None:
    value = getattr(owner, name)
    if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
        raise TrainingError(f"{type(owner).__name__}.{name} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; `total` multiplies their sum. Term by term as in `losses.total_loss`."""

    keypoints: float = 5.0  # 2D keypoints, and 3D joints where they are known
    pose: float = 1.0
    betas: float = 0.001
    shape: float = 0.0  # per-vertex; above 0 it needs the full mesh
    total: float = 60.0
    openpose: float = 0.0  # confidence of the 25 detected keypoints is multiplied by this,
    ground_truth: float = 1.0  # that of the 24 annotated ones by this

    def __post_init__(self) -> None:
        for item in fields(self):
            _require(self, item.name, 0.0, math.inf, "a finite number of at least 0")


@dataclass(frozen=True)
class AugmentationConfig:
    """Spread of the augmentations; 0 turns one off."""

    rotation_deg: float = 30.0  # standard deviation, cut at twice that
    scale: float = 0.25  # standard deviation, and the cut
    noise: float = 0.4  # channel gains lie within 1 ± noise
    flip: float = 0.5  # probability

    def __post_init__(self) -> None:
        _require(self, "rotation_deg", 0.0, 90.0, "degrees from 0 to 90")
        _require(self, "scale", 0.0, 0.9, "a share from 0 to 0.9")
        _require(self, "noise", 0.0, 1.0, "a share from 0 to 1")
        _require(self, "flip", 0.0, 1.0, "a probability")


@dataclass(frozen=True)
class StepConfig:
    """A train step: how its losses are weighed, which fits may supervise, and how far one batch may move the network."""

    weights: LossWeights = field(default_factory=LossWeights)
    accept_loss_px2: float = 100.0  # a fit supervises if its loss is below
    accept_beta: float = 3.0  # and none of its betas is beyond
    clip_norm: float = 0.0  # a longer gradient is shortened to this; 0: none is (published)

    def __post_init__(self) -> None:
        _require(self, "accept_loss_px2", 0.0, math.inf, "a finite number of px² of at least 0")
        _require(self, "accept_beta", 0.0, math.inf, "a finite number of at least 0")
        _require(self, "clip_norm", 0.0, math.inf, "a finite number of at least 0")
