"""People drawn from the `anny` body model (Apache-2.0 code, CC0 MakeHuman data), turned to SMPL's T-pose.

Only anny's own rig and topologies are used. Its SMPL and SMPL-X topologies are not: they download files that
are licensed for non-commercial use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anny
import numpy as np
import torch
from anny.shape_distribution import SimpleShapeDistribution

from spin.joints import SMPL_NAMES, SMPL_PARENTS

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TOPOLOGY = "notoes_collapse10pc"
_BATCH = 25
_INDEX = {name: i for i, name in enumerate(SMPL_NAMES)}
_LOCAL_CHANGES = [
    "measure-upperarm-length-incr", "measure-lowerarm-length-incr", "measure-upperleg-height-incr",
    "measure-lowerleg-height-incr", "measure-shoulder-dist-incr", "measure-hips-circ-incr",
    "measure-waist-circ-incr", "measure-neck-height-incr", "torso-scale-vert-incr", "torso-scale-horiz-incr",
    "head-scale-vert-incr",
]  # fmt: skip

# Where each SMPL joint is (the mean of these bones' heads), and the roots of the bones that it moves.
_JOINT_BONES: dict[str, list[str]] = {
    "pelvis": ["spine05", "spine04"], "spine1": ["spine03"], "spine2": ["spine02"], "spine3": ["spine01"],
    "neck": ["neck01"], "head": ["head"],
}  # fmt: skip
_ROOT_OF: dict[str, str] = {
    "root": "pelvis", "spine05": "pelvis", "spine04": "pelvis", "spine03": "spine1", "spine02": "spine2",
    "spine01": "spine3", "neck01": "neck", "head": "head",
}  # fmt: skip
for _side, _s in (("left", "L"), ("right", "R")):
    _limbs = {
        "hip": [f"upperleg01.{_s}"],
        "knee": [f"lowerleg01.{_s}"],
        "ankle": [f"foot.{_s}"],
        "foot": [f"toe{i}-1.{_s}" for i in range(1, 6)],
        "collar": [f"clavicle.{_s}"],
        "shoulder": [f"upperarm01.{_s}"],
        "elbow": [f"lowerarm01.{_s}"],
        "wrist": [f"wrist.{_s}"],
        "hand": [f"finger{i}-1.{_s}" for i in range(2, 6)],
    }
    _JOINT_BONES |= {f"{_side} {part}": bones for part, bones in _limbs.items()}
    _ROOT_OF |= {bone: f"{_side} {part}" for part, bones in _limbs.items() for bone in bones}
    _ROOT_OF[f"finger1-2.{_s}"] = f"{_side} hand"

_KNUCKLES = (2, 3, 5)  # index, middle and little finger span the back of the hand

# The T-pose: collars raised a little, legs almost straight down, shins leaning back as they do at rest.
_COLLAR_RAISE_RAD = np.radians(8.0)
_THIGH_LEFT = np.array([0.045, -1.0, 0.0])
_SHIN_LEFT = np.array([0.0, -1.0, -0.06])


@dataclass(frozen=True)
class People:
    """People of varied shape in one T-pose: metres, y up, facing +z, left at +x, pelvis joint at the origin.

    bone_heads_m: the mean person's bones of anny's rig, moved to the T-pose; bones: their rows by name.
    """

    vertices_m: Float[np.ndarray, "N V 3"]
    joints_m: Float[np.ndarray, "N 24 3"]
    weights: Float[np.ndarray, "V 24"]
    faces: Int[np.ndarray, "F 3"]
    bone_heads_m: Float[np.ndarray, "B 3"]
    bones: dict[str, int]


def _y_up(points: np.ndarray) -> np.ndarray:
    """From anny's axes (z up, facing -y) to SMPL's."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _frame(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Orthonormal axes (columns, batched): `along`, then `across` made orthogonal to it."""
    first = _unit(along)
    second = _unit(across - (across * first).sum(-1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], -1)


def _swing(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The smallest rotations (N, 3, 3) that turn `source` directions (N, 3) to the `target` one (3,)."""
    a, b = _unit(source), _unit(np.broadcast_to(target, source.shape))
    v = np.cross(a, b)
    cross = np.zeros((*a.shape, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    cross -= np.swapaxes(cross, -1, -2)
    return np.eye(3) + cross + cross @ cross / (1 + (a * b).sum(-1))[:, None, None]


def _sample(model: anny.Anny, n_people: int, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """anny's phenotypes and local changes of n adults, heavier and more clearly sexed than anny's default."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    youngest, oldest = torch.tensor([18.0, 70.0], dtype=model.dtype)
    age = torch.distributions.Uniform(youngest, oldest)
    _, phenotypes = SimpleShapeDistribution(model, morphological_age_distribution=age).sample(n_people)

    def uniform() -> torch.Tensor:
        return torch.rand(n_people, generator=generator, dtype=model.dtype)

    def normal(mean: float, deviation: float, low: float, high: float) -> torch.Tensor:
        noise = torch.randn(n_people, generator=generator, dtype=model.dtype)
        return (mean + deviation * noise).clamp(low, high)

    phenotypes["gender"] = torch.where(uniform() < 0.5, 0.12 * uniform(), 1 - 0.12 * uniform())
    phenotypes["weight"] = normal(0.70, 0.20, 0.02, 0.98)
    phenotypes["muscle"] = normal(0.45, 0.20, 0.02, 0.98)
    phenotypes["cupsize"] = normal(0.5, 0.15, 0.1, 0.9)
    phenotypes["firmness"] = normal(0.5, 0.15, 0.1, 0.9)
    descent = torch.distributions.Dirichlet(torch.ones(3, dtype=model.dtype)).sample((n_people,))
    phenotypes |= {name: descent[:, i] for i, name in enumerate(("african", "asian", "caucasian"))}
    return phenotypes, {label: normal(0.0, 0.25, -0.7, 0.7) for label in model.local_change_labels}


def _owner_of_bones(model: anny.Anny) -> np.ndarray:
    """For each bone of anny's rig, the SMPL joint that moves it."""
    owner = []
    for bone in range(model.bone_count):
        while model.bone_labels[bone] not in _ROOT_OF:
            bone = model.bone_parents[bone]
        owner.append(_INDEX[_ROOT_OF[model.bone_labels[bone]]])
    return np.array(owner)


def _joints_of(bone_heads: np.ndarray, bones: dict[str, int]) -> np.ndarray:
    return np.stack([bone_heads[:, [bones[b] for b in _JOINT_BONES[name]]].mean(1) for name in SMPL_NAMES], 1)


def _to_t_pose(joints: np.ndarray, bone_heads: np.ndarray, bones: dict[str, int]) -> np.ndarray:
    """Global rotations (N, 24, 3, 3) that take each part from anny's A-pose to the T-pose."""
    rotations = np.tile(np.eye(3), (len(joints), 24, 1, 1))
    for side, letter, sign in (("left", "L", 1.0), ("right", "R", -1.0)):
        at = {part: _INDEX[f"{side} {part}"] for part in ("hip", "knee", "ankle", "collar", "shoulder", "elbow")}
        wrist, hand = _INDEX[f"{side} wrist"], _INDEX[f"{side} hand"]
        outward, mirror = np.array([sign, 0.0, 0.0]), np.array([sign, 1.0, 1.0])
        c, s = np.cos(_COLLAR_RAISE_RAD), sign * np.sin(_COLLAR_RAISE_RAD)
        rotations[:, at["collar"]] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
        # Arms level, the elbow's hinge vertical, so that it bends forwards.
        upper, fore = (
            joints[:, at["elbow"]] - joints[:, at["shoulder"]],
            joints[:, wrist] - joints[:, at["elbow"]],
        )
        level = _frame(outward, np.array([0.0, -sign, 0.0]))
        hinge = np.cross(upper, fore)
        rotations[:, at["shoulder"]] = level @ np.swapaxes(_frame(upper, hinge), -1, -2)
        rotations[:, at["elbow"]] = level @ np.swapaxes(_frame(fore, hinge), -1, -2)
        # Palms down.
        index, middle, little = (bone_heads[:, bones[f"finger{i}-1.{letter}"]] - joints[:, wrist] for i in _KNUCKLES)
        palm_down = _frame(outward, np.array([0.0, sign, 0.0]))
        rotations[:, wrist] = palm_down @ np.swapaxes(_frame(middle, np.cross(index, little)), -1, -2)
        rotations[:, hand] = rotations[:, wrist]
        rotations[:, at["hip"]] = _swing(joints[:, at["knee"]] - joints[:, at["hip"]], _THIGH_LEFT * mirror)
        rotations[:, at["knee"]] = _swing(joints[:, at["ankle"]] - joints[:, at["knee"]], _SHIN_LEFT * mirror)
    return rotations


def _forward(joints: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Joints (N, 24, 3) after turning each part by its global rotation, the pelvis staying where it is."""
    out = joints.copy()
    for k in range(1, 24):
        p = SMPL_PARENTS[k]
        out[:, k] = out[:, p] + np.einsum("nij,nj->ni", rotations[:, p], joints[:, k] - joints[:, p])
    return out


def _unskin(
    vertices: np.ndarray, joints: np.ndarray, joints_t: np.ndarray, rotations: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """T-pose vertices that linear blend skinning takes back to `vertices` exactly.

    Skinning the A-pose forwards would crease the armpits twice: here, and when the arms come down again.
    """
    back = np.swapaxes(rotations, -1, -2)
    shift = joints - np.einsum("nkij,nkj->nki", back, joints_t)
    out = np.empty_like(vertices)
    for n in range(len(vertices)):
        blended = np.einsum("vk,kij->vij", weights, back[n])
        out[n] = np.linalg.solve(blended, (vertices[n] - weights @ shift[n])[..., None])[..., 0]
    return out


def draw_people(n_people: int, *, seed: int) -> People:
    """n adults of varied shape. Needs `anny` 0.6.2, which keeps its cache in ANNY_CACHE_DIR."""
    model = anny.Anny(
        rig="makehuman",
        topology=TOPOLOGY,
        phenotypes="all",
        local_changes=_LOCAL_CHANGES,
        skinning_method="lbs",
        phenotype_blendshapes="original",
    )
    bones = {label: i for i, label in enumerate(model.bone_labels)}
    owner = _owner_of_bones(model)
    dense = torch.zeros(len(model.template_vertices), model.bone_count, dtype=model.dtype)
    dense.scatter_add_(1, model.vertex_bone_indices, model.vertex_bone_weights)
    weights = np.zeros((len(dense), 24))
    np.add.at(weights.T, owner, dense.numpy().T)
    phenotypes, local_changes = _sample(model, n_people, seed)
    vertices, joints, bone_heads = [], [], []
    for start in range(0, n_people, _BATCH):
        part = slice(start, start + _BATCH)
        with torch.no_grad():
            rest = model(
                None,
                phenotype_kwargs={k: v[part] for k, v in phenotypes.items()},
                local_changes_kwargs={k: v[part] for k, v in local_changes.items()},
            )
        heads_a, vertices_a = (_y_up(rest[k].numpy()) for k in ("rest_bone_heads", "rest_vertices"))
        joints_a = _joints_of(heads_a, bones)
        pelvis = joints_a[:, :1].copy()
        heads_a, vertices_a, joints_a = heads_a - pelvis, vertices_a - pelvis, joints_a - pelvis
        rotations = _to_t_pose(joints_a, heads_a, bones)
        joints_t = _forward(joints_a, rotations)
        vertices.append(_unskin(vertices_a, joints_a, joints_t, rotations, weights))
        joints.append(joints_t)
        moved = np.einsum("nbij,nbj->nbi", rotations[:, owner], heads_a - joints_a[:, owner]) + joints_t[:, owner]
        bone_heads.append(moved)
    faces = model.faces if model.faces.shape[1] == 3 else model.get_triangular_faces()
    mean_heads = np.concatenate(bone_heads).mean(0)
    return People(np.concatenate(vertices), np.concatenate(joints), weights, faces.numpy(), mean_heads, bones)
