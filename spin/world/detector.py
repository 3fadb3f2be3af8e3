"""A stand-in for OpenPose: people found as a detector finds them, with noise, misses and confusions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.joints import JOINTS, OPENPOSE_NAMES

if TYPE_CHECKING:
    from jaxtyping import Float

    from spin.world.scene import Picture, WorldPerson

_MISSED_PERSON, _SPURIOUS_PERSON = 0.025, 0.025
_SWAPPED_LEGS, _SWAPPED_ARMS = 0.03, 0.02
_MISSED_SEEN, _MISSED_HIDDEN, _OUTLIER = 0.02, 0.35, 0.01
# Two pixels on a person 200 px tall.
_NOISE_OF_HEIGHT = 0.01
_LIMBS = {"leg": ("knee", "ankle", "big toe", "small toe", "heel"), "arm": ("elbow", "wrist")}


@dataclass(frozen=True)
class Detection:
    """A skeleton as OpenPose reports it: BODY_25 (x px, y px, confidence); a missed joint is (0, 0, 0)."""

    keypoints_px: Float[np.ndarray, "25 3"]


def _swap(keypoints: np.ndarray, limb: str) -> np.ndarray:
    """Left and right of one kind of limb mistaken for each other."""
    out = keypoints.copy()
    for part in _LIMBS[limb]:
        left, right = OPENPOSE_NAMES.index(f"left {part}"), OPENPOSE_NAMES.index(f"right {part}")
        out[[left, right]] = keypoints[[right, left]]
    return out


def _detect_person(rng: np.random.Generator, person: WorldPerson) -> np.ndarray:
    keypoints, visibility = person.keypoints_px[JOINTS.openpose], person.visibility[JOINTS.openpose]
    height = np.ptp(person.keypoints_px[:, 1])
    seen = visibility == 2
    sigma = _NOISE_OF_HEIGHT * height * np.where(seen, 1.0, 1.8)
    sigma = np.where(rng.random(25) < _OUTLIER, 8 * sigma, sigma)
    found = rng.random(25) >= np.where(seen, _MISSED_SEEN, _MISSED_HIDDEN)
    found &= visibility > 0
    confidence = np.where(seen, rng.uniform(0.65, 0.97, 25), rng.uniform(0.15, 0.65, 25))
    xy = keypoints + sigma[:, None] * rng.standard_normal((25, 2))
    out = np.concatenate([xy, confidence[:, None]], 1) * found[:, None]
    for limb, share in (("leg", _SWAPPED_LEGS), ("arm", _SWAPPED_ARMS)):
        if rng.random() < share:
            out = _swap(out, limb)
    return out


def _invent_person(rng: np.random.Generator, picture: Picture) -> np.ndarray:
    """Return a skeleton where no person is: another person's, smaller, elsewhere, with little confidence."""
    model = picture.people[0].keypoints_px[JOINTS.openpose]
    size = [picture.camera.width, picture.camera.height]
    xy = (model - model.mean(0)) * rng.uniform(0.2, 0.6) + rng.uniform(0.1, 0.9, 2) * size
    found = (rng.random(25) < 0.5) & ((xy >= 0) & (xy < size)).all(1)
    return np.concatenate([xy, rng.uniform(0.05, 0.4, (25, 1))], 1) * found[:, None]


def detect(picture: Picture, rng: np.random.Generator) -> tuple[Detection, ...]:
    """What a detector would report of a picture, in no particular order; people may be missed or invented."""
    found = [_detect_person(rng, p) for p in picture.people if rng.random() >= _MISSED_PERSON]
    if rng.random() < _SPURIOUS_PERSON:
        found.append(_invent_person(rng, picture))
    return tuple(Detection(found[i]) for i in rng.permutation(len(found)))
