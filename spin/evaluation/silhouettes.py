"""A body's mask and parts in the image: ray-cast in the crop's 224 px, then enlarged to the image as in SPIN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.camera import CROP_PX
from spin.errors import KeypointError
from spin.evaluation.body_parts import SurfaceParts
from spin.rendering.raycast import Mesh, Pinhole, Scene

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_LARGEST_BOX_PX = 1_000_000
RASTER = f"{CROP_PX} × {CROP_PX} px over the crop, a ray through each pixel's centre; nearest neighbour to the image"


@dataclass(frozen=True)
class Silhouette:
    """What is visible at the centre of each pixel of the crop: the body (1), and its part 1 to 6; 0 is background."""

    mask: UInt8[np.ndarray, "224 224"]
    part: UInt8[np.ndarray, "224 224"]


def silhouette(
    vertices_cam_m: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    parts: SurfaceParts,
    *,
    focal_px: float,
    principal_px: tuple[float, float],
) -> Silhouette:
    """Cast one body, in the frame of the crop's camera. MeshError if the mesh is invalid or not finite."""
    camera = Pinhole(focal_px, principal_px, CROP_PX, CROP_PX)
    scene = Scene([Mesh(vertices_cam_m, faces)])
    mask, part = np.zeros((2, CROP_PX, CROP_PX), np.uint8)
    window = scene.window(camera)
    if not window.empty:
        hits = scene.cast(camera, window=window)
        met = hits.any
        mask[window.slices] = met
        part[window.slices][met] = parts.labels(hits.face[met], hits.barycentric[met])
    return Silhouette(mask, part)


def to_image(
    labels: UInt8[np.ndarray, "P P"],
    center_px: Float[np.ndarray, "2"],
    scale: float,
    size: tuple[int, int],
) -> UInt8[np.ndarray, "H W"]:
    """Return a crop's labels in an image of `size` (height, width), 0 outside the crop.

    As published (SPIN's `uncrop`): the box's corners are cut to whole pixels towards 0, and each pixel of the image takes the
    label of the crop's pixel that contains its centre. KeypointError if the box is larger than a million pixels.
    """
    out = np.zeros(size, np.uint8)
    side = 200.0 * scale
    (left, right), (top, bottom) = (_corners(float(c), side, len(labels)) for c in center_px)
    if right <= left or bottom <= top:
        return out
    rows, columns = (
        np.arange(max(0, low), max(0, low, min(high, limit)))
        for low, high, limit in ((top, bottom, size[0]), (left, right, size[1]))
    )
    across, down = (_nearest(high - low, len(labels)) for low, high in ((left, right), (top, bottom)))
    out[rows[:, None], columns] = labels[down[rows - top][:, None], across[columns - left]]
    return out


def _corners(center: float, side: float, crop_px: int) -> tuple[int, int]:
    """Return the first pixel of the box and the one after its last, rounded like the published matrix inverse."""
    matrix = np.diag([crop_px / side, crop_px / side, 1.0])
    matrix[:2, 2] = crop_px * (-center / side + 0.5)
    back = np.linalg.inv(matrix)
    first, last = (int((back @ [at, at, 1.0])[0]) for at in (0.0, float(crop_px)))
    return first, last


def _nearest(count: int, of: int) -> Int[np.ndarray, " n"]:
    """Return which of `of` pixels each of `count` takes. The sums are those of Pillow's resize: some centres are on an edge."""
    step = of / count
    if count > _LARGEST_BOX_PX:
        raise KeypointError(f"its box is {count} px wide or high; expected at most {_LARGEST_BOX_PX}")
    return np.cumsum(np.r_[step / 2, np.full(count - 1, step)]).astype(int)
