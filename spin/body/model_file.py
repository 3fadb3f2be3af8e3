"""Body-model files of SMPL's format: the open body shipped here, SMPL's own .pkl, or an .npz of the same arrays."""

from __future__ import annotations

import hashlib
import re
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

BODY_ENDINGS = (".pkl", ".npz")
PUBLISHED_REGRESSORS = ("J_regressor_extra.npy", "J_regressor_h36m.npy")
_ORIGINAL = re.compile(r"(?:smpl_|basicmodel_)(neutral|female|male|f|m)(?:_lbs_10_207_0_v[\d.]+)?", re.IGNORECASE)
_GENDERS = {"f": "FEMALE", "m": "MALE"}

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
        """Return name and hash of all arrays: fits mean the same on two bodies with the same fingerprint."""
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


def name_of(file: Path) -> str:
    """Return the name of the body in a file: SMPL_NEUTRAL for SMPL's under any of its names, else the file's own name."""
    found = _ORIGINAL.fullmatch(file.stem)
    return file.stem if found is None else f"SMPL_{_GENDERS.get(found[1].lower(), found[1].upper())}"


def is_smpl_folder(folder: Path) -> bool:
    """Return whether a folder has a name of SPIN's folder for SMPL (`smpl`), or of SMPL's downloads as they are unpacked."""
    return "smpl" in folder.name.lower() or folder.name in ("code", "models")


def published_files(file: Path) -> list[Path]:
    """Return where the regressors that go with an SMPL file may be: in its folder, or above the folders of SMPL's."""
    folders = [file.parent]
    while is_smpl_folder(folders[-1]):
        folders.append(folders[-1].parent)
    return [folder / name for name in PUBLISHED_REGRESSORS for folder in folders]


def load_body(path: Path | None = None) -> BodyData:
    """Read a body model. Without a path, the open body.

    SMPL's own files lack three things: J_regressor_extra.npy and J_regressor_h36m.npy, looked for in their folder and in the
    data folder, and the keypoint vertices, which smplx knows. Raises BodyFileError on anything else.
    """
    file = OPEN_BODY if path is None else Path(path)
    raw = read_array_pickle(file) if file.suffix.lower() == ".pkl" else read_npz(file)
    try:
        return _from_arrays(file, raw)
    except BodyFileError:
        raise
    except KeyError as missing:
        raise BodyFileError(f"{file}: has no {missing}; expected a body model of SMPL's format") from None
    except (TypeError, ValueError, IndexError, OverflowError) as error:  # of arrays that are something else
        raise BodyFileError(f"{file}: not a body model ({error}); expected SMPL's format") from error


def read_npz(file: Path) -> Mapping[str, Any]:
    """Return all arrays of an .npz, none of them pickled. Raise BodyFileError if it is missing or damaged."""
    if not file.is_file():
        raise BodyFileError(f"{file}: no such file")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BodyFileError(f"{file}: not a readable .npz of plain arrays ({error})") from error


def _published(file: Path, name: str, rows: int, vertices: int) -> np.ndarray:
    """Return a published regressor that goes with an SMPL file."""
    places = [path for path in published_files(file) if path.name == name]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise BodyFileError(f"{file.name} needs {places[-1]}, which SPIN's data archive holds; put it there")
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
        extra = _published(file, "J_regressor_extra.npy", len(EXTRA_NAMES), vertices)
    if h36m is None:
        h36m = _published(file, "J_regressor_h36m.npy", len(H36M_NAMES), vertices)
    keypoint_vertices = np.array([ids[n] for n in FACE_AND_FEET], np.int64)
    faces = np.asarray(raw["f"]).astype(np.int64)
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise BodyFileError(f"{file}: f has shape {faces.shape}, expected (faces, 3)")
    named = np.concatenate([faces.ravel(), keypoint_vertices])
    if named.min() < 0 or named.max() >= vertices:
        raise BodyFileError(f"{file}: faces or keypoints name a vertex beyond the {vertices} there are")
    return BodyData(
        name=str(raw["name"]) if "name" in raw else name_of(file),
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
