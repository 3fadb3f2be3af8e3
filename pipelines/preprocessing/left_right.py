"""Left and right swapped in labels, found by what labels can't hide: which way shoulders, hips and face point.

Eyes and ears, shoulders, and hips point the same way, of people who face the camera and of people seen from behind. A pair of
joints that points against the face in most people is swapped. If all are swapped, nothing contradicts; but most people who show
nose and eyes face the camera, and then have the left shoulder on the image's right. Of one person, hips and shoulders that
point opposite ways are doubtful: a torso hardly turns so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from store.annotations.table import Annotations

DOUBTFUL = "hips and shoulders point opposite ways: left and right may be swapped in one of them"
_LIMBS = ("shoulder", "hip", "elbow", "wrist", "knee", "ankle")
_FACE = ("nose", "left eye", "right eye")
_ACROSS = 0.2  # of the torso's length: joints of a pair that are nearer say nothing
_FEWEST = 4  # people who say something of a data set
_MOST = 0.8  # of those who show their face
_MAJORITY = 0.5


def contradictions(people: Annotations) -> Bool[np.ndarray, " n"]:
    """Return whose hips and shoulders point opposite ways."""
    ways = _ways(people)
    return ways["shoulder"] * ways["hip"] < 0


def swapped(people: Annotations) -> str:
    """Return a warning that names the joints whose left and right look swapped in most people; '' if none do."""
    ways = _ways(people)
    face = np.sign(ways["eye"] + ways["ear"])
    both, opposite = int((ways["shoulder"] * ways["hip"] != 0).sum()), int((ways["shoulder"] * ways["hip"] < 0).sum())
    pairs = [pair for pair in _LIMBS if _mostly(ways[pair] * face, _MAJORITY)]
    why = "they point against the face in most people"
    if not {"shoulder", "hip"} & set(pairs):
        seen = np.all([_place(people, name)[:, 2] > 0 for name in _FACE], 0)
        if opposite >= _FEWEST and opposite > _MAJORITY * both:  # no faces to go by: legs are held against shoulders
            pairs = [pair for pair in ("hip", "knee", "ankle") if (ways["shoulder"] * ways[pair]).sum() < 0]
        elif _mostly(ways["shoulder"] * seen, _MOST):
            pairs = [pair for pair in (*_LIMBS, "eye", "ear") if _mostly(ways[pair] * seen, _MAJORITY)]
            why = "most people who show their face have the left shoulder on the image's left"
        else:
            return ""
    if opposite > _MAJORITY * both:
        why = f"hips and shoulders point opposite ways in {opposite} of {both} people"
    swap = ",".join(f"left {pair}=right {pair},right {pair}=left {pair}" for pair in pairs)
    return f'left and right look swapped: {why}; if so, read it by `spin-pipe preprocess custom` with --joints "{swap}"'


def _mostly(ways: Float[np.ndarray, " n"], share: float) -> bool:
    """Return whether more than this share of those that say anything are the wrong way round."""
    wrong = int((ways < 0).sum())
    return wrong >= _FEWEST and wrong > share * int((ways != 0).sum())


def _ways(people: Annotations) -> dict[str, Float[np.ndarray, " n"]]:
    """Return of each pair of joints 1 where the left one is on the image's right, as facing the camera; -1, or 0."""
    parts = ("shoulder", "hip")
    middles = [(_place(people, f"left {part}") + _place(people, f"right {part}"))[:, :2] / 2 for part in parts]
    torso = np.linalg.norm(middles[0] - middles[1], axis=1)
    out = {}
    for pair in (*_LIMBS, "eye", "ear"):
        left, right = _place(people, f"left {pair}"), _place(people, f"right {pair}")
        across = np.where((left[:, 2] > 0) & (right[:, 2] > 0), left[:, 0] - right[:, 0], 0.0)
        least = _ACROSS * torso * (0.2 if pair in ("eye", "ear") else 1.0)
        out[pair] = np.where((np.abs(across) > least) & (torso > 0), np.sign(across), 0.0)
    return out


def _place(people: Annotations, name: str) -> Float[np.ndarray, "n 3"]:
    """Return a joint as it is annotated, else as OpenPose detects it."""
    annotated = people.keypoints_px[:, JOINTS.index[name]]
    detected = people.keypoints_px[:, JOINTS.index[f"OpenPose {name}"]]
    return np.where(annotated[:, 2:] > 0, annotated, detected)
