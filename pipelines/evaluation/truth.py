"""The truth about a data set's people: joints, bodies, masks and parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from pipelines.errors import StageError
from pipelines.folders import DataFolder
from spin.body import BodyMesh
from spin.body.choice import find_gendered
from spin.body.mesh import MeshOutput
from spin.body.model_file import OPEN_BODY
from spin.errors import ImageError
from spin.joints import JOINTS
from store.annotations.table import Annotations

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

PosedTruth = tuple["Int[np.ndarray, ' k']", MeshOutput]
"""Indices into a list of rows, and the posed bodies at these."""
_OF_SUPERSET = np.array(JOINTS.h36m) - JOINTS.superset.start


@dataclass(frozen=True)
class Known:
    """For each kind of truth, the rows for which it is known."""

    joints: Bool[np.ndarray, " n"]  # given by the data set itself
    body: Bool[np.ndarray, " n"]
    mask: Bool[np.ndarray, " n"]
    part: Bool[np.ndarray, " n"]

    @property
    def pose(self) -> Bool[np.ndarray, " n"]:
        return self.joints | self.body

    @property
    def any(self) -> Bool[np.ndarray, " n"]:
        return self.pose | self.mask | self.part


def known(annotations: Annotations) -> Known:
    a = annotations
    superset = a.has_joints3d & (a.joints3d_m[:, _OF_SUPERSET, 3] > 0).all(1)
    mask, part = (np.array([bool(path) for path in paths], bool) for paths in (a.mask, a.part))
    return Known(a.has_joints17 | superset, a.has_smpl, mask, part)


def given_joints(annotations: Annotations, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 17 3"]:
    """Return Human3.6M's joints that the data set itself gives (m), NaN where it gives none."""
    a = annotations
    out = np.full((len(rows), 17, 3), np.nan)
    own, superset = a.has_joints17[rows], known(a).joints[rows] & ~a.has_joints17[rows]
    out[own] = a.joints17_m[rows[own]]
    out[superset] = a.joints3d_m[rows[superset]][:, _OF_SUPERSET, :3]
    return out


def truth_hashes(annotations: Annotations, rows: Int[np.ndarray, " n"], pictures: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return a hash of the truth of these rows as it was read, for each kind that is known.

    `pictures`: for each row a hash of its mask and of its parts, '' where there is none.
    """
    a, has = annotations, known(annotations)
    bodies = has.body[rows]
    genders = "\n".join(a.gender[row] for row in rows[bodies]).encode()
    masks, parts = ("\n".join(names).encode() for names in zip(*pictures))
    found = {
        "joints": (has.joints, given_joints(a, rows).astype("<f4").tobytes()),
        "bodies": (has.body, bodies.tobytes() + _bytes(a.pose[rows[bodies]], a.betas[rows[bodies]]) + genders),
        "masks": (has.mask, masks),
        "parts": (has.part, parts),
    }
    return {kind: short_hash(content) for kind, (there, content) in found.items() if there[rows].any()}


def _bytes(*arrays: np.ndarray) -> bytes:
    return b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)


def short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def true_body_files(data: DataFolder, annotations: Annotations, *, neutral: bool) -> dict[str, Path]:
    """Return for each gender the body file that the rows' pose and betas belong to.

    3DPW's bodies are SMPL's female and male ones. StageError if a needed one is not in the data folder, BodyFileError if it
    can't be used. With `neutral`, the body in use is taken instead. The open body has no genders.
    """
    genders = {g for g, has in zip(annotations.gender, annotations.has_smpl) if has}
    files = dict.fromkeys(genders, data.body)
    if data.body == OPEN_BODY or neutral:
        return files
    for gender in genders & {"female", "male"}:
        found = find_gendered(data.root, gender)
        if found is None:
            raise StageError(
                f"data set {annotations.name}: its true bodies are {gender} ones; put SMPL_{gender.upper()}.pkl into "
                f"{data.root}, or use the neutral body with --truth-gender neutral, which gives other numbers"
            )
        files[gender] = found
    return files


class Truth:
    """Looks up the truth. `bodies`: for each gender, the body that true poses are applied to, on the device."""

    def __init__(self, annotations: Annotations, bodies: dict[str, BodyMesh], device: torch.device) -> None:
        self.annotations, self.known, self.device = annotations, known(annotations), device
        self.bodies_of = bodies

    def joints17_m(self, rows: Int[np.ndarray, " n"], bodies: list[PosedTruth]) -> Float[np.ndarray, "n 17 3"]:
        """Return Human3.6M's joints: the data set's own, else those of the true `bodies`. NaN where neither is known."""
        out = given_joints(self.annotations, rows)
        for at, posed in bodies:
            regressed = ~self.known.joints[rows[at]]
            out[at[regressed]] = posed.joints17_m.cpu().numpy()[regressed]
        return out

    def bodies(self, rows: Int[np.ndarray, " n"]) -> list[PosedTruth]:
        """Return the known true bodies, one entry for each gender."""
        a, out = self.annotations, []
        for gender, mesh in self.bodies_of.items():
            at = np.flatnonzero([self.known.body[row] and a.gender[row] == gender for row in rows])
            if len(at):
                arrays = (torch.from_numpy(x[rows[at]]).to(self.device) for x in (a.pose, a.betas))
                with torch.inference_mode():
                    out.append((at, mesh(*arrays)))
        return out

    def mask(self, row: int) -> UInt8[np.ndarray, "H W"]:
        """Return the mask, 1 inside the person. ImageError if the picture cannot be read."""
        return (self._picture(self.annotations.mask[row]) > 0).astype(np.uint8)

    def part(self, row: int) -> UInt8[np.ndarray, "H W"]:
        """Return part labels 0 to 6, 255 for undecided. ImageError if the picture cannot be read."""
        return self._picture(self.annotations.part[row])

    def _picture(self, name: str) -> UInt8[np.ndarray, "H W"]:
        path = Path(self.annotations.image_root) / name
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
        if picture is None:
            raise ImageError(f"picture {path}: can't be read; check the data set's image root (--root)")
        return picture
