"""How far the network is believed when its prediction starts a fit: as far as it has earned, joint by joint.

A prediction and the lifter's answer are two estimates of one body. The best estimate from both is an interpolation: from the
lifter's answer, by a share w, towards the prediction. That share is measured on samples whose truth is known but held out: with
t the relative pose of the truth to the lifter's answer and d that of the prediction, w = Σ t·d / Σ d·d. It needs no model of
either error, and is right when they are alike: a network that only repeats the lifter gains nothing, a bad one gets w near 0,
one that sees what keypoints can't show gets w near 1. What error is left is measured on the same samples: it makes the
anchor's uncertainty, and corrects the score. Without such samples w stays 0: fits are then the lifter's, as before training.

The sums forget: the network of a thousand steps ago is another one. Few samples count for little (`_DOUBT`). docs/loop.md has
the figures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from spin.body.compact import CompactBody

PARTS = 25  # the 24 joints, and the shape
MEMORY = 256.0  # samples that the sums remember: each new one takes 1 / MEMORY from the weight of the earlier
_DOUBT = 16.0  # samples that say, before any others, that the lifter alone is right
HELD_OUT_SHARE = 1 / 8


def held_out(sample_ids: Sequence[str], share: float = HELD_OUT_SHARE) -> Bool[Tensor, " B"]:
    """Return which samples' truth is held out from training, to measure the network by. It depends on their names alone."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8, person=b"withheld").digest() for name in sample_ids)
    return torch.tensor([int.from_bytes(d, "little") / 2**64 < share for d in digests], dtype=torch.bool)


@dataclass(frozen=True)
class BodyParameters:
    """Bodies of a batch, by pose and shape."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]

    def take(self, rows: Tensor) -> BodyParameters:
        return BodyParameters(self.pose_aa[rows], self.betas[rows])


def relative_pose(
    body: CompactBody, start: BodyParameters, end: BodyParameters
) -> tuple[Float[Tensor, "B 24 3"], Float[Tensor, "B 10"]]:
    """Return how one body differs from another: each limb's rotation in the body's frame (rad), and the difference of betas."""
    first, second = (_turned(body, one.pose_aa) for one in (start, end))
    return matrix_to_axis_angle(first.transpose(-1, -2) @ second), end.betas - start.betas


def interpolate(body: CompactBody, start: BodyParameters, end: BodyParameters, share: Float[Tensor, " P"]) -> BodyParameters:
    """Return the bodies between two: each of the PARTS goes its share of the relative pose, 0 to 1."""
    turn, betas = relative_pose(body, start, end)
    turned = _turned(body, start.pose_aa) @ axis_angle_to_matrix(share[:-1, None] * turn)
    return BodyParameters(matrix_to_axis_angle(body.local_rotations(turned)).flatten(1), start.betas + share[-1] * betas)


def _turned(body: CompactBody, pose_aa: Tensor) -> Tensor:
    return body.global_rotations(axis_angle_to_matrix(pose_aa.reshape(-1, 24, 3)))


@dataclass(frozen=True)
class Trust:
    """Sums over samples whose truth is known, the recent ones weighing most; by part where there are PARTS of them.

    `along` Σ t·d and `apart` Σ d·d as above; `left` the error that remained after interpolating by the share of the time,
    squared, in each joint's own angles, and `claimed` what the lifter claims of its own. `error_mm` and `expected_mm`: the
    error of fits from there (PA-MPJPE), true and as the scorer expects it; `lifter_error_mm`, `lifter_expected_mm`: the same
    of fits that know no network.
    """

    count: Float[Tensor, ""]
    along: Float[Tensor, " P"]
    apart: Float[Tensor, " P"]
    left: Float[Tensor, " P"]
    claimed: Float[Tensor, " P"]
    error_mm: Float[Tensor, ""]
    expected_mm: Float[Tensor, ""]
    lifter_error_mm: Float[Tensor, ""]
    lifter_expected_mm: Float[Tensor, ""]

    @classmethod
    def none(cls) -> Trust:
        """Before anything is measured: the lifter alone is believed, as it scores itself."""
        one, parts = torch.zeros((), dtype=torch.float64), torch.zeros(PARTS, dtype=torch.float64)
        return cls(one, parts, parts, parts, parts, one, one, one, one)

    @property
    def share(self) -> Float[Tensor, " P"]:
        """How far each part goes from the lifter's answer to the prediction: 0 to 1."""
        sure = self.count / (self.count + _DOUBT)
        return sure * (self.along / self.apart.clamp_min(1e-12)).clamp(0.0, 1.0)

    @property
    def sigma_factor(self) -> Float[Tensor, " P"]:
        """Uncertainty of the interpolated body's parts in units of what the lifter says of its own."""
        return self._factor(self.left, self.claimed).sqrt()

    @property
    def score_factor(self) -> Float[Tensor, ""]:
        """Makes the scorer's expectation of a fit compare with that of fits without a network, when multiplied by it."""
        return self._factor(self.error_mm * self.lifter_expected_mm, self.expected_mm * self.lifter_error_mm)

    def _factor(self, left: Tensor, claimed: Tensor) -> Tensor:
        sure = self.count / (self.count + _DOUBT)
        return 1 + sure * (left / claimed.clamp_min(1e-12) - 1)

    def after(self, more: Trust) -> Trust:
        """With what another step has measured (`more.count` samples of it)."""
        keep = (1 - more.count / MEMORY).clamp_min(0.0)
        return Trust(*(keep * getattr(self, f.name) + getattr(more, f.name) for f in fields(Trust)))

    def to_vector(self) -> Float[Tensor, " N"]:
        """All sums as one vector: to be added over ranks, or kept in a checkpoint."""
        return torch.cat([getattr(self, f.name).reshape(-1) for f in fields(Trust)])

    @classmethod
    def of_vector(cls, vector: Float[Tensor, " N"]) -> Trust:
        like = cls.none()
        sizes = [getattr(like, f.name).numel() for f in fields(Trust)]
        parts = vector.to(torch.float64).split(sizes)
        return cls(*(part.reshape(getattr(like, f.name).shape) for part, f in zip(parts, fields(Trust))))
