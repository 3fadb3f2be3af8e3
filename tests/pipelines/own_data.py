"""People's own data, made of the embedded world's: the same people as COCO-style JSON, OpenPose files and tables."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spin.joints import COCO_NAMES

# Another order, other spellings, and not all of them.
NAMES = (
    "LAnkle", "left_knee", "Left Hip", "hip_r", "r_knee", "right-ankle", "LWrist", "left elbow", "shoulder_left",
    "rShoulder", "right_elbow", "RIGHT_WRIST", "nose",
)  # fmt: skip
PLAIN = (
    "left ankle", "left knee", "left hip", "right hip", "right knee", "right ankle", "left wrist", "left elbow",
    "left shoulder", "right shoulder", "right elbow", "right wrist", "nose",
)  # fmt: skip


@dataclass(frozen=True)
class Someone:
    image: str
    joints: dict[str, tuple[float, float, float]]  # by plain name; seen ones only
    bbox: list[float]
    number: int

    def row(self, names: tuple[str, ...]) -> list[tuple[float, float, float]]:
        return [self.joints.get(name, (0.0, 0.0, 0.0)) for name in names]


def people_of(world: Path, limit: int = 1000) -> list[Someone]:
    content = json.loads((world / "annotations" / "person_keypoints_train2014.json").read_text())
    names = {i["id"]: i["file_name"] for i in content["images"]}
    out = []
    for a in content["annotations"][:limit]:
        given = np.array(a["keypoints"], float).reshape(17, 3)
        seen = {n: (float(x), float(y), 1.0) for n, (x, y, v) in zip(COCO_NAMES, given) if v > 0}
        out.append(Someone(names[a["image_id"]], seen, list(map(float, a["bbox"])), a["id"]))
    return out


def coco_style(people: list[Someone], *, boxes: bool) -> dict[str, Any]:
    images = list(dict.fromkeys(p.image for p in people))
    annotations: list[dict[str, Any]] = []
    for p in people:
        keypoints = [v for x, y, c in p.row(PLAIN) for v in (x, y, 2 * c)]
        annotations.append({"id": p.number, "image_id": images.index(p.image), "category_id": 3, "keypoints": keypoints})
        if boxes:
            annotations[-1]["bbox"] = p.bbox
    return {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(images)],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "dancer", "keypoints": list(NAMES)}],
    }


def write_openpose(folder: Path, people: list[Someone], order: tuple[str, ...], confidence: float = 0.75) -> None:
    by_image: dict[str, list[Someone]] = defaultdict(list)
    for p in people:
        by_image[p.image].append(p)
    folder.mkdir(parents=True, exist_ok=True)
    for image, group in by_image.items():
        found = [{"pose_keypoints_2d": [v for x, y, c in p.row(order) for v in (x, y, c * confidence)]} for p in group]
        file = folder / f"{Path(image).stem}_keypoints.json"
        file.write_text(json.dumps({"version": 1.3, "people": found}))


def table_rows(people: list[Someone], *, boxes: bool) -> list[dict[str, Any]]:
    """Cells of joints that were not seen are None."""
    rows = []
    for p in people:
        row: dict[str, Any] = {"image": p.image, "person": f"p{p.number}", "comment": "tall, dark"}
        for name in PLAIN:
            seen = p.joints.get(name)
            key = name.replace(" ", "_")
            row |= {f"{key}_{end}": seen[i] if seen else None for i, end in enumerate(("x", "y", "confidence"))}
        if boxes:
            row |= dict(zip(("x", "y", "width", "height"), p.bbox))
        rows.append(row)
    return rows


def write_csv(file: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
