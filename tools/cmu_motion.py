"""Poses from clips of the CMU motion capture database, as SMPL's axis-angles.

The data comes from mocap.cs.cmu.edu; the database was created with funding from NSF EIA-0196217. Neither the
clips nor the poses are part of the project: what is estimated from them is (`tools.build_pose_prior`).
"""

from __future__ import annotations

import tarfile
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from spin.joints import SMPL_NAMES, SMPL_PARENTS
from tools.cmu_clips import ClipError, SourceClip, read_amc, read_bvh, read_expmap

if TYPE_CHECKING:
    from jaxtyping import Float

HELD_OUT = ("seq/soccer", "amc/02")
"""Activities that the pose prior is never fitted on: where fitters may take true poses to be measured on."""

_PARENTS = np.array(SMPL_PARENTS)
_INDEX = {name: i for i, name in enumerate(SMPL_NAMES)}

# Beyond these a frame is a tracking glitch (a head spun round, a foot turned back), not a pose.
_LIMIT_RAD = np.full(24, 2.9)
_LIMIT_RAD[[_INDEX[n] for n in ("spine1", "spine2", "spine3", "neck", "head", "left ankle", "right ankle")]] = 1.6

# All three formats descend from CMU's skeletons, whose elbows bend about an axis 30° off the vertical at rest
# and whose head looks 16° down in the calibration pose.
_ELBOW_AXIS_LEFT = np.array([0.0, -np.cos(np.radians(30.0)), np.sin(np.radians(30.0))])
_CMU_HEAD_PITCH_RAD = 0.28
_COLLAR_SHARE = np.array([0.0, 0.10, 0.15])
_COLLAR_LIMIT_RAD = 0.35


@dataclass(frozen=True)
class Motion:
    """Poses of many clips, one row a frame.

    pose_aa: axis-angles of SMPL's 24 joints in radians, the root's first.
    activity: "format/folder" of each row's clip.
    broken_frames: how many frames were left out as tracking glitches.
    unreadable: one line for every clip that couldn't be read.
    """

    pose_aa: Float[np.ndarray, "N 72"]
    activity: np.ndarray
    broken_frames: int
    unreadable: tuple[str, ...]


def _chain(prefix: str, hip: str, knee: str, ankle: str, foot: str | None, *arm: str) -> dict[str, str]:
    side = {"l": "left", "r": "right"}[prefix]
    parts = dict(zip(("collar", "shoulder", "elbow", "wrist"), arm)) | {
        "hip": hip,
        "knee": knee,
        "ankle": ankle,
    }
    if foot is not None:
        parts["foot"] = foot
    return {f"{side} {part}": prefix + bone for part, bone in parts.items()}


# SMPL joint -> source bone, or the two bones it turns midway between; joints left out move with their parent.
_CMU_BONES: dict[str, str | tuple[str, str]] = {
    "pelvis": "root",
    "spine1": "lowerback",
    "spine2": "upperback",
    "spine3": "thorax",
    "neck": ("lowerneck", "upperneck"),
    "head": "head",
    **_chain("l", "femur", "tibia", "foot", "toes", "clavicle", "humerus", "radius", "hand"),
    **_chain("r", "femur", "tibia", "foot", "toes", "clavicle", "humerus", "radius", "hand"),
}
_DAZ_BONES: dict[str, str | tuple[str, str]] = {
    "pelvis": "hip",
    "spine1": ("hip", "abdomen"),
    "spine2": "abdomen",
    "spine3": "chest",
    "neck": "neck",
    "head": "head",
    **_chain("l", "Thigh", "Shin", "Foot", None, "Collar", "Shldr", "ForeArm", "Hand"),
    **_chain("r", "Thigh", "Shin", "Foot", None, "Collar", "Shldr", "ForeArm", "Hand"),
}


def _frame(primary: np.ndarray, secondary: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Right-handed orthonormal axes (columns): along `primary`, then `secondary` made orthogonal to it."""
    first = primary / np.linalg.norm(primary)
    second = secondary - first * (first @ secondary)
    second = second / np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], -1)


def _halfway(a: Float[np.ndarray, "N 3 3"], b: Float[np.ndarray, "N 3 3"]) -> Float[np.ndarray, "N 3 3"]:
    between = Rotation.from_matrix(np.swapaxes(a, -1, -2) @ b).as_rotvec()
    return a @ Rotation.from_rotvec(0.5 * between).as_matrix()


def _rest_alignment(
    clip: SourceClip, bones: dict[str, str | tuple[str, str]], rest_joints_m: np.ndarray
) -> dict[str, np.ndarray]:
    """Rotation of each limb from the body's rest pose to the source's: bone onto bone, hinge onto hinge."""

    def source(joint: str) -> np.ndarray:
        bone = bones[joint]
        if not isinstance(bone, str) or bone not in clip.directions:
            raise ClipError(f"the skeleton has no direction for {bone!r}, which drives the {joint}")
        return clip.directions[bone]

    def body(joint: str, child: str) -> np.ndarray:
        return rest_joints_m[_INDEX[child]] - rest_joints_m[_INDEX[joint]]

    alignment: dict[str, np.ndarray] = {}
    if "upperneck" in clip.rotations:
        alignment["head"] = Rotation.from_euler("x", -_CMU_HEAD_PITCH_RAD).as_matrix()
    for side, sign in (("left", 1.0), ("right", -1.0)):
        x_axis, elbow_body = np.array([1.0, 0.0, 0.0]), np.array([0.0, -sign, 0.0])
        elbow_source = sign * _ELBOW_AXIS_LEFT
        up = np.array([0.0, 1.0, 0.0])
        shank = body(f"{side} knee", f"{side} ankle")
        # joint, its child, and the second direction on the body and in the source
        for part, child, second_body, second_source in (
            ("hip", "knee", x_axis, x_axis),
            ("knee", "ankle", x_axis, x_axis),
            ("ankle", "foot", shank, source(f"{side} knee")),
            ("shoulder", "elbow", elbow_body, elbow_source),
            ("elbow", "wrist", elbow_body, elbow_source),
            ("wrist", "hand", up, up),
        ):
            on_body = _frame(body(f"{side} {part}", f"{side} {child}"), second_body)
            alignment[f"{side} {part}"] = _frame(source(f"{side} {part}"), second_source) @ on_body.T
        alignment[f"{side} foot"] = alignment[f"{side} ankle"]
    return alignment


def _share_shoulder_with_collar(local: Float[np.ndarray, "N 24 3 3"]) -> Float[np.ndarray, "N 24 3 3"]:
    """CMU's clavicles hardly move: give each collar part of its arm's elevation; the upper arm stays put."""
    out = local.copy()
    for side in ("left", "right"):
        collar, shoulder = _INDEX[f"{side} collar"], _INDEX[f"{side} shoulder"]
        if np.abs(Rotation.from_matrix(local[:, collar]).as_rotvec()).max() >= 0.02:
            continue
        raised = Rotation.from_matrix(local[:, shoulder]).as_rotvec() * _COLLAR_SHARE
        turn = Rotation.from_rotvec(np.clip(raised, -_COLLAR_LIMIT_RAD, _COLLAR_LIMIT_RAD)).as_matrix()
        out[:, collar] = turn
        out[:, shoulder] = np.swapaxes(turn, -1, -2) @ local[:, shoulder]
    return out


def _share_wrist_twist(
    local: Float[np.ndarray, "N 24 3 3"], rest_joints_m: Float[np.ndarray, "24 3"]
) -> Float[np.ndarray, "N 24 3 3"]:
    """Move half of the wrist's turn about the forearm to the elbow, as the forearm's own bones share it."""
    out = local.copy()
    for side in ("left", "right"):
        elbow, wrist = _INDEX[f"{side} elbow"], _INDEX[f"{side} wrist"]
        forearm = rest_joints_m[wrist] - rest_joints_m[elbow]
        forearm = forearm / np.linalg.norm(forearm)
        quaternion = Rotation.from_matrix(local[:, wrist]).as_quat()
        twist_rad = 2 * np.arctan2(quaternion[:, :3] @ forearm, quaternion[:, 3])
        twist_rad = (twist_rad + np.pi) % (2 * np.pi) - np.pi
        half = Rotation.from_rotvec(0.5 * twist_rad[:, None] * forearm).as_matrix()
        out[:, elbow] = local[:, elbow] @ half
        out[:, wrist] = np.swapaxes(half, -1, -2) @ local[:, wrist]
    return out


def retarget(
    clip: SourceClip, bones: dict[str, str | tuple[str, str]], rest_joints_m: Float[np.ndarray, "24 3"]
) -> Float[np.ndarray, "N 72"]:
    """SMPL axis-angles (radians) that turn the body's bones as the clip turns its own.

    rest_joints_m are the joints of the body at rest: y up, facing +z, its left at +x, arms level. Raises
    ClipError when the clip lacks a bone.
    """
    wanted = {b for bone in bones.values() for b in ((bone,) if isinstance(bone, str) else bone)}
    if missing := sorted(wanted - clip.rotations.keys()):
        raise ClipError(f"the skeleton should have {len(wanted)} bones that drive the body, missing {missing}")
    alignment = _rest_alignment(clip, bones, rest_joints_m)
    n_frames = len(next(iter(clip.rotations.values())))
    rotations = np.zeros((n_frames, 24, 3, 3))
    for i, joint in enumerate(SMPL_NAMES):
        bone = bones.get(joint)
        if bone is None:
            rotations[:, i] = rotations[:, _PARENTS[i]]
            continue
        turn = clip.rotations[bone] if isinstance(bone, str) else _halfway(*(clip.rotations[b] for b in bone))
        rotations[:, i] = turn @ alignment.get(joint, np.eye(3))
    local = rotations.copy()
    local[:, 1:] = np.swapaxes(rotations[:, _PARENTS[1:]], -1, -2) @ rotations[:, 1:]
    local = _share_wrist_twist(_share_shoulder_with_collar(local), rest_joints_m)
    return Rotation.from_matrix(local.reshape(-1, 3, 3)).as_rotvec().reshape(n_frames, 72)


@dataclass(frozen=True)
class _Format:
    name: str
    pattern: str
    read: Callable[[Path], SourceClip]
    bones: dict[str, str | tuple[str, str]]


_FORMATS = (
    _Format("bvh", "*.bvh", read_bvh, _DAZ_BONES),
    _Format("amc", "*.amc", read_amc, _CMU_BONES),
    _Format("seq", "*.txt", read_expmap, _CMU_BONES),
)


def load_poses(clips: Path, rest_joints_m: Float[np.ndarray, "24 3"]) -> Motion:
    """All poses of the clips in a folder (searched deeply) or in a tar archive of one, retargeted to a body.

    The first frame of a clip is its calibration pose and is left out, as are frames that are glitches. A clip
    that can't be read is left out with a warning and listed in the result. Raises FileNotFoundError when the
    path is not there, ValueError when it holds no readable clip, and tarfile.FilterError when a member of the
    archive would leave the folder it is unpacked into.
    """
    if clips.is_dir():
        return _load_folder(clips, np.asarray(rest_joints_m, dtype=np.float64))
    if not clips.is_file():
        raise FileNotFoundError(f"motion clips: {clips} should be a folder or a tar archive, found nothing there")
    if not tarfile.is_tarfile(clips):
        raise ValueError(f"motion clips: {clips} should be a folder or a tar archive, found another kind of file")
    with tempfile.TemporaryDirectory() as folder, tarfile.open(clips) as archive:
        archive.extractall(folder, filter="data")
        return _load_folder(Path(folder), np.asarray(rest_joints_m, dtype=np.float64))


def _load_folder(folder: Path, rest_joints_m: np.ndarray) -> Motion:
    poses, activities, unreadable, broken_frames = [], [], [], 0
    for form in _FORMATS:
        for path in sorted(folder.rglob(form.pattern)):
            try:
                pose_aa = retarget(form.read(path), form.bones, rest_joints_m)[1:]
                if not np.isfinite(pose_aa).all():
                    raise ClipError(f"{path.name}: angles should be finite, found NaN or infinity")
            except (ClipError, OSError) as error:
                unreadable.append(f"{path.relative_to(folder)}: {error}")
                warnings.warn(f"clip left out: {unreadable[-1]}", stacklevel=3)
                continue
            angle_rad = np.linalg.norm(pose_aa.reshape(-1, 24, 3), axis=-1)
            whole = (angle_rad[:, 1:] < _LIMIT_RAD[1:]).all(axis=1)
            broken_frames += int((~whole).sum())
            poses.append(pose_aa[whole].astype(np.float32))
            activities += [f"{form.name}/{path.parent.name}"] * len(poses[-1])
    if not poses:
        raise ValueError(f"motion clips: {folder} should hold .bvh, .amc or .txt clips, found none that can be read")
    return Motion(np.concatenate(poses), np.array(activities), broken_frames, tuple(unreadable))
