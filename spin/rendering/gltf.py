"""Bodies as meshes for other programs: glTF 2.0 binary (.glb) with a skeleton, posed or animated; and plain .obj.

A glTF body is the person's own rest mesh, the 24 joints as nodes, and the skin that ties them: viewers and animation programs
pose it further. A skin holds four weights a vertex and no pose blend shapes, so the mesh that a viewer poses differs a
little from the body's own; docs/formats.md says by how much. An .obj holds the posed vertices themselves.

Camera frames here have y down and z away, glTF and .obj have y up and z to the viewer: bodies are turned by 180°
about x. In a glTF scene the first person's pelvis is at the origin, which viewers look at, and the photograph's camera is a
node. In an .obj the camera is the origin.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spin.camera import CROP_PX, FOCAL_PX
from spin.errors import SpinError
from spin.joints import SMPL_NAMES
from spin.rendering.raycast import Mesh
from spin.rendering.shading import vertex_normals

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from spin.body import BodyData

ENDINGS = (".glb", ".obj")
INFLUENCES = 4  # weights a vertex: what every viewer reads
_TURN = [1.0, 0.0, 0.0, 0.0]  # quaternion [x, y, z, w] of 180° about x
_FLOAT, _UINT, _BYTE = 5126, 5125, 5121
_ARRAY, _ELEMENTS = 34962, 34963
_COLOUR = [0.65, 0.78, 0.90, 1.0]
_NEAR_M = 0.1  # nearest that a viewer's camera shows


class MeshFileError(SpinError, ValueError):
    """A mesh can't be written so."""


@dataclass(frozen=True)
class PosedPerson:
    """A body in a camera's frame: axis-angle of 24 joints (rad), betas, translation (m)."""

    name: str
    pose_aa: Float[np.ndarray, "72"]
    betas: Float[np.ndarray, "10"]
    translation_m: Float[np.ndarray, "3"]


@dataclass(frozen=True)
class Motion:
    """One person over F frames, `fps` of them a second; one shape for all."""

    name: str
    pose_aa: Float[np.ndarray, "F 72"]
    betas: Float[np.ndarray, "10"]
    translation_m: Float[np.ndarray, "F 3"]
    fps: float = 30.0


@dataclass(frozen=True)
class Viewpoint:
    """The camera in whose frame people are placed: its focal length, and how far its picture reaches from the principal point.

    The default is a crop's. A glTF camera has its principal point in the middle: it shows the larger reach on both sides.
    """

    focal_px: float = FOCAL_PX
    reach_px: tuple[float, float] = (CROP_PX / 2, CROP_PX / 2)

    @classmethod
    def of(cls, focal_px: float, principal_px: Float[np.ndarray, "2"], low: np.ndarray, high: np.ndarray) -> Viewpoint:
        """Return the view of a picture from pixel `low` to pixel `high`."""
        x, y = np.maximum(np.asarray(high) - principal_px, principal_px - np.asarray(low)).tolist()
        return cls(float(focal_px), (x, y))


def glb(body: BodyData, people: Sequence[PosedPerson], view: Viewpoint | None = None) -> bytes:
    """People, each with mesh, skeleton and skin, in one scene. MeshFileError without people."""
    if not people:
        raise MeshFileError("no person to write; expected at least one")
    file = _File(body, view or Viewpoint(), _pelvis_m(body, people[0].betas, people[0].translation_m))
    for person in people:
        file.add_person(person.name, person.betas, _quaternions(person.pose_aa), person.translation_m)
    return file.to_bytes()


def animated_glb(body: BodyData, motion: Motion, view: Viewpoint | None = None) -> bytes:
    """A person who moves: keyframes of every joint's rotation and of the place. MeshFileError without frames.

    The first frame's pelvis is at the origin.
    """
    if not len(motion.pose_aa) or not motion.fps > 0:
        raise MeshFileError(f"motion {motion.name}: {len(motion.pose_aa)} frames at {motion.fps} a second; expected some")
    file = _File(body, view or Viewpoint(), _pelvis_m(body, motion.betas, motion.translation_m[0]))
    turns = _quaternions(motion.pose_aa)
    # The shorter way from frame to frame: q and -q are one rotation.
    for i in range(1, len(turns)):
        turns[i, (turns[i] * turns[i - 1]).sum(-1) < 0] *= -1
    joints = file.add_person(motion.name, motion.betas, turns[0], motion.translation_m[0])
    file.animate(motion.name, joints, turns, motion.translation_m, motion.fps)
    return file.to_bytes()


def obj(vertices_m: Sequence[Float[np.ndarray, "V 3"]], faces: Int[np.ndarray, "F 3"], names: Sequence[str]) -> bytes:
    """Posed vertices (m, in a camera's frame) of several people, as objects of one .obj file."""
    lines, first = ["# metres, y up"], 1
    for vertices, name in zip(vertices_m, names):
        lines.append(f"o {''.join(c if c.isalnum() else '_' for c in name)}")
        lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in np.asarray(vertices) * [1, -1, -1]]
        lines += [f"f {a} {b} {c}" for a, b, c in faces + first]
        first += len(vertices)
    return ("\n".join(lines) + "\n").encode()


def check_ending(path: Path) -> None:
    """MeshFileError if it is not one of ENDINGS."""
    if path.suffix.lower() not in ENDINGS:
        raise MeshFileError(f"{path}: expected a name ending in {' or '.join(ENDINGS)}")


def skin_of(body: BodyData) -> tuple[Int[np.ndarray, "V 4"], Float[np.ndarray, "V 4"]]:
    """The four strongest joints of each vertex and their weights, which add up to 1. Where the weight is 0, the joint is 0."""
    joints = np.argsort(-body.skin_weights, axis=1, kind="stable")[:, :INFLUENCES]
    weights = np.take_along_axis(body.skin_weights, joints, 1)
    weights = weights / weights.sum(1, keepdims=True)
    # As the file holds them: a weight that float32 rounds to 0 ties nothing.
    return np.where(weights.astype(np.float32) > 0, joints, 0), weights


def rest_of(body: BodyData, betas: Float[np.ndarray, "10"]) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "24 3"]]:
    """A person's rest mesh and joints (m)."""
    vertices = body.v_template + body.shapedirs @ np.asarray(betas, np.float64)
    return vertices, body.joint_regressor @ vertices


def _pelvis_m(body: BodyData, betas: np.ndarray, translation_m: np.ndarray) -> Float[np.ndarray, "3"]:
    """Where a person's pelvis is in the camera's frame: no pose moves it."""
    return rest_of(body, betas)[1][0] + translation_m


class _File:
    """A glTF document that grows, and its bytes. `origin_m`: what is at the scene's origin, in the camera's frame."""

    def __init__(self, body: BodyData, view: Viewpoint, origin_m: Float[np.ndarray, "3"]) -> None:
        self.body, self.origin_m = body, origin_m
        self.bytes = bytearray()
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "spin-pipe"},
            "scene": 0,
            "scenes": [{"name": "people", "nodes": [0]}],
            "cameras": [_camera(view)],
            # glTF's cameras look along -z with y up, as the turned camera frame has it.
            "nodes": [{"name": "camera", "camera": 0, "translation": self._place([0, 0, 0])}],
            "materials": [{"name": "body", "pbrMetallicRoughness": {"baseColorFactor": _COLOUR, "metallicFactor": 0.0}}],
        } | {name: [] for name in ("meshes", "skins", "accessors", "bufferViews")}

    def add_person(
        self, name: str, betas: np.ndarray, turns: Float[np.ndarray, "24 4"], translation_m: np.ndarray
    ) -> list[int]:
        """The nodes of the person's joints; the one before the first places it."""
        vertices, joints = rest_of(self.body, betas)
        nodes, place = self.json["nodes"], len(self.json["nodes"])
        ids = [place + 1 + j for j in range(len(joints))]
        nodes.append({"name": name, "children": [ids[0]], "translation": self._place(translation_m), "rotation": _TURN})
        for j, parent in enumerate(self.body.parents):
            offset = joints[j] if j == 0 else joints[j] - joints[parent]
            node = {"name": SMPL_NAMES[j], "translation": offset.tolist(), "rotation": turns[j].tolist()}
            children = [ids[child] for child, p in enumerate(self.body.parents) if child and p == j]
            nodes.append(node | ({"children": children} if children else {}))
        inverse_bind = np.tile(np.eye(4), (len(joints), 1, 1))
        inverse_bind[:, :3, 3] = -joints
        self.json["skins"].append(
            {
                "name": f"{name} skin",
                "joints": ids,
                "skeleton": place,
                # glTF's matrices go column by column.
                "inverseBindMatrices": self._accessor(inverse_bind.transpose(0, 2, 1), _FLOAT, "MAT4"),
            }
        )
        self.json["meshes"].append({"name": name, "primitives": [self._primitive(vertices)]})
        nodes.append(
            {
                "name": f"{name} mesh",
                "mesh": len(self.json["meshes"]) - 1,
                "skin": len(self.json["skins"]) - 1,
            }
        )
        self.json["scenes"][0]["nodes"] += [place, len(nodes) - 1]
        return ids

    def _primitive(self, vertices: Float[np.ndarray, "V 3"]) -> dict[str, Any]:
        joints, weights = skin_of(self.body)
        normals = vertex_normals(Mesh(vertices, self.body.faces))
        attributes = {
            "POSITION": self._accessor(vertices, _FLOAT, "VEC3", target=_ARRAY, bounds=True),
            "NORMAL": self._accessor(normals, _FLOAT, "VEC3", target=_ARRAY),
            "JOINTS_0": self._accessor(joints, _BYTE, "VEC4", target=_ARRAY),
            "WEIGHTS_0": self._accessor(weights, _FLOAT, "VEC4", target=_ARRAY),
        }
        faces = self._accessor(self.body.faces.reshape(-1), _UINT, "SCALAR", target=_ELEMENTS)
        return {"attributes": attributes, "indices": faces, "material": 0}

    def animate(
        self,
        name: str,
        joints: list[int],
        turns: Float[np.ndarray, "F 24 4"],
        translation_m: Float[np.ndarray, "F 3"],
        fps: float,
    ) -> None:
        """Keyframes of the joints, and of the node before them, which places the person."""
        times = self._accessor(np.arange(len(turns)) / fps, _FLOAT, "SCALAR", bounds=True)
        moved = np.array([self._place(t) for t in translation_m])
        tracks = [(joints[0] - 1, "translation", moved, "VEC3")]
        tracks += [(node, "rotation", turns[:, j], "VEC4") for j, node in enumerate(joints)]
        self.json["animations"] = [
            {
                "name": name,
                "samplers": [
                    {
                        "input": times,
                        "output": self._accessor(values, _FLOAT, kind),
                        "interpolation": "LINEAR",
                    }
                    for _, _, values, kind in tracks
                ],
                "channels": [
                    {"sampler": i, "target": {"node": node, "path": path}} for i, (node, path, _, _) in enumerate(tracks)
                ],
            }
        ]

    def _place(self, translation_m: Sequence[float] | np.ndarray) -> list[float]:
        """Return a point of the camera's frame in the scene."""
        return ((np.asarray(translation_m, float) - self.origin_m) * [1, -1, -1]).tolist()

    def _accessor(
        self, array: np.ndarray, component: int, kind: str, *, target: int | None = None, bounds: bool = False
    ) -> int:
        """Adds an array to the bytes; the accessor's number."""
        typed = np.ascontiguousarray(array, {_FLOAT: "<f4", _UINT: "<u4", _BYTE: "u1"}[component])
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.bytes), "byteLength": typed.nbytes}
        self.json["bufferViews"].append(view | ({} if target is None else {"target": target}))
        self.bytes += typed.tobytes()
        self.bytes += b"\0" * (-len(self.bytes) % 4)
        about: dict[str, Any] = {
            "bufferView": len(self.json["bufferViews"]) - 1, "componentType": component, "count": len(typed), "type": kind,
        }  # fmt: skip
        if bounds:
            rows = typed.reshape(len(typed), -1)
            about |= {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()}
        self.json["accessors"].append(about)
        return len(self.json["accessors"]) - 1

    def to_bytes(self) -> bytes:
        """Header, JSON chunk, binary chunk (glTF 2.0, section 4)."""
        document = self.json | {"buffers": [{"byteLength": len(self.bytes)}]}
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + len(self.bytes)
        return (
            struct.pack("<4sII", b"glTF", 2, total)
            + struct.pack("<I4s", len(text), b"JSON") + text
            + struct.pack("<I4s", len(self.bytes), b"BIN\0") + bytes(self.bytes)
        )  # fmt: skip


def _camera(view: Viewpoint) -> dict[str, Any]:
    width, height = view.reach_px
    lens = {"yfov": 2 * math.atan(height / view.focal_px), "aspectRatio": width / height, "znear": _NEAR_M}
    return {"name": "camera", "type": "perspective", "perspective": lens}


def _quaternions(pose_aa: Float[np.ndarray, "*b 72"]) -> Float[np.ndarray, "*b 24 4"]:
    """[x, y, z, w] of each joint's axis-angle."""
    axis = np.asarray(pose_aa, np.float64).reshape(*np.shape(pose_aa)[:-1], 24, 3)
    angle = np.linalg.norm(axis, axis=-1, keepdims=True)
    # sin(a/2)/a, exact at 0 too.
    return np.concatenate([axis * np.sinc(angle / (2 * np.pi)) / 2, np.cos(angle / 2)], -1)
