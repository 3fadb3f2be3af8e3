"""Bodies over a photograph, and from the side on white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spin.rendering.raycast import Mesh, MeshError, Pinhole
from spin.rendering.shading import render_shaded

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

# Told apart by hue and by lightness, on photographs and on white (RGB, 0 to 1).
PALETTE = ((0.65, 0.78, 0.90), (0.95, 0.70, 0.60), (0.70, 0.85, 0.62), (0.88, 0.76, 0.93), (0.96, 0.87, 0.58))


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    vertices_cam_m: Sequence[Float[np.ndarray, "V 3"]],
    faces: Int[np.ndarray, "F 3"],
    *,
    focal_px: float,
    center_px: tuple[float, float],
    colours: Sequence[tuple[float, float, float]] = PALETTE,
    alpha: float = 0.9,
) -> UInt8[np.ndarray, "H W 3"]:
    """Bodies over an image, at its resolution, the nearer in front, each in the next of `colours`.

    `alpha` is the opacity; 1 hides what is beneath. A body behind the camera or off the image is not seen.
    MeshError on an image that is not (H, W, 3) of 8 bits, or an opacity outside 0 to 1.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise MeshError(f"overlay: image of shape {image.shape} and {image.dtype}; expected (H, W, 3) uint8")
    if not 0 <= alpha <= 1:
        raise MeshError(f"overlay: opacity {alpha}; expected 0 to 1")
    camera = Pinhole(focal_px, (float(center_px[0]), float(center_px[1])), image.shape[1], image.shape[0])
    meshes = [Mesh(v, faces) for v in vertices_cam_m]
    chosen = [np.asarray(colours[i % len(colours)]) for i in range(len(meshes))]
    rgba = render_shaded(meshes, camera, colours=chosen).rgba
    blended = image * (1 - alpha * rgba[..., 3:]) + 255 * alpha * rgba[..., :3]
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8)


def side_view(
    vertices_cam_m: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    *,
    focal_px: float,
    center_px: tuple[float, float],
    width: int,
    height: int,
    colour: tuple[float, float, float] = PALETTE[0],
    angle_deg: float = 90.0,
) -> UInt8[np.ndarray, "H W 3"]:
    """The body turned about the vertical through its centre, on white: the depth a front view hides."""
    v = np.asarray(vertices_cam_m, np.float64)
    centre = (v.min(0) + v.max(0)) / 2
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    turned = (v - centre) @ turn.T + centre
    white = np.full((height, width, 3), 255, np.uint8)
    return overlay(white, [turned], faces, focal_px=focal_px, center_px=center_px, colours=(colour,), alpha=1.0)
