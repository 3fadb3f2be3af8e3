"""Names and index sets of the joints that everything else is written in.

49 keypoints per person, in SPIN's order (Kolotouros et al., ICCV 2019): the 25 of OpenPose's BODY_25, then a superset
of 24 that holds every data set's own annotation. 3D joints come from a body model as 24 kinematic joints, 11 vertices
of face and feet, and 9 joints regressed from the mesh; `MODEL_POINTS` names those 44 and `KEYPOINT_TO_MODEL` says
which of them each of the 49 keypoints is.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

OPENPOSE_NAMES = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "mid hip", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye",
    "left eye", "right ear", "left ear", "left big toe", "left small toe", "left heel", "right big toe",
    "right small toe", "right heel",
)  # fmt: skip
SUPERSET_NAMES = (
    "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle", "right wrist", "right elbow",
    "right shoulder", "left shoulder", "left elbow", "left wrist", "neck", "top of head", "pelvis", "thorax",
    "spine", "jaw", "head", "nose", "left eye", "right eye", "left ear", "right ear",
)  # fmt: skip

SMPL_NAMES = (
    "pelvis", "left hip", "right hip", "spine1", "left knee", "right knee", "spine2", "left ankle", "right ankle",
    "spine3", "left foot", "right foot", "neck", "left collar", "right collar", "head", "left shoulder",
    "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist", "left hand", "right hand",
)  # fmt: skip
SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)

# Vertices used as keypoints, by the names smplx gives them, in the order smplx appends them to the joints.
FACE_AND_FEET = (
    "nose", "reye", "leye", "rear", "lear",
    "LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel",
)  # fmt: skip
EXTRA_NAMES = (
    "right hip (LSP)", "left hip (LSP)", "neck (LSP)", "top of head (LSP)", "pelvis (MPII)", "thorax (MPII)",
    "spine (H36M)", "jaw (H36M)", "head (H36M)",
)  # fmt: skip
MODEL_POINTS = SMPL_NAMES + FACE_AND_FEET + EXTRA_NAMES

H36M_NAMES = (
    "pelvis", "left hip", "left knee", "left ankle", "right hip", "right knee", "right ankle", "spine", "neck",
    "jaw", "head top", "left shoulder", "left elbow", "left wrist", "right shoulder", "right elbow", "right wrist",
)  # fmt: skip
# The 14 LSP joints among Human3.6M's 17, in LSP's order: what the field's PA-MPJPE is measured on.
H36M_TO_J14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)

COCO_NAMES = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip


def _model_point(name: str, *, in_superset: bool) -> int:
    """Index into MODEL_POINTS of one of the 49 keypoints."""
    side, _, part = name.partition(" ")
    short = {"left": "l", "right": "r"}.get(side, "")
    if part in ("eye", "ear"):
        return MODEL_POINTS.index(short + part)
    if part in ("big toe", "small toe", "heel"):
        return MODEL_POINTS.index(side[0].upper() + part.title().replace(" ", ""))
    if name == "nose":
        return MODEL_POINTS.index("nose")
    if not in_superset:
        return MODEL_POINTS.index({"mid hip": "pelvis"}.get(name, name))
    for suffix in ("(LSP)", "(MPII)", "(H36M)"):
        if f"{name} {suffix}" in EXTRA_NAMES:
            return MODEL_POINTS.index(f"{name} {suffix}")
    return MODEL_POINTS.index(name)


KEYPOINT_TO_MODEL = tuple(
    [_model_point(n, in_superset=False) for n in OPENPOSE_NAMES] + [_model_point(n, in_superset=True) for n in SUPERSET_NAMES]
)


def mirrored(names: tuple[str, ...]) -> tuple[int, ...]:
    """The permutation that swaps left and right in a list of names ("left knee" <-> "right knee")."""
    swap = {"left": "right", "right": "left"}
    other = [" ".join(swap.get(word, word) for word in name.split(" ")) for name in names]
    return tuple(names.index(name) for name in other)


SMPL_MIRROR = mirrored(SMPL_NAMES)

# The 34 of the 44 model points that keypoints name: 49 keypoints see no more different places.
PLACES = tuple(sorted(set(KEYPOINT_TO_MODEL)))


class _Joints:
    """The 49 keypoints: slices of their two halves, index of each by name, and groups the fitting needs."""

    count = 49
    openpose = slice(0, 25)
    superset = slice(25, 49)
    feet = slice(19, 25)  # of OpenPose's: COCO-WholeBody has them in the same order
    names = tuple(f"OpenPose {n}" for n in OPENPOSE_NAMES) + SUPERSET_NAMES
    index = MappingProxyType({name: i for i, name in enumerate(names)})
    mirror = mirrored(OPENPOSE_NAMES) + tuple(25 + i for i in mirrored(SUPERSET_NAMES))

    @property
    def ignored_in_body_term(self) -> tuple[int, ...]:
        """Hips and OpenPose's neck: annotators and the model disagree on where they are (SPIN's smplify)."""
        names = ("OpenPose neck", "OpenPose right hip", "OpenPose left hip", "right hip", "left hip")
        return tuple(self.index[n] for n in names)

    @property
    def named_twice(self) -> tuple[tuple[int, int], ...]:
        """Joints that both halves name, as pairs of indices (OpenPose, superset)."""
        shared = [n for n in OPENPOSE_NAMES if n in SUPERSET_NAMES]
        return tuple((self.index[f"OpenPose {n}"], self.index[n]) for n in shared)

    @property
    def torso(self) -> tuple[int, ...]:
        """Hips and shoulders of both halves: what the camera is started from."""
        parts = ("right hip", "left hip", "right shoulder", "left shoulder")
        return tuple(self.index[f"OpenPose {p}"] for p in parts) + tuple(self.index[p] for p in parts)

    @property
    def coco(self) -> tuple[int, ...]:
        """COCO's 17 keypoints, in COCO's order, as indices of the 49."""
        return tuple(25 + SUPERSET_NAMES.index(n) for n in COCO_NAMES)

    @property
    def h36m(self) -> tuple[int, ...]:
        """Human3.6M's 17 joints, in Human3.6M's order, as indices of the 49; "head top" is the superset's "head"."""
        return tuple(25 + SUPERSET_NAMES.index({"head top": "head"}.get(n, n)) for n in H36M_NAMES)

    @property
    def lsp(self) -> tuple[int, ...]:
        """LSP's 14 joints, in LSP's order, as indices of the 49: the first 14 of the superset."""
        return tuple(range(25, 39))


JOINTS = _Joints()

PLACE_MIRROR = tuple(PLACES.index(KEYPOINT_TO_MODEL[JOINTS.mirror[KEYPOINT_TO_MODEL.index(point)]]) for point in PLACES)

# 2D skeleton for drawing: pairs of superset joints, by name.
SKELETON = tuple(
    (JOINTS.index[a], JOINTS.index[b])
    for a, b in (
        ("right ankle", "right knee"), ("right knee", "right hip"), ("left ankle", "left knee"),
        ("left knee", "left hip"), ("right hip", "left hip"), ("right wrist", "right elbow"),
        ("right elbow", "right shoulder"), ("left wrist", "left elbow"), ("left elbow", "left shoulder"),
        ("right shoulder", "left shoulder"), ("right shoulder", "right hip"), ("left shoulder", "left hip"),
        ("nose", "left eye"), ("nose", "right eye"), ("left eye", "left ear"), ("right eye", "right ear"),
    )
)  # fmt: skip


def mirror_permutation_of_pose() -> np.ndarray:
    """Permutation (72,) of SMPL's pose vector that swaps left and right joints; signs are `rotations.mirror_pose`'s."""
    return (3 * np.asarray(SMPL_MIRROR)[:, None] + np.arange(3)).ravel()


# LSP's 14 joints among the 44 model points: where errors between bodies are measured when there is no mesh.
LSP_POINTS = tuple(KEYPOINT_TO_MODEL[j] for j in JOINTS.lsp)
