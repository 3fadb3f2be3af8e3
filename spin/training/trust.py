"""How far the network is believed when its prediction starts a fit: as far as it has earned, joint by joint.

A prediction and the lifter's answer are two guesses at one body. The best that can be made of them is the lifter's answer,
moved a share w of the way to the prediction. On samples whose truth is known but kept from the network that share is measured:
with t the way from the lifter's answer to the truth and d the way to the prediction, w = Σ t·d / Σ d·d. It needs no model of
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
WITHHELD_SHARE = 1 / 8


def withheld(sample_ids: Sequence[str], share: float = WITHHELD_SHARE) -> Bool[Tensor, " B"]:
    """Whose truth is kept from the network, to measure it by: a function of the sample's name alone."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8, person=b"withheld").digest() for name in sample_ids)
    return torch.tensor([int.from_bytes(d, "little") / 2**64 < share for d in digests], dtype=torch.bool)


@dataclass(frozen=True)
class Guesses:
    """Bodies of a batch, by pose and shape."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]

    def take(self, rows: Tensor) -> Guesses:
        return Guesses(self.pose_aa[rows], self.betas[rows])


def way(body: CompactBody, start: Guesses, end: Guesses) -> tuple[Float[Tensor, "B 24 3"], Float[Tensor, "B 10"]]:
    """From one body to another: each limb's turn in the body's frame (rad), which is what an image shows, and the betas'."""
    first, second = (_turned(body, guess.pose_aa) for guess in (start, end))
    return matrix_to_axis_angle(first.transpose(-1, -2) @ second), end.betas - start.betas


def moved(body: CompactBody, start: Guesses, turn: Float[Tensor, "B 24 3"], betas: Float[Tensor, "B 10"]) -> Guesses:
    """The body at the end of a way."""
    turned = _turned(body, start.pose_aa) @ axis_angle_to_matrix(turn)
    return Guesses(matrix_to_axis_angle(body.local_rotations(turned)).flatten(1), start.betas + betas)


def _turned(body: CompactBody, pose_aa: Tensor) -> Tensor:
    return body.global_rotations(axis_angle_to_matrix(pose_aa.reshape(-1, 24, 3)))


@dataclass(frozen=True)
class Trust:
    """Sums over samples whose truth is known, the recent ones weighing most; by part where there are PARTS of them.

    `along` Σ t·d and `apart` Σ d·d as above; `left` what remained of a body moved by the share of the time, squared, in each
    joint's own angles, and `claimed` what the lifter said of its own. `error_mm` and `expected_mm`: what fits from there turned
    out to be off (PA-MPJPE), and what the scorer had expected; `lifter_error_mm`, `lifter_expected_mm`: the same of fits
    that know no network.
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
        """How much of the way from the lifter's answer to the prediction each part goes: 0 to 1."""
        sure = self.count / (self.count + _DOUBT)
        return sure * (self.along / self.apart.clamp_min(1e-12)).clamp(0.0, 1.0)

    @property
    def sigma_factor(self) -> Float[Tensor, " P"]:
        """Uncertainty of the moved body's parts in units of what the lifter says of its own."""
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
