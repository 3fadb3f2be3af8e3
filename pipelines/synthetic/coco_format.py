"""COCO's person-keypoints format, for the people of the embedded world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from spin.joints import COCO_NAMES, JOINTS, SKELETON

if TYPE_CHECKING:
    from jaxtyping import Bool

    from spin.world import Picture, WorldPerson

_ANNOTATOR_PX = 1.5
_LICENCE = {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
_PERSON = {
    "id": 1,
    "name": "person",
    "supercategory": "person",
    "keypoints": [name.replace(" ", "_") for name in COCO_NAMES],
    # pairs of keypoints, counted from 1
    "skeleton": [[JOINTS.coco.index(a) + 1, JOINTS.coco.index(b) + 1] for a, b in SKELETON],
}


def document(images: list[dict[str, Any]], annotations: list[dict[str, Any]], description: str, version: int) -> dict[str, Any]:
    """Return a whole annotation file."""
    return {
        "info": {"description": description, "version": str(version)},
        "licenses": [_LICENCE],
        "images": images,
        "annotations": annotations,
        "categories": [_PERSON],
    }


def coco_image(picture: Picture, image_id: int, file_name: str) -> dict[str, Any]:
    """Return an entry of COCO's `images`."""
    width, height = picture.camera.width, picture.camera.height
    return {
        "id": image_id,
        "file_name": file_name,
        "width": width,
        "height": height,
        "license": _LICENCE["id"],
    }


def coco_annotation(
    rng: np.random.Generator,
    picture: Picture,
    person: WorldPerson,
    image_id: int,
    number: int,
    *,
    annotator_px: float = _ANNOTATOR_PX,
) -> dict[str, Any]:
    """Return an entry of COCO's `annotations`, as imprecise as an annotator is: more so where joints are hidden.

    With `annotator_px` 0 it is as precise as whole pixels can be.
    """
    visibility = person.visibility[list(JOINTS.coco)]
    sigma = annotator_px * np.where(visibility == 2, 1.0, 2.0)
    pixels = person.keypoints_px[list(JOINTS.coco)] + sigma[:, None] * rng.standard_normal((17, 2))
    pixels = np.clip(np.rint(pixels), 0, [picture.camera.width - 1, picture.camera.height - 1])
    keypoints = np.where(visibility[:, None] > 0, np.column_stack([pixels, visibility]), 0).astype(int)
    rows, columns = np.nonzero(person.mask)
    left, top = int(columns.min()), int(rows.min())
    return {
        "id": 10 * image_id + number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": int((visibility > 0).sum()),
        "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
        "area": int(person.mask.sum()),
        "segmentation": polygons(person.mask),
    }


def polygons(mask: Bool[np.ndarray, "H W"]) -> list[list[float]]:
    """Return outlines of a mask as COCO has them: [x, y, x, y, …] a piece, pixel edges at whole numbers."""
    # cv2 runs through the centres of border pixels: at twice the size, a quarter pixel inside the border
    double = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((o.reshape(-1) + 0.5) / 2).tolist() for o in outlines if len(o) >= 3]
