"""Which of the 49 keypoints a joint is, by the name that a user gave it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pipelines.errors import UsageError
from spin.joints import JOINTS, OPENPOSE_NAMES, SUPERSET_NAMES

_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
# Other words for joints that both sides have, and for those in the middle.
_PAIRED = {"little toe": "small toe", "bigtoe": "big toe", "smalltoe": "small toe", "littletoe": "small toe"}
_MIDDLE = {
    "head top": "top of head", "top head": "top of head", "headtop": "top of head", "upper neck": "neck",
    "hip": "pelvis", "hips": "pelvis", "root": "pelvis", "hip center": "pelvis", "center hip": "pelvis",
    "midhip": "mid hip", "chest": "thorax", "torso": "spine", "belly": "spine", "chin": "jaw",
}  # fmt: skip
UNUSED = -1


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


def parse_renames(text: str | None) -> dict[str, str]:
    """Return `--joints "knee1=left knee,tail="` as a dictionary; raise UsageError if it is anything else."""
    out: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in (text or "").split(","))):
        theirs, separator, ours = (part.strip() for part in item.partition("="))
        if not separator or not theirs:
            raise UsageError(
                f"--joints {item!r}: expected YOURS=JOINT, or YOURS= to leave it out, separated by commas; for "
                'example "knee1=left knee,tail="'
            )
        if ours and joint_index(ours) is None:
            raise UsageError(f"--joints {item!r}: no joint is called {ours!r}; there are: {known_names()}")
        out[theirs] = ours
    return out


def resolve(names: Iterable[str], renames: Mapping[str, str], where: str) -> tuple[int, ...]:
    """Return the index of each name among the 49, UNUSED for what `renames` drops.

    Raise UsageError, with `where` and what to do, if a name is unknown, or two mean the same joint.
    """
    out: list[int] = []
    unknown: list[str] = []
    owner: dict[int, str] = {}
    for name in names:
        ours = renames.get(name, name)
        place = joint_index(ours) if ours else UNUSED
        if place is None:
            unknown.append(name)
            continue
        if place != UNUSED and place in owner:
            raise UsageError(
                f"{where}: {owner[place]!r} and {name!r} are both {JOINTS.names[place]}; leave one out: "
                f'--joints "{name}="'
            )
        owner[place] = name
        out.append(place)
    if unknown:
        listed = ", ".join(map(repr, unknown[:8])) + (f" and {len(unknown) - 8} more" if unknown[8:] else "")
        raise UsageError(
            f"{where}: no joint is called {listed}; say which it is, or leave it out: "
            f'--joints "{unknown[0]}=left knee" or "{unknown[0]}="; there are: {known_names()}'
        )
    return tuple(out)


def known_names() -> str:
    return ", ".join(dict.fromkeys((*SUPERSET_NAMES, *OPENPOSE_NAMES)))
