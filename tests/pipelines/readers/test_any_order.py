"""For any order, frame, box or unknown key of a file each person is right, or rejected and counted: never elsewhere."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.errors import StageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.readers.formats.openpose_file import COCO_18
from spin.joints import COCO_NAMES, JOINTS
from store.annotations.table import Annotations

W, H = 320, 240
SEARCH = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Of a standing person, in units of their height, from COCO's nose to the right ankle.
BODY = np.array([
    (0, 0.05), (0.02, 0.03), (-0.02, 0.03), (0.04, 0.04), (-0.04, 0.04), (0.1, 0.2), (-0.1, 0.2), (0.14, 0.35), (-0.14, 0.35),
    (0.16, 0.5), (-0.16, 0.5), (0.07, 0.52), (-0.07, 0.52), (0.08, 0.75), (-0.08, 0.75), (0.08, 0.97), (-0.08, 0.97),
])  # fmt: skip


@dataclass(frozen=True)
class Someone:
    """Keypoints and box in the upright image, and what a file does with them."""

    image: int
    keypoints: np.ndarray
    box: np.ndarray
    identity: int
    box_kind: str
    unknown: bool


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Someone], list[str], int]:
    """Return people in a file's order, each image's frame, and how sizes are given."""
    frames = draw(st.lists(st.sampled_from(["upright", "stored", "halved"]), min_size=2, max_size=3))
    people = []
    for number in range(draw(st.integers(2, 6))):
        height = draw(st.integers(60, 130))
        left, top = draw(st.integers(30, W - 90)), draw(st.integers(5, H - 140))
        keypoints = BODY * height + [left + 0.2 * height, top]
        low, high = keypoints.min(0) - 3, keypoints.max(0) + 3
        kinds = st.sampled_from(["good", "good", "good", "tiny", "flat", "elsewhere", "none"])
        people.append(
            Someone(
                draw(st.integers(0, len(frames) - 1)), keypoints + 0.001 * number, np.concatenate([low, high - low]),
                draw(st.integers(1, 3)), draw(kinds), draw(st.booleans()),
            )
        )  # fmt: skip
    return people, frames, draw(st.integers(0, 1))


def boxed(person: Someone) -> list[float] | None:
    x, y, w, h = person.box.tolist()
    return {
        "good": [x, y, w, h], "tiny": [x + w / 2, y + h / 2, 3, 3], "flat": [x, y, 0, h],
        "elsewhere": [x + 2 * w, y + 2 * h, w / 4, h / 4], "none": None,
    }[person.box_kind]  # fmt: skip


def as_stored(keypoints: np.ndarray, box: list[float] | None) -> tuple[np.ndarray, list[float] | None]:
    """Return pixels of the image that EXIF 6 turns: x to the bottom, y to the left."""
    turned = np.stack([keypoints[:, 1], W - keypoints[:, 0]], 1)
    return turned, None if box is None else [box[1], W - box[0] - box[2], box[3], box[2]]


def write_images(root: Path, frames: list[str]) -> None:
    for number, frame in enumerate(frames):
        image = Image.new("RGB", (W // 2, H // 2) if frame == "halved" else (W, H))
        exif = Image.Exif()
        if frame == "stored":
            image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
        image.save(root / f"{number}.jpg", exif=exif)


def in_file(person: Someone, frames: list[str]) -> tuple[np.ndarray, list[float] | None, tuple[int, int]]:
    if frames[person.image] == "stored":
        return *as_stored(person.keypoints, boxed(person)), (H, W)
    return person.keypoints, boxed(person), (W, H)


def write_coco(path: Path, people: list[Someone], frames: list[str]) -> None:
    content: dict[str, Any] = {"categories": [{"id": 1, "name": "person", "keypoints": list(COCO_NAMES)}], "annotations": []}
    sizes = [(H, W) if frame == "stored" else (W, H) for frame in frames]
    content["images"] = [{"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
    for person in people:
        keypoints, box, _ = in_file(person, frames)
        flat = np.c_[keypoints, np.full(17, 2)].ravel().tolist()
        entry = {"id": person.identity, "image_id": person.image, "category_id": 1, "keypoints": flat}
        entry |= {} if box is None else {"bbox": box}
        content["annotations"].append(entry | ({"mood": "good"} if person.unknown else {}))
    path.write_text(json.dumps(content))


def write_table(path: Path, people: list[Someone], frames: list[str]) -> None:
    rows = []
    for person in people:
        keypoints, box, size = in_file(person, frames)
        row: dict[str, Any] = {"image": f"{person.image}.jpg", "image_width": size[0], "image_height": size[1], "mood": "good"}
        row |= dict(zip(("x", "y", "width", "height"), box or [""] * 4))
        for name, (x, y) in zip(COCO_NAMES, keypoints.tolist()):
            key = name.replace(" ", "_")
            row |= {f"{key}_x": x, f"{key}_y": y, f"{key}_likelihood": 0.5}
        rows.append(row)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_openpose(folder: Path, people: list[Someone]) -> None:
    folder.mkdir()
    by_image: dict[int, list[dict[str, Any]]] = {}
    for person in people:
        body = {name: [*xy, 0.5] for name, xy in zip(COCO_NAMES, person.keypoints.tolist())}
        flat = [v for name in COCO_18 for v in body.get(name, [0.0, 0.0, 0.0])]
        by_image.setdefault(person.image, []).append({"pose_keypoints_2d": flat} | ({"mood": 1} if person.unknown else {}))
    for image, found in by_image.items():
        (folder / f"{image}_keypoints.json").write_text(json.dumps({"people": found}))


@pytest.mark.parametrize("kind", ["coco", "custom", "table", "detections"])
@SEARCH
@given(world=worlds())
def test_each_person_is_right_or_rejected_and_counted(kind: str, world: tuple[list[Someone], list[str], int]) -> None:
    people, frames, _ = world
    with tempfile.TemporaryDirectory() as folder:
        root, data = Path(folder) / "raw", DataFolder(Path(folder) / "data")
        images = root / "train2014"
        images.mkdir(parents=True)
        frames = ["upright"] * len(frames) if kind == "detections" else frames  # OpenPose gives no size
        write_images(images, frames)
        options = ReaderOptions("all", 6, extra={})
        if kind == "coco":
            (root / "annotations").mkdir()
            write_coco(root / "annotations" / "person_keypoints_train2014.json", people, frames)
            dataset, where, options = DATASETS["coco"], root, ReaderOptions("train2014", 6)
        else:
            dataset, where = DATASETS["custom"], images
            file = root / {"custom": "mine.json", "table": "mine.csv", "detections": "mine"}[kind]
            option = {"custom": "annotations", "table": "table", "detections": "detections"}[kind]
            write = {"custom": write_coco, "table": write_table}.get(kind)
            write(file, people, frames) if write else write_openpose(file, people)
            options = ReaderOptions("all", 6, extra={option: file})
        try:
            done = preprocess(data, dataset, where, "mine", options)
        except StageError as error:
            assert "no usable person among" in str(error)
            assert len(json.loads(data.failed("mine").read_text())) == len(people)
            found, notes = [], {}
        else:
            assert done.people + sum(done.rejected.values()) == len(people)
            found, notes = rows_of(Annotations.read(done.path), people, kind), done.notes
        if kind != "detections":
            assert found == sorted(found)  # the file's order
        expected = [i for i, p in enumerate(people) if usable(p, frames, kind)]
        assert sorted(found) == expected
        if found and any(p.unknown for p in people) and kind in ("coco", "custom"):
            assert any("'mood'" in note for note in notes)
        shutil.rmtree(root)


def usable(person: Someone, frames: list[str], kind: str) -> bool:
    if kind == "detections":
        return True
    boxes = ("good",) if kind == "coco" else ("good", "none")
    return frames[person.image] != "halved" and person.box_kind in boxes


def rows_of(annotations: Annotations, people: list[Someone], kind: str) -> list[int]:
    """Return which person each row is, by keypoints and image: each is exactly one."""
    half = [JOINTS.index[f"OpenPose {name}" if kind == "detections" else name] for name in COCO_NAMES]
    out = []
    for row, keypoints in enumerate(annotations.keypoints_px[:, half, :2]):
        image = int(Path(annotations.image[row]).stem)
        near = [i for i, p in enumerate(people) if p.image == image and np.abs(p.keypoints - keypoints).max() < 4e-4]
        assert len(near) == 1, f"row {row} is no one's"
        side = 200 * annotations.scale[row]
        assert (np.abs(keypoints - annotations.center_px[row]) < side / 2 + 1).all()
        out += near
    return out
