"""Readers of the three formats in which clips of the CMU motion capture database are passed around.

BVH (the Daz-friendly conversion), ASF + AMC (the original), and the exponential-map text of the
motion-prediction literature. Each reader gives the same thing: for every source bone its global rotation per
frame and its direction in the source's rest pose. Positions are not read; the prior is about poses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from jaxtyping import Float


class ClipError(ValueError):
    """A clip is not what its format says; one line: the file, what was expected, what was found."""


@dataclass(frozen=True)
class SourceClip:
    """One clip as its format has it, before retargeting.

    rotations: by bone, global rotations (N, 3, 3) from the bone's orientation at rest to the frame's.
    directions: by bone, its direction (3,) in the rest pose, of any length; y is up, z forward, x left.
    """

    rotations: Mapping[str, Float[np.ndarray, "N 3 3"]]
    directions: Mapping[str, Float[np.ndarray, " 3"]]


def _floats(words: list[str], clip: Path, what: str) -> list[float]:
    try:
        return [float(w) for w in words]
    except ValueError:
        raise ClipError(f"{clip.name}: {what} should be numbers, found {' '.join(words)[:60]!r}") from None


# ---- BVH


@dataclass
class _BvhJoint:
    name: str
    parent: int
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    channels: tuple[str, ...] = ()


def _parse_bvh_hierarchy(text: str, clip: Path) -> list[_BvhJoint]:
    """Joints in file order, end sites included as joints without channels."""
    joints: list[_BvhJoint] = []
    stack = [-1]
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] == "HIERARCHY":
            continue
        if not stack:
            raise ClipError(f"{clip.name}: braces should balance, found one too many closed")
        if words[0] in ("ROOT", "JOINT", "End"):
            joints.append(_BvhJoint(words[1] if words[0] != "End" else "", stack[-1]))
        elif words[0] == "{":
            stack.append(len(joints) - 1)
        elif words[0] == "}":
            stack.pop()
        elif stack[-1] < 0:
            raise ClipError(f"{clip.name}: braces should enclose {words[0]} in a joint, found it outside of any")
        elif words[0] == "OFFSET":
            joints[stack[-1]].offset = np.array(_floats(words[1:4], clip, "an OFFSET"))
        elif words[0] == "CHANNELS":
            joints[stack[-1]].channels = tuple(words[2:])
    if not joints:
        raise ClipError(f"{clip.name}: a BVH file starts with a HIERARCHY of joints, found none")
    return joints


def read_bvh(clip: Path) -> SourceClip:
    """A BVH file; a joint's direction is that of its longest child. Raises ClipError."""
    hierarchy, found, motion = clip.read_text(errors="replace").partition("MOTION")
    if not found:
        raise ClipError(f"{clip.name}: a BVH file has a MOTION section, found none")
    joints = _parse_bvh_hierarchy(hierarchy, clip)
    rows = [_floats(line.split(), clip, "a frame") for line in motion.strip().splitlines()[2:] if line.strip()]
    n_channels = sum(len(j.channels) for j in joints)
    if not rows or any(len(r) != n_channels for r in rows):
        raise ClipError(f"{clip.name}: every frame should have {n_channels} values, found other lengths or no frame")
    values = np.array(rows)
    rotations = np.zeros((len(joints), len(values), 3, 3))
    column = 0
    for i, joint in enumerate(joints):
        rotations[i] = np.eye(3) if joint.parent < 0 else rotations[joint.parent]
        for channel in joint.channels:  # intrinsic, in the order of the channels
            if channel.endswith("rotation"):
                angle = values[:, column : column + 1]
                rotations[i] = rotations[i] @ Rotation.from_euler(channel[0].lower(), angle, degrees=True).as_matrix()
            column += 1
    directions: dict[str, np.ndarray] = {}
    for joint in joints:
        name = joints[joint.parent].name
        if joint.parent >= 0 and np.linalg.norm(joint.offset) > np.linalg.norm(directions.get(name, np.zeros(3))):
            directions[name] = joint.offset
    return SourceClip({j.name: r for j, r in zip(joints, rotations) if j.name}, directions)


# ---- ASF + AMC


_ROTATION_DOF = ("rx", "ry", "rz")


@dataclass(frozen=True)
class _AsfBone:
    direction: np.ndarray
    axis: np.ndarray  # (3, 3): the frame its degrees of freedom are measured in
    dof: tuple[str, ...]


def _parse_asf(path: Path) -> tuple[dict[str, _AsfBone], dict[str, str]]:
    """Bones by name, and the parent of each, in an order where parents come first."""
    text = path.read_text(errors="replace")
    if ":bonedata" not in text or ":hierarchy" not in text:
        raise ClipError(f"{path.name}: an ASF file has :bonedata and :hierarchy, found no such sections")
    bone_text, hierarchy = text.split(":bonedata", 1)[1].split(":hierarchy", 1)
    bones = {}
    for block in re.findall(r"\bbegin\b(.*?)\bend\b", bone_text, re.S):
        entry = {words[0]: words[1:] for words in map(str.split, block.splitlines()) if words}
        if not {"name", "direction", "axis"} <= entry.keys():
            raise ClipError(f"{path.name}: a bone needs name, direction and axis, found only {sorted(entry)}")
        axis = Rotation.from_euler("xyz", _floats(entry["axis"][:3], path, "an axis"), degrees=True).as_matrix()
        direction = np.array(_floats(entry["direction"], path, "a direction"))
        if direction.shape != (3,) or not set(entry.get("dof", ())) <= set(_ROTATION_DOF):
            raise ClipError(f"{path.name}: bone {entry['name'][0]} needs a direction of 3 and dof among {_ROTATION_DOF}")
        bones[entry["name"][0]] = _AsfBone(direction, axis, tuple(entry.get("dof", ())))
    parents = {child: words[0] for words in map(str.split, hierarchy.splitlines()) for child in words[1:]}
    return bones, parents


def read_amc(clip: Path) -> SourceClip:
    """Return an AMC file with the one ASF skeleton next to it. Raise ClipError."""
    skeletons = sorted(clip.parent.glob("*.asf"))
    if len(skeletons) != 1:
        raise ClipError(f"{clip.name}: expected one .asf skeleton next to it, found {len(skeletons)}")
    bones, parents = _parse_asf(skeletons[0])
    frames: list[dict[str, list[float]]] = []
    for line in clip.read_text(errors="replace").splitlines():
        words = line.split()
        if len(words) == 1 and words[0].isdigit():
            frames.append({})
        elif frames and words:
            frames[-1][words[0]] = _floats(words[1:], clip, f"the channels of {words[0]}")
    moving = {"root": 6} | {name: len(bone.dof) for name, bone in bones.items() if bone.dof}
    if not frames or any(len(f.get(name, ())) != n for f in frames for name, n in moving.items()):
        raise ClipError(f"{clip.name}: each frame should give {moving}, found other channels or no frame")
    euler = np.array([f["root"][3:6] for f in frames])
    rotations = {"root": Rotation.from_euler("xyz", euler, degrees=True).as_matrix()}
    for name, parent in parents.items():
        if name not in bones or parent not in rotations:
            raise ClipError(f"{skeletons[0].name}: bone {name} hangs on {parent}, which is not there before it")
        bone = bones[name]
        euler = np.zeros((len(frames), 3))
        for k, dof in enumerate(bone.dof):
            euler[:, _ROTATION_DOF.index(dof)] = [f[name][k] for f in frames]
        local = Rotation.from_euler("xyz", euler, degrees=True).as_matrix()
        rotations[name] = rotations[parent] @ (bone.axis @ local @ bone.axis.T)
    return SourceClip(rotations, {name: bone.direction for name, bone in bones.items()})


# ---- exponential-map text

# The CMU skeleton as this format orders it: bones named as in ASF ("" for end points); then their parents.
_LEG = ("hipjoint", "femur", "tibia", "foot", "toes", "")
_ARM = ("clavicle", "humerus", "radius", "wrist", "hand", "fingers", "", "thumb", "")
_EXPMAP_BONES = (
    "root",
    *("l" + b if b else "" for b in _LEG),
    *("r" + b if b else "" for b in _LEG),
    *("lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head", ""),
    *("l" + b if b else "" for b in _ARM),
    *("r" + b if b else "" for b in _ARM),
)
_EXPMAP_PARENTS = (
    -1, 0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11, 0, 13, 14, 15, 16, 17, 18,
    15, 20, 21, 22, 23, 24, 25, 23, 27, 15, 29, 30, 31, 32, 33, 34, 32, 36,
)  # fmt: skip
_LEG_TILT = np.array([np.sin(np.radians(20.0)), -np.cos(np.radians(20.0)), 0.0])
_EXPMAP_DIRECTIONS_LEFT = {
    "femur": _LEG_TILT,
    "tibia": _LEG_TILT,
    "foot": np.array([0.197, -0.541, 2.146]),
    "humerus": np.array([1.0, 0.0, 0.0]),
    "radius": np.array([1.0, 0.0, 0.0]),
    "hand": np.array([1.0, 0.0, 0.0]),
}


def read_expmap(clip: Path) -> SourceClip:
    """Comma-separated rows of a translation and 38 exponential maps (117 values). Raises ClipError."""
    lines = [line for line in clip.read_text(errors="replace").splitlines() if line.strip()]
    rows = [_floats(line.split(","), clip, "a frame") for line in lines]
    expected = 3 + 3 * len(_EXPMAP_BONES)
    if not rows or any(len(r) != expected for r in rows):
        raise ClipError(f"{clip.name}: every frame should have {expected} values, found other lengths or no frame")
    # The format's matrices act on row vectors, hence the sign.
    vectors = -np.array(rows)[:, 3:].reshape(-1, 3)
    local = Rotation.from_rotvec(vectors).as_matrix().reshape(len(rows), -1, 3, 3)
    rotations = np.zeros_like(local)
    for i, parent in enumerate(_EXPMAP_PARENTS):
        rotations[:, i] = local[:, i] if parent < 0 else rotations[:, parent] @ local[:, i]
    directions = {}
    for bone, left in _EXPMAP_DIRECTIONS_LEFT.items():
        directions["l" + bone], directions["r" + bone] = left, left * (-1, 1, 1)
    return SourceClip({b: rotations[:, i] for i, b in enumerate(_EXPMAP_BONES) if b}, directions)
