"""What the demo writes: bodies over the image, bodies from the side, parameters with their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spin.camera import CROP_PX, FOCAL_PX
from spin.errors import ImageError
from spin.rendering import PALETTE, overlay, side_view
from spin.rendering.gltf import PosedPerson, Viewpoint, glb, obj
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    from pipelines.demo.bodies import PersonBody
    from spin.body import BodyData

_SIDE_PX = (256, 1024)  # of a side view, at least and at most


def over_the_image(
    image: UInt8[np.ndarray, "H W 3"], people: Sequence[PersonBody], faces: Int[np.ndarray, "F 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw all bodies, the farthest first, each with its own camera.

    The cameras differ, so depths cannot be compared; metres per pixel decide who is nearer.
    """
    picture = image
    colours = colours_of(people)
    for body in sorted(people, key=lambda body: body.camera_m[2] / body.focal_px, reverse=True):
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


def from_the_side(people: Sequence[PersonBody], faces: Int[np.ndarray, "F 3"]) -> UInt8[np.ndarray, "P w 3"]:
    """Draw each body turned by 90° on white, as large as in the image, next to each other in the detections' order."""
    side = int(np.clip(max(200 * body.person.scale for body in people), *_SIDE_PX))
    colours = colours_of(people)
    views = []
    for body in people:
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


def colours_of(people: Sequence[PersonBody]) -> dict[int, tuple[float, float, float]]:
    """Return the colour of each person, by number; it is the same in both pictures."""
    return {body.person.number: PALETTE[i % len(PALETTE)] for i, body in enumerate(people)}


def parameters(
    people: Sequence[PersonBody], size_px: tuple[int, int], focal_px: float | None
) -> dict[str, Float[np.ndarray, "n *"]]:
    """Return the arrays of `--save-params`, one row for each person; docs/demo.md defines them.

    `focal_px`: of the image's camera; None: the length of the image's diagonal, a common guess.
    """
    width, height = size_px
    focal = float(np.hypot(width, height)) if focal_px is None else focal_px
    principal = np.array([width / 2, height / 2])
    own = np.zeros((len(people), 3, 3))
    own[:, 2, 2] = 1
    own[:, 0, 0] = own[:, 1, 1] = [body.focal_px for body in people]
    own[:, :2, 2] = [body.person.center_px for body in people]
    return {
        "person": np.array([body.person.number for body in people]),
        "center_px": np.stack([body.person.center_px for body in people]),
        "scale": np.array([body.person.scale for body in people]),
        "pose": np.stack([body.pose for body in people]),
        "betas": np.stack([body.betas for body in people]),
        "crop_weak_camera": np.stack([body.weak_camera for body in people]),
        "crop_translation_m": np.stack([body.camera_m for body in people]),
        "crop_focal_px": np.full(len(people), FOCAL_PX),
        "crop_px": np.full(len(people), CROP_PX),
        "image_camera_matrix": own,
        "full_focal_px": np.full(len(people), focal),
        "full_principal_px": np.tile(principal, (len(people), 1)),
        "full_translation_m": np.stack([body.seen_from(focal, principal) for body in people]),
        "loss_px2": np.array([body.loss_px2 for body in people]),
        "verdict": np.array([body.verdict for body in people]),
        "expected_error_mm": np.array([body.expected_error_mm for body in people]),
    }


def meshes(body: BodyData, people: Sequence[PersonBody], ending: str, size_px: tuple[int, int]) -> bytes:
    """Return all bodies in one file: .glb with skeletons, or .obj. `size_px`: of the image, width and height.

    All are placed in the camera of the largest person, so that their arrangement is the one in the image.
    """
    largest = max(people, key=lambda one: one.person.scale)
    translations = [one.seen_from(largest.focal_px, largest.person.center_px) for one in people]
    names = [f"person {one.person.number}" for one in people]
    if ending == ".obj":
        moved = [one.vertices_m - one.camera_m + to for one, to in zip(people, translations)]
        return obj(moved, body.faces, names)
    view = Viewpoint.of(largest.focal_px, largest.person.center_px, np.zeros(2), np.array(size_px))
    return glb(body, [PosedPerson(n, one.pose, one.betas, p) for n, one, p in zip(names, people, translations)], view)


def write_picture(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a PNG, complete or not at all."""
    fine, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not fine:
        raise ImageError(f"picture {path}: can't be encoded")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.tobytes())
