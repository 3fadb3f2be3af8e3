"""Which of the 49 keypoints a joint is, by the name that another tool or a person gave it."""

from __future__ import annotations

import re

from spin.joints import JOINTS, OPENPOSE_NAMES, SUPERSET_NAMES

_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
# Other words for joints that both sides have, and for those in the middle.
_PAIRED = {"little toe": "small toe", "bigtoe": "big toe", "smalltoe": "small toe", "littletoe": "small toe"}
_MIDDLE = {
    "head top": "top of head", "top head": "top of head", "headtop": "top of head", "upper neck": "neck",
    "hip": "pelvis", "hips": "pelvis", "root": "pelvis", "hip center": "pelvis", "center hip": "pelvis",
    "midhip": "mid hip", "chest": "thorax", "torso": "spine", "belly": "spine", "chin": "jaw",
}  # fmt: skip


def joint_index(name: str) -> int | None:
    """Return the index among the 49 of `left_knee`, `LKnee`, `knee_l`, `Left Knee` …; None for an unknown name.

    A joint that both halves have is the annotated one; "OpenPose left knee" names the other, and feet have no other.
    """
    words = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3 \2", name)
    text = " ".join(re.sub(r"[^a-z0-9]+", " ", words.lower()).split())
    detected = re.fullmatch(r"open ?pose (.+)", text)
    plain = _plain(detected[1] if detected else text)
    if plain in OPENPOSE_NAMES and (detected or plain not in SUPERSET_NAMES):
        return JOINTS.index[f"OpenPose {plain}"]
    return JOINTS.index[plain] if plain in SUPERSET_NAMES and not detected else None


def _plain(text: str) -> str:
    """Return the name as `spin.joints` spells it, if there is one."""
    words = text.split(" ")
    for side, rest in ((words[0], words[1:]), (words[-1], words[:-1])):
        if side in _SIDES and rest:
            part = " ".join(rest)
            return f"{_SIDES[side]} {_PAIRED.get(part, part)}"
    return _MIDDLE.get(text, text)


def known_names() -> str:
    """Return every name that a joint has here, separated by commas."""
    return ", ".join(dict.fromkeys((*SUPERSET_NAMES, *OPENPOSE_NAMES)))
