"""What the demo leaves: bodies over the image, bodies from the side, parameters with their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spin.camera import CROP_PX, FOCAL_PX
from spin.errors import ImageError
from spin.rendering import PALETTE, overlay, side_view
from spin.rendering.gltf import PosedPerson, glb, obj
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    from pipelines.demo.bodies import Found
    from spin.body import BodyData

_SIDE_PX = (256, 1024)  # of a side view, at least and at most


def over_the_image(
    image: UInt8[np.ndarray, "H W 3"], found: Sequence[Found], faces: Int[np.ndarray, "F 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """All bodies, the farthest first, each by its own camera: those differ, so what tells who is nearer is metres per pixel."""
    picture = image
    colours = colours_of(found)
    for body in sorted(found, key=lambda body: body.camera_m[2] / body.focal_px, reverse=True):
        x, y = body.person.center_px.tolist()
        picture = overlay(
            picture,
            [body.vertices_m],
            faces,
            focal_px=body.focal_px,
            center_px=(x, y),
            colours=(colours[body.person.number],),
        )
    return picture


def from_the_side(found: Sequence[Found], faces: Int[np.ndarray, "F 3"]) -> UInt8[np.ndarray, "P w 3"]:
    """Each body turned by 90° on white, as large as in the image, beside each other in the detections' order."""
    side = int(np.clip(max(200 * body.person.scale for body in found), *_SIDE_PX))
    colours = colours_of(found)
    views = []
    for body in found:
        focal = FOCAL_PX * side / CROP_PX
        low, high = body.vertices_m.min(0), body.vertices_m.max(0)
        centre = (low + high) / 2
        # A body that leans far out of the image plane is longer from the side than its box.
        extent = max(high[1] - low[1], high[2] - low[2])
        focal = min(focal, 0.95 * side * centre[2] / extent)
        x, y = side / 2 - focal * centre[:2] / centre[2]
        views.append(
            side_view(
                body.vertices_m,
                faces,
                focal_px=float(focal),
                center_px=(float(x), float(y)),
                width=side,
                height=side,
                colour=colours[body.person.number],
            )
        )
    return np.concatenate(views, axis=1)


def colours_of(found: Sequence[Found]) -> dict[int, tuple[float, float, float]]:
    """The colour of each person, by number, the same in both pictures."""
    return {body.person.number: PALETTE[i % len(PALETTE)] for i, body in enumerate(found)}


def parameters(
    found: Sequence[Found], size_px: tuple[int, int], focal_px: float | None
) -> dict[str, Float[np.ndarray, "n *"]]:
    """The arrays of `--save-params`, a row a person; docs/demo.md says what they mean.

    `focal_px`: of the image's camera; None: the length of the image's diagonal, a common guess.
    """
    width, height = size_px
    focal = float(np.hypot(width, height)) if focal_px is None else focal_px
    principal = np.array([width / 2, height / 2])
    own = np.zeros((len(found), 3, 3))
    own[:, 2, 2] = 1
    own[:, 0, 0] = own[:, 1, 1] = [body.focal_px for body in found]
    own[:, :2, 2] = [body.person.center_px for body in found]
    return {
        "person": np.array([body.person.number for body in found]),
        "center_px": np.stack([body.person.center_px for body in found]),
        "scale": np.array([body.person.scale for body in found]),
        "pose": np.stack([body.pose for body in found]),
        "betas": np.stack([body.betas for body in found]),
        "crop_weak_camera": np.stack([body.weak_camera for body in found]),
        "crop_translation_m": np.stack([body.camera_m for body in found]),
        "crop_focal_px": np.full(len(found), FOCAL_PX),
        "crop_px": np.full(len(found), CROP_PX),
        "image_camera_matrix": own,
        "full_focal_px": np.full(len(found), focal),
        "full_principal_px": np.tile(principal, (len(found), 1)),
        "full_translation_m": np.stack([body.seen_from(focal, principal) for body in found]),
        "loss_px2": np.array([body.loss_px2 for body in found]),
        "verdict": np.array([body.verdict for body in found]),
    }


def meshes(body: BodyData, found: Sequence[Found], ending: str) -> bytes:
    """All bodies in one file, side by side as from the image's camera: .glb with skeletons, or .obj.

    Each is placed by the camera of the largest person, so that they stand to each other as they are seen.
    """
    largest = max(found, key=lambda one: one.person.scale)
    places = [one.seen_from(largest.focal_px, largest.person.center_px) for one in found]
    names = [f"person {one.person.number}" for one in found]
    if ending == ".obj":
        moved = [one.vertices_m - one.camera_m + place for one, place in zip(found, places)]
        return obj(moved, body.faces, names)
    return glb(body, [PosedPerson(n, one.pose, one.betas, p) for n, one, p in zip(names, found, places)])


def write_picture(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """A PNG, whole or not at all."""
    fine, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not fine:
        raise ImageError(f"picture {path}: can't be encoded")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.tobytes())
