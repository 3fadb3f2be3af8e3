"""Triangle meshes seen through a pinhole, one ray a sample, on the CPU (embree); no OpenGL, no display.

Camera frame: x right, y down, z away, metres, the eye at the origin. The pixel of column i and row j covers
[i, i+1) × [j, j+1), as in crop coordinates, so its centre is at (i + 0.5, j + 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from spin.errors import SpinError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# Nothing nearer than this to the eye's plane is projected: its pixel would be arbitrarily far off.
_NEAR_M = 1e-3


class MeshError(SpinError, ValueError):
    """A mesh or a camera that can't be rendered: wrong shapes, not numbers, faces that name no vertex."""


class Window(NamedTuple):
    """A rectangle of whole pixels: columns left to right - 1, rows top to bottom - 1."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def empty(self) -> bool:
        return self.right <= self.left or self.bottom <= self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an image with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Pinhole:
    """A camera without skew or distortion: pixel = focal_px * (x, y) / z + center_px."""

    focal_px: float
    center_px: tuple[float, float]
    width: int
    height: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.focal_px) and self.focal_px > 0 and np.all(np.isfinite(self.center_px))):
            raise MeshError(
                f"camera: focal length {self.focal_px} px and centre {self.center_px} px; expected finite "
                "numbers and a focal length above 0"
            )

    @property
    def whole(self) -> Window:
        return Window(0, 0, self.width, self.height)

    def project(self, points_cam_m: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
        """Pixels of points in front of the camera."""
        p = np.asarray(points_cam_m, np.float64)
        return self.focal_px * p[..., :2] / p[..., 2:] + np.asarray(self.center_px, np.float64)

    def directions(self, pixels: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 3"]:
        """Ray through each image point (float32), scaled to z = 1: the ray's parameter is depth in metres."""
        out = np.ones((*pixels.shape[:-1], 3), np.float32)
        out[..., :2] = (pixels - np.asarray(self.center_px)) / self.focal_px
        return out

    def grid(self, window: Window, samples: int = 1) -> Float[np.ndarray, "h w 2"]:
        """Image points of a window's samples² rays a pixel, evenly spread; 1 is the pixel's centre."""
        x = window.left + (np.arange((window.right - window.left) * samples) + 0.5) / samples
        y = window.top + (np.arange((window.bottom - window.top) * samples) + 0.5) / samples
        return np.stack(np.meshgrid(x, y), -1)


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the camera frame: vertices (V, 3) in metres and faces (F, 3)."""

    vertices_cam_m: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]

    def __post_init__(self) -> None:
        v, f = np.asarray(self.vertices_cam_m), np.asarray(self.faces)
        if v.ndim != 2 or v.shape[1] != 3 or f.ndim != 2 or f.shape[1] != 3:
            raise MeshError(f"mesh: vertices {v.shape} and faces {f.shape}; expected (V, 3) and (F, 3)")
        if not np.isfinite(v).all():
            raise MeshError(f"mesh: {int((~np.isfinite(v)).any(1).sum())} of {len(v)} vertices are not finite numbers")
        if f.size and (f.min() < 0 or f.max() >= len(v)):
            raise MeshError(f"mesh: faces name vertices {f.min()} to {f.max()}; expected 0 to {len(v) - 1}")


@dataclass(frozen=True)
class Hits:
    """The first surface each ray meets; where there is none, `mesh` and `face` are -1, `depth_m` infinite.

    `barycentric` weighs the face's three corners in the order the face names them.
    """

    mesh: Int[np.ndarray, "*n"]
    face: Int[np.ndarray, "*n"]
    depth_m: Float[np.ndarray, "*n"]
    barycentric: Float[np.ndarray, "*n 3"]

    @property
    def any(self) -> Bool[np.ndarray, "*n"]:
        """Where a ray meets a mesh."""
        return self.mesh >= 0


class Scene:
    """Meshes that rays are cast at; built once, cast many times."""

    def __init__(self, meshes: Sequence[Mesh]) -> None:
        self.meshes = tuple(meshes)
        # Robust intersection: no ray slips through the edge between two faces.
        self._embree = EmbreeScene(robust=True)
        self._geometries = [
            TriangleMesh(
                self._embree,
                np.ascontiguousarray(m.vertices_cam_m, np.float32),
                np.ascontiguousarray(m.faces, np.int32),
            )
            for m in self.meshes
            if len(m.faces)
        ]
        # embree numbers only what it was given; meshes without faces are left out
        self._mesh_of_geometry = np.array([i for i, m in enumerate(self.meshes) if len(m.faces)], np.int32)

    def window(self, camera: Pinhole) -> Window:
        """The image's pixels that any mesh can touch; empty if all are behind the camera or off the image."""
        boxes = []
        for mesh in self.meshes:
            used = np.asarray(mesh.vertices_cam_m)[np.unique(mesh.faces)]
            if not len(used) or used[:, 2].max() <= _NEAR_M:
                continue
            if used[:, 2].min() <= _NEAR_M:
                return camera.whole
            pixels = camera.project(used)
            boxes.append(np.concatenate([pixels.min(0), pixels.max(0)]))
        if not boxes:
            return Window(0, 0, 0, 0)
        corners = np.stack(boxes)
        size = np.array([camera.width, camera.height])
        low = np.clip(np.floor(corners[:, :2].min(0)), 0, size).astype(int)
        high = np.clip(np.ceil(corners[:, 2:].max(0)), 0, size).astype(int)
        return Window(int(low[0]), int(low[1]), int(high[0]), int(high[1]))

    def cast(self, camera: Pinhole, *, window: Window | None = None, samples: int = 1) -> Hits:
        """What samples² rays a pixel meet: arrays of (height × samples, width × samples) of the window."""
        points = camera.grid(camera.whole if window is None else window, samples)
        return self.trace(np.zeros(3, np.float32), camera.directions(points))

    def trace(self, origins_m: Float[np.ndarray, "*n 3"], directions: Float[np.ndarray, "*n 3"]) -> Hits:
        """The first surface along each ray; `depth_m` counts lengths of the direction."""
        shape = directions.shape[:-1]
        count = int(np.prod(shape))
        if not self._geometries or not count:
            none = np.full(shape, -1, np.int32)
            return Hits(none, none.copy(), np.full(shape, np.inf, np.float32), np.zeros((*shape, 3), np.float32))
        out = self._embree.run(*_rays(origins_m, directions), output=True)
        face = out["primID"].astype(np.int32)
        met = np.flatnonzero(face >= 0)
        mesh = np.full(count, -1, np.int32)
        mesh[met] = self._mesh_of_geometry[out["geomID"][met]]
        depth = np.full(count, np.inf, np.float32)
        depth[met] = out["tfar"][met]
        barycentric = np.zeros((count, 3), np.float32)
        u, v = out["u"][met], out["v"][met]
        barycentric[met] = np.stack([1 - u - v, u, v], -1)
        return Hits(mesh.reshape(shape), face.reshape(shape), depth.reshape(shape), barycentric.reshape(*shape, 3))

    def blocked(self, origins_m: Float[np.ndarray, "*n 3"], directions: Float[np.ndarray, "*n 3"]) -> Bool[np.ndarray, "*n"]:
        """Whether anything lies along each ray, however far: shadows."""
        shape = directions.shape[:-1]
        if not self._geometries or not int(np.prod(shape)):
            return np.zeros(shape, bool)
        return (self._embree.run(*_rays(origins_m, directions), query="OCCLUDED") >= 0).reshape(shape)

    def interpolate(self, hits: Hits, values: Sequence[Float[np.ndarray, "V C"]]) -> Float[np.ndarray, "n C"]:
        """Per-vertex values, one array a mesh, at each hit: a row for every True of `hits.any`."""
        met = hits.any
        mesh, face, weight = hits.mesh[met], hits.face[met], hits.barycentric[met]
        first = np.cumsum([0] + [len(m.vertices_cam_m) for m in self.meshes])
        corners = np.zeros((len(face), 3), np.int64)
        for i, m in enumerate(self.meshes):
            of_mesh = mesh == i
            corners[of_mesh] = np.asarray(m.faces, np.int64)[face[of_mesh]] + first[i]
        table = np.concatenate([np.asarray(v, np.float32) for v in values])
        return sum(weight[:, k : k + 1] * table[corners[:, k]] for k in range(3))


def _rays(origins_m: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays as embree takes them: two contiguous float32 (n, 3) arrays."""
    d = np.ascontiguousarray(directions, np.float32).reshape(-1, 3)
    o = np.broadcast_to(np.asarray(origins_m, np.float32), directions.shape).reshape(-1, 3)
    return np.ascontiguousarray(o), d


def render_mask(scene: Scene, camera: Pinhole) -> Int[np.ndarray, "H W"]:
    """Index of the mesh seen at each pixel's centre, -1 for none."""
    window = scene.window(camera)
    mask = np.full((camera.height, camera.width), -1, np.int32)
    if not window.empty:
        mask[window.slices] = scene.cast(camera, window=window).mesh
    return mask
