"""EFT's fits (Joo et al., 3DV 2021): a JSON object whose `data` lists one person's body each, with rotation matrices.

A row's weak-perspective camera [s, tx, ty] maps a point X (m) to 112 (s X + t) + 112 px of the row's 224 px crop: tx and ty
are in half crops, added after s. (SPIN's network has them in metres, added before.) It is that of EFT's own fitting code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from store.annotations.schema import SUPERSET
from store.annotations.table import Annotations
from store.exchange import io
from store.exchange.bodies import SampleKeys, StaticFits, bodies
from store.exchange.matching import annotation_ids

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64

EXPECTED = "EFT's JSON: an object with 'data', a list of objects with parm_pose (24, 3, 3) and parm_shape (10)"
_VERSION = 0.1
_ORTHONORMAL = 1e-2
"""How far R Rᵀ of a rotation may be from the identity, in any entry: the published ones are rounded to float32."""
# OpenPose's 18 joints among the superset's 24: nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
_OPENPOSE18 = (19, 12, 8, 7, 6, 9, 10, 11, 2, 1, 0, 3, 4, 5, 21, 20, 23, 22)


@dataclass(frozen=True)
class _Person:
    """What is kept of one object of the list, or why it can't be used."""

    rotations: np.ndarray
    numbers: np.ndarray  # betas (10), camera (3), scale, centre (2)
    image: str
    annotation: int
    problem: str = ""


def export_eft(
    path: str | Path,
    annotations: Annotations,
    rows: Int64[np.ndarray, "k"],
    rotations: Float64[np.ndarray, "k 24 3 3"],
    betas: Float32[np.ndarray, "k 10"],
    weak_camera: Float64[np.ndarray, "k 3"],
    *,
    body: str,
) -> None:
    """Write the bodies of some samples, in their order; atomic. `body`, their body model, goes into `meta` and `smpltype`."""
    names = _image_names(annotations.image)
    ids = annotation_ids(annotations)

    def people() -> Iterator[dict[str, Any]]:
        for place, row in enumerate(rows.tolist()):
            keypoints = annotations.keypoints_px[row]
            yield {
                "parm_pose": rotations[place].tolist(),
                "parm_shape": betas[place].tolist(),
                "parm_cam": weak_camera[place].tolist(),
                "bbox_scale": float(annotations.scale[row]),
                "bbox_center": annotations.center_px[row].tolist(),
                "gt_keypoint_2d": keypoints.tolist(),
                "joint_validity_openpose18": keypoints[SUPERSET][list(_OPENPOSE18), 2].tolist(),
                "smpltype": "smpl" if body.startswith("SMPL") else body,
                "annotId": int(ids[row]),
                "imageName": names[row],
            }

    meta = {io.BODY_KEY: body}
    io.write_json(Path(path), {"ver": _VERSION, "data": list(people()), "meta": meta})


def _image_names(images: list[str]) -> list[str]:
    """Return base names, as the format has them; the whole path where two images share one."""
    owners: dict[str, set[str]] = {}
    for image in images:
        owners.setdefault(PurePosixPath(image).name, set()).add(image)
    return [name if len(owners[name := PurePosixPath(image).name]) == 1 else image for image in images]


def read_eft(path: Path) -> StaticFits:
    """Return the fits in a file; `problems` lists objects that can't be used.

    Raises ExchangeError if the file is not EFT's, or no object can be used.
    """
    content = io.read_json(path, EXPECTED, _kept)
    people = content.get("data") if isinstance(content, dict) else None
    if not isinstance(people, list) or not people or not all(isinstance(p, _Person) for p in people):
        raise io.unusable(path, f"expected {EXPECTED}; {_found(content)}")
    if all(person.problem for person in people):
        raise io.unusable(path, f"expected {EXPECTED}; found no usable entry; the first: {people[0].problem}")
    rotations = np.stack([person.rotations for person in people])
    numbers = np.stack([person.numbers for person in people])
    keys = SampleKeys(
        [p.image for p in people], numbers[:, 14:16], numbers[:, 13],
        np.array([p.annotation for p in people], np.int64),
    )  # fmt: skip
    with np.errstate(over="ignore"):
        betas = numbers[:, :10].astype(np.float32)
    meta = content.get("meta")
    named = meta.get(io.BODY_KEY, "") if isinstance(meta, dict) else ""
    found = bodies(
        np.zeros((len(people), 72), np.float32), betas, keys=keys, rotations=rotations,
        weak_camera=numbers[:, 10:13], body=named if isinstance(named, str) and named.isprintable() else "",
    )  # fmt: skip
    problems = found.problems | {row: p.problem for row, p in enumerate(people) if p.problem}
    found.valid[list(problems)] = False
    found.problems.update(problems)
    return found


def _kept(entry: dict[str, Any]) -> Any:
    """Return a person as arrays, so that a file of tens of thousands fits into memory; any other object unchanged."""
    if "parm_pose" not in entry:
        return entry
    try:
        camera = entry.get("parm_cam", [math.nan] * 3)
        rotations = np.asarray(entry["parm_pose"], np.float64)
        parts = (entry["parm_shape"], camera, [entry["bbox_scale"]], entry["bbox_center"])
        numbers = [np.asarray(part, np.float64).ravel() for part in parts]
        image, annotation = entry["imageName"], entry.get("annotId", 0)
        shapes = (rotations.shape, *(part.size for part in numbers))
    except KeyError as missing:
        return _unusable(f"it has no {missing}")
    except (ValueError, TypeError, OverflowError):
        return _unusable("its pose, shape, camera or box is not made of numbers")
    if shapes != ((24, 3, 3), 10, 3, 1, 2):
        return _unusable(f"expected parm_pose (24, 3, 3), parm_shape 10, parm_cam 3 and bbox_center 2, found {shapes}")
    if not isinstance(image, str):
        return _unusable("imageName is no text")
    if entry.get("smpltype") == "smplx":
        return _unusable("its body is SMPL-X's")
    known = isinstance(annotation, int) and not isinstance(annotation, bool) and 0 < annotation < 2**63
    return _Person(rotations, np.concatenate(numbers), image, annotation if known else 0, _no_rotation(rotations))


def _no_rotation(matrices: np.ndarray) -> str:
    if not np.isfinite(matrices).all():
        return ""  # NaN and infinity are checked for all formats alike
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max()
        if not off <= _ORTHONORMAL or np.linalg.det(matrices).min() <= 0:
            return "a matrix of parm_pose is no rotation"
    return ""


def _unusable(problem: str) -> _Person:
    return _Person(np.full((24, 3, 3), np.nan), np.full(16, np.nan), "", 0, problem)


def _found(content: Any) -> str:
    if not isinstance(content, dict):
        return f"found a {type(content).__name__}"
    if not isinstance(content.get("data"), list):
        return f"found an object with {', '.join(map(str, list(content)[:10])) or 'nothing'}"
    return "its list is empty" if not content["data"] else "found other entries in its list"
