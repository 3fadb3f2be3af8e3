"""Anti-aliased pictures of a scene: smooth normals, directional over ambient light."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spin.rendering.raycast import Hits, Mesh, MeshError, Pinhole, Scene

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# A step in depth between neighbouring pixels of one mesh that is an outline, such as an arm before a chest.
_OUTLINE_STEP_M = 0.03


@dataclass(frozen=True)
class Light:
    """Where light comes from (camera frame, any length), how much, and how much comes from everywhere."""

    toward: tuple[float, float, float] = (0.35, -0.6, -1.0)
    directional: float = 0.62
    ambient: float = 0.40


@dataclass(frozen=True)
class Render:
    """Colour, weighted by coverage, and coverage (RGBA); the mesh at each pixel's centre, or -1."""

    rgba: Float[np.ndarray, "H W 4"]
    mesh: Int[np.ndarray, "H W"]


def vertex_normals(mesh: Mesh) -> Float[np.ndarray, "V 3"]:
    """Unit normals out of the volume that the mesh encloses, whichever way its faces wind.

    Faces weigh by area. Zero where a vertex has no face of any area.
    """
    v = np.asarray(mesh.vertices_cam_m, np.float64)
    v = v - v.mean(0)
    a, b, c = np.moveaxis(v[mesh.faces], 1, 0)
    face_normal = np.cross(b - a, c - a)
    signed_volume = np.einsum("fi,fi->", a, face_normal)
    total = np.zeros_like(v)
    for corner in range(3):
        np.add.at(total, mesh.faces[:, corner], face_normal)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(signed_volume < 0, -1, 1) * total / np.where(length > 0, length, 1)


def lambert(normals: Float[np.ndarray, "n 3"], light: Light) -> Float[np.ndarray, " n"]:
    """Brightness of surfaces whose (interpolated, so not quite unit) normals are given."""
    toward = np.asarray(light.toward, np.float64)
    length = np.maximum(np.linalg.norm(normals, axis=1), 1e-9)
    cosine = normals @ (toward / np.linalg.norm(toward)) / length
    return light.ambient + light.directional * np.clip(cosine, 0, 1)


def _outlines(hits: Hits) -> Bool[np.ndarray, "h w"]:
    """Pixels in whose 3 × 3 neighbourhood the mesh changes or the depth steps."""
    box = np.ones((3, 3), np.uint8)
    # the window ends where the meshes do: beyond it there is nothing
    mesh = np.pad(hits.mesh.astype(np.int16), 1, constant_values=-1)
    depth = np.where(hits.any, hits.depth_m, 0).astype(np.float32)
    step = cv2.dilate(depth, box) - cv2.erode(depth, box)
    changes = cv2.dilate(mesh, box) != cv2.erode(mesh, box)
    return changes[1:-1, 1:-1] | (step > _OUTLINE_STEP_M)


def render(scene: Scene, camera: Pinhole, shade: Callable[[Hits], Float[np.ndarray, "n 3"]], *, samples: int = 3) -> Render:
    """A scene coloured by `shade`, anti-aliased.

    `shade` gives the colour of every hit (a row for every True of `hits.any`). Outlines get
    samples² rays a pixel, the rest one: inside them colour changes slowly.
    """
    rgba = np.zeros((camera.height, camera.width, 4), np.float32)
    mesh = np.full((camera.height, camera.width), -1, np.int32)
    window = scene.window(camera)
    if window.empty:
        return Render(rgba, mesh)
    hits = scene.cast(camera, window=window)
    mesh[window.slices] = hits.mesh
    view = rgba[window.slices]
    view[hits.any, :3] = shade(hits)
    view[hits.any, 3] = 1
    rows, columns = np.nonzero(_outlines(hits))
    if samples > 1 and len(rows):
        offsets = camera.grid(type(window)(0, 0, 1, 1), samples).reshape(1, -1, 2)
        corner = np.stack([columns + window.left, rows + window.top], -1)[:, None]
        fine = scene.trace(np.zeros(3), camera.directions(corner + offsets))
        colour = np.zeros((*fine.mesh.shape, 4), np.float32)
        colour[fine.any, :3] = shade(fine)
        colour[fine.any, 3] = 1
        view[rows, columns] = colour.mean(1)
    return Render(rgba, mesh)


def render_shaded(
    meshes: Sequence[Mesh],
    camera: Pinhole,
    *,
    colours: Sequence[Float[np.ndarray, "*V 3"]],
    light: Light | None = None,
    samples: int = 3,
) -> Render:
    """Meshes under a light; colours 0 to 1.

    `colours` holds an array a mesh: (V, 3), one a vertex, or (3,) for all. Nearer meshes hide farther ones.
    """
    if len(colours) != len(meshes):
        raise MeshError(f"rendering: {len(colours)} colours for {len(meshes)} meshes; give one a mesh")
    scene = Scene(meshes)
    table = [
        np.concatenate([np.broadcast_to(c, m.vertices_cam_m.shape), vertex_normals(m)], 1)
        for c, m in zip(colours, scene.meshes)
    ]

    def shade(hits: Hits) -> np.ndarray:
        values = scene.interpolate(hits, table)
        return np.clip(values[:, :3] * lambert(values[:, 3:], light or Light())[:, None], 0, 1)

    return render(scene, camera, shade, samples=samples)
