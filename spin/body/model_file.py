"""Body-model files of SMPL's format: the open body shipped here, SMPL's own .pkl, or an .npz of the same arrays."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from smplx.vertex_ids import vertex_ids as SMPLX_VERTEX_IDS

from spin.body.safe_pickle import read_array_pickle
from spin.errors import BodyFileError
from spin.joints import EXTRA_NAMES, FACE_AND_FEET, H36M_NAMES, SMPL_NAMES

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ASSETS = Path(__file__).parent.parent / "assets"
OPEN_BODY = ASSETS / "open_body.npz"

PART_NAMES = ("head", "torso", "left arm", "right arm", "left leg", "right leg")
_LIMB = {"arm": ("shoulder", "elbow", "wrist", "hand"), "leg": ("hip", "knee", "ankle", "foot")}


@dataclass(frozen=True, eq=False)
class BodyData:
    """The arrays of a body model, float64. Metres, y up, the body's left at +x, in its rest pose.

    `extra_regressor` gives SPIN's nine added joints, `h36m_regressor` Human3.6M's 17, `keypoint_vertices` the vertices that
    serve as face and feet keypoints (spin.joints.FACE_AND_FEET).
    """

    name: str
    v_template: Float[np.ndarray, "V 3"]
    shapedirs: Float[np.ndarray, "V 3 10"]
    posedirs: Float[np.ndarray, "V 3 207"] | None
    joint_regressor: Float[np.ndarray, "24 V"]
    extra_regressor: Float[np.ndarray, "9 V"]
    h36m_regressor: Float[np.ndarray, "17 V"]
    skin_weights: Float[np.ndarray, "V 24"]
    parents: tuple[int, ...]
    faces: Int[np.ndarray, "F 3"]
    keypoint_vertices: Int[np.ndarray, "11"]

    @property
    def part_names(self) -> tuple[str, ...]:
        return PART_NAMES

    @property
    def vertex_part(self) -> Int[np.ndarray, " V"]:
        """Index into `part_names` of each vertex: the part whose bones move it most."""
        share = np.stack([self.skin_weights[:, _bones_of(part)].sum(1) for part in PART_NAMES], 1)
        return share.argmax(1).astype(np.uint8)

    @property
    def fingerprint(self) -> str:
        """Name and hash of all arrays: two bodies with one fingerprint give the same fits the same meaning."""
        return _fingerprint(self)


@lru_cache(maxsize=8)
def _fingerprint(body: BodyData) -> str:
    digest = hashlib.sha256()
    for item in fields(body):
        value = getattr(body, item.name)
        if isinstance(value, np.ndarray):
            digest.update(item.name.encode() + str(value.shape).encode() + np.ascontiguousarray(value).tobytes())
    return f"{body.name}:{digest.hexdigest()[:12]}"


def _bones_of(part: str) -> list[int]:
    if part == "head":
        return [SMPL_NAMES.index(n) for n in ("neck", "head")]
    if part == "torso":
        bones = ("pelvis", "spine1", "spine2", "spine3", "left collar", "right collar")
        return [SMPL_NAMES.index(n) for n in bones]
    side, limb = part.split(" ")
    return [SMPL_NAMES.index(f"{side} {bone}") for bone in _LIMB[limb]]


def find_body(data_dir: Path | None) -> Path:
    """The body a run uses: SMPL in the data folder if it is there, else the open body."""
    if data_dir is not None:
        for name in ("SMPL_NEUTRAL.pkl", "SMPL_NEUTRAL.npz"):
            if (data_dir / name).is_file():
                return data_dir / name
    return OPEN_BODY


def load_body(path: Path | None = None) -> BodyData:
    """Reads a body model. Without a path, the open body.

    SMPL's own files lack three things, looked for beside them under their published names: J_regressor_extra.npy,
    J_regressor_h36m.npy, and the keypoint vertices, which smplx knows. Raises BodyFileError on anything else.
    """
    file = OPEN_BODY if path is None else Path(path)
    raw = read_array_pickle(file) if file.suffix == ".pkl" else read_npz(file)
    try:
        return _from_arrays(file, raw)
    except KeyError as missing:
        raise BodyFileError(f"{file}: has no {missing}; expected a body model of SMPL's format") from None


def read_npz(file: Path) -> Mapping[str, Any]:
    """All arrays of an .npz, none of them pickled. BodyFileError if it is missing or damaged."""
    if not file.is_file():
        raise BodyFileError(f"{file}: no such file")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BodyFileError(f"{file}: not a readable .npz of plain arrays ({error})") from error


def _beside(file: Path, name: str, rows: int, vertices: int) -> np.ndarray:
    """A published regressor that lies next to an SMPL file."""
    path = file.parent / name
    if not path.is_file():
        raise BodyFileError(f"{file.name} needs {path}, which SPIN's data archive holds; put it there")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BodyFileError(f"{path}: not a readable .npy ({error})") from error
    return _checked(path, name, array, (rows, vertices))


def _checked(file: Path, name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    out = np.asarray(array, np.float64)
    if out.shape != shape:
        raise BodyFileError(f"{file}: {name} has shape {out.shape}, expected {shape}")
    if not np.isfinite(out).all():
        raise BodyFileError(f"{file}: {name} holds values that are not numbers")
    return out


def _from_arrays(file: Path, raw: Mapping[str, Any]) -> BodyData:
    vertices = len(raw["v_template"])
    parents = tuple(int(p) for p in np.asarray(raw["kintree_table"])[0].astype(np.int64))
    if len(parents) != len(SMPL_NAMES):
        raise BodyFileError(f"{file}: has {len(parents)} joints, expected {len(SMPL_NAMES)}; SMPL-H and SMPL-X don't fit")
    if any(not 0 <= parent < joint for joint, parent in enumerate(parents) if joint):
        raise BodyFileError(f"{file}: kintree_table is no tree with each parent before its children: {parents}")
    shapedirs = np.asarray(raw["shapedirs"], np.float64)[..., :10]
    posedirs = raw.get("posedirs")
    if "vertex_ids" in raw:
        ids = dict(zip(np.asarray(raw["vertex_id_names"]).tolist(), np.asarray(raw["vertex_ids"]).tolist()))
    else:
        ids = SMPLX_VERTEX_IDS["smplh"]
    extra, h36m = raw.get("J_regressor_extra"), raw.get("J_regressor_h36m")
    if extra is None:
        extra = _beside(file, "J_regressor_extra.npy", len(EXTRA_NAMES), vertices)
    if h36m is None:
        h36m = _beside(file, "J_regressor_h36m.npy", len(H36M_NAMES), vertices)
    keypoint_vertices = np.array([ids[n] for n in FACE_AND_FEET], np.int64)
    faces = np.asarray(raw["f"]).astype(np.int64)
    named = np.concatenate([faces.ravel(), keypoint_vertices])
    if named.min() < 0 or named.max() >= vertices:
        raise BodyFileError(f"{file}: faces or keypoints name a vertex beyond the {vertices} there are")
    return BodyData(
        name=str(raw["name"]) if "name" in raw else file.stem,
        v_template=_checked(file, "v_template", raw["v_template"], (vertices, 3)),
        shapedirs=_checked(file, "shapedirs", shapedirs, (vertices, 3, 10)),
        posedirs=None if posedirs is None else _checked(file, "posedirs", posedirs, (vertices, 3, 207)),
        joint_regressor=_checked(file, "J_regressor", raw["J_regressor"], (24, vertices)),
        extra_regressor=_checked(file, "J_regressor_extra", extra, (len(EXTRA_NAMES), vertices)),
        h36m_regressor=_checked(file, "J_regressor_h36m", h36m, (len(H36M_NAMES), vertices)),
        skin_weights=_checked(file, "weights", raw["weights"], (vertices, 24)),
        parents=(-1, *parents[1:]),
        faces=faces,
        keypoint_vertices=keypoint_vertices,
    )
