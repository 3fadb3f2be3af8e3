"""The body part of each point of the surface: one of six, with UPi-S1h's labels.

Parts come from the body's skinning weights, or from SPIN's vertex_texture.npy and cube_parts.npy where they are present: a
colour for every point of every face, and a label for every colour.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from spin.errors import BodyFileError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    from spin.body import BodyData

PARTS = ("head", "torso", "right arm", "left arm", "right leg", "left leg")
"""Labels 1 to 6; 0 is the background."""
TEXTURE_FILE, CUBE_FILE = "vertex_texture.npy", "cube_parts.npy"
_COLOURS = 100  # steps of a colour in the cube


class SurfaceParts(Protocol):
    """Labels of points on a mesh's faces."""

    source: str  # for protocol cards

    def labels(self, face: Int[np.ndarray, " n"], barycentric: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, " n"]:
        """Return labels 1 to 6, and 0 where the surface has no part. `barycentric`: the weights of each face's corners."""
        ...


class SkinnedParts:
    """Gives a point the part of the face's nearest corner: the part whose bones move that vertex most."""

    source = "skinning weights (nearest vertex)"

    def __init__(self, body: BodyData) -> None:
        label = np.array([1 + PARTS.index(name) for name in body.part_names], np.uint8)
        self._of_corner = label[body.vertex_part][np.asarray(body.faces)]

    def labels(self, face: Int[np.ndarray, " n"], barycentric: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, " n"]:
        return self._of_corner[face, barycentric.argmax(1)]


class TexturedParts:
    """SPIN's parts: a face's colours are blended, and the blend is looked up, as its renderer does (Kato et al., CVPR 2018).

    A texture is (F, T, T, T, 3): for each face, colours in [0, 1] over the three barycentric weights. The cube is
    (101, 101, 101) or larger: a label for each colour in steps of 0.01.
    """

    def __init__(self, texture: Float[np.ndarray, "F T T T 3"], cube: UInt8[np.ndarray, "C C C"]) -> None:
        self._texture, self._cube = np.asarray(texture, np.float32), np.asarray(cube, np.uint8)
        content = hashlib.sha256(self._texture.tobytes() + self._cube.tobytes()).hexdigest()
        self.source = f"{TEXTURE_FILE} and {CUBE_FILE}, sha256 {content[:12]}"

    def labels(self, face: Int[np.ndarray, " n"], barycentric: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, " n"]:
        last = self._texture.shape[1] - 1
        position = np.clip(np.asarray(barycentric, np.float32) * last, 0, last)
        low = np.minimum(position.astype(int), max(last - 1, 0))
        share = position - low
        colour = np.zeros((len(face), 3), np.float32)
        for corner in np.ndindex(2, 2, 2):
            weight = np.where(corner, share, 1 - share).prod(1)
            x, y, z = np.minimum(low + corner, last).T
            colour += weight[:, None] * self._texture[face, x, y, z]
        return self._cube[tuple(np.floor(_COLOURS * colour).astype(int).T)]


def surface_parts(body: BodyData, folder: Path | None) -> SurfaceParts:
    """Return SPIN's parts if its files are in the folder, else those of the body. BodyFileError if they do not fit the body."""
    files = [] if folder is None else [folder / TEXTURE_FILE, folder / CUBE_FILE]
    present = [file for file in files if file.is_file()]
    if not present:
        return SkinnedParts(body)
    if len(present) == 1:
        missing = next(file for file in files if file not in present)
        raise BodyFileError(f"{present[0]} exists, but {missing} does not; body parts need both files, or neither")
    texture, cube = (_read(file) for file in files)
    texture = texture[0] if texture.ndim == 6 and len(texture) == 1 else texture
    side = texture.shape[1] if texture.ndim == 5 else 0
    if texture.shape != (len(body.faces), side, side, side, 3) or not side:
        raise BodyFileError(
            f"{files[0]}: has shape {texture.shape}, expected ({len(body.faces)}, T, T, T, 3) for the faces of {body.name}"
        )
    if not (np.isfinite(texture).all() and texture.min() >= 0 and texture.max() <= 1):
        raise BodyFileError(f"{files[0]}: has values that are not colours, expected 0 to 1")
    if cube.ndim != 3 or min(cube.shape) <= _COLOURS or not np.isin(cube, range(len(PARTS) + 1)).all():
        raise BodyFileError(
            f"{files[1]}: has shape {cube.shape}, values {cube.min()} to {cube.max()}; expected (101, 101, 101), labels 0 to 6"
        )
    return TexturedParts(texture, cube)


def _read(file: Path) -> np.ndarray:
    try:
        out = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BodyFileError(f"{file}: not a readable .npy ({error})") from error
    if not isinstance(out, np.ndarray) or out.dtype.kind not in "fiub" or not out.size:
        raise BodyFileError(f"{file}: not an array of numbers")
    return out
