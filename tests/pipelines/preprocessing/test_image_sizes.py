"""Width and height in a file, and those of the image: keypoints are read in the frame that the sizes name, or rejected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_data import people_of, table_rows, write_csv
from PIL import Image

from pipelines.errors import StageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.person_checks import TURNED
from pipelines.preprocessing.preprocess import PreprocessSummary, preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.readers.formats.image_check import check_image
from pipelines.readers.formats.image_frames import READ_AS_STORED, frame_of
from store.annotations.table import Annotations

# How Pillow makes the stored image of an upright one, by EXIF's orientation.
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
READERS = ("coco", "custom", "table")


def stored(image: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image
    turned.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_point_of_the_stored_image_is_found_in_the_upright_one(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((40, 30, 3), np.uint8)
    upright[12, 7] = 255
    path = tmp_path / "a.png"
    stored(Image.fromarray(upright), path, orientation)
    check = check_image(path)
    assert check.size_px == (30, 40)
    assert check.orientation == orientation
    pixels = np.asarray(Image.open(path))
    (y,), (x,) = np.nonzero(pixels[..., 0])
    frame = frame_of(tuple(map(float, check.stored_px)), check)
    there = (frame.points(np.array([[x + 0.5, y + 0.5]])) - 0.5)[0]
    sizes_say_it = orientation >= 5
    assert there.tolist() == ([7, 12] if sizes_say_it else [x, y])
    box = frame.box(np.array([x, y, 1.0, 1.0]))
    assert box.tolist() == ([7, 12, 1, 1] if sizes_say_it else [x, y, 1, 1])
    assert frame_of((30.0, 40.0), check).to_upright is None
    assert "30 × 40 px" in frame_of((15.0, 20.0), check).problem


def preprocessed(tmp_path: Path, reader: str, root: Path, content: dict[str, Any]) -> PreprocessSummary:
    data, names = DataFolder(tmp_path / "data"), {i["id"]: i for i in content["images"]}
    if reader == "coco":
        (root / "annotations" / "person_keypoints_train2014.json").write_text(json.dumps(content))
        return preprocess(data, DATASETS["coco"], root, reader, ReaderOptions("train2014", 8))
    images, file = root / "train2014", root / "mine.json"
    file.write_text(json.dumps(content))
    if reader == "table":
        (root / "annotations" / "person_keypoints_train2014.json").write_text(json.dumps(content))
        rows = table_rows(people_of(root), boxes=True)
        for row, annotation in zip(rows, content["annotations"]):
            image = names[annotation["image_id"]]
            row |= {"image_width": image["width"], "image_height": image["height"]}
        file = root / "mine.csv"
        write_csv(file, rows)
    option = {"table": "table", "custom": "annotations"}[reader]
    return preprocess(data, DATASETS["custom"], images, reader, ReaderOptions("all", 8, extra={option: file}))


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    out = shutil.copytree(world, tmp_path / "raw")
    shutil.rmtree(out / "openpose")
    return out


def content_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "annotations" / "person_keypoints_train2014.json").read_text())


@pytest.mark.parametrize("reader", READERS)
def test_keypoints_of_the_stored_frame_are_turned_with_the_image(root: Path, tmp_path: Path, reader: str) -> None:
    content = content_of(root)
    before = Annotations.read(preprocessed(tmp_path, reader, root, content).path)
    for entry in content["images"]:
        path = root / "train2014" / entry["file_name"]
        width, height = entry["width"], entry["height"]
        with Image.open(path) as image:
            image.load()
        if width == height:  # which frame it is could not be seen
            image = image.crop((0, 0, width, height + 40))
            height += 40
        stored(image, path, 6)
        entry["width"], entry["height"] = height, width
        for a in content["annotations"]:
            if a["image_id"] == entry["id"]:
                k = np.array(a["keypoints"], float).reshape(17, 3)
                seen = k[:, 2] > 0
                k[seen, 0], k[seen, 1] = k[seen, 1].copy(), width - k[seen, 0]
                x, y, w, h = a["bbox"]
                a["keypoints"], a["bbox"] = k.ravel().tolist(), [y, width - x - w, h, w]
    done = preprocessed(tmp_path, reader, root, content)
    after = Annotations.read(done.path)
    assert done.notes[READ_AS_STORED] == len(before)
    assert after.source == before.source
    np.testing.assert_allclose(after.keypoints_px, before.keypoints_px, atol=1e-3)
    np.testing.assert_allclose(after.center_px, before.center_px, atol=1e-3)


@pytest.mark.parametrize("reader", READERS)
def test_images_of_another_size_than_the_file_gives_are_rejected_with_both(root: Path, tmp_path: Path, reader: str) -> None:
    content = content_of(root)
    before = preprocessed(tmp_path, reader, root, content)
    half = content["images"][::2]
    for entry in half:
        path = root / "train2014" / entry["file_name"]
        with Image.open(path) as image:
            image.load()
        image.resize((entry["width"] // 2, entry["height"] // 2)).save(path)
    done = preprocessed(tmp_path, reader, root, content)
    names = {entry["file_name"] for entry in half}
    after = Annotations.read(done.path)
    assert not {Path(image).name for image in after.image} & names
    entry = half[0]
    sizes = f"{entry['width'] // 2} × {entry['height'] // 2} px, but the file gives {entry['width']} × {entry['height']} px"
    assert done.rejected[f"its image is {sizes}"] > 0
    assert sum(done.rejected.values()) - sum(before.rejected.values()) == before.people - done.people


def test_people_outside_their_images_are_rejected_without_sizes_too(root: Path, tmp_path: Path) -> None:
    content = content_of(root)
    for entry in content["images"]:
        path = root / "train2014" / entry["file_name"]
        with Image.open(path) as image:
            image.load()
        image.crop((0, 0, 40, 40)).save(path)
        del entry["width"], entry["height"]
    listed = DataFolder(tmp_path / "data").failed("custom")
    with pytest.raises(StageError, match="no usable person"):
        preprocessed(tmp_path, "custom", root, content)
    reasons = [entry["reason"] for entry in json.loads(listed.read_text())]
    assert sum("keypoints are outside its image (40 × 40 px)" in reason for reason in reasons) > 5
    assert all("outside" in reason and "(40 × 40 px)" in reason for reason in reasons if "annotated" not in reason)


@pytest.mark.parametrize("orientation", [3, 6])
def test_where_sizes_say_nothing_people_do(root: Path, tmp_path: Path, orientation: int) -> None:
    """A half turn, or a square: upright people stay, and it is reported; people who stand only as stored are rejected."""
    content = content_of(root)
    turns = {3: lambda p, w: w - p, 6: lambda p, w: np.stack([p[:, 1], w - p[:, 0]], 1)}  # of points, to the stored image
    square = {i["id"]: i for i in content["images"] if i["width"] == i["height"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in square]
    before = preprocessed(tmp_path, "custom", root, content)
    for entry in square.values():
        path = root / "train2014" / entry["file_name"]
        with Image.open(path) as image:
            image.load()
        stored(image, path, orientation)
    same = preprocessed(tmp_path, "custom", root, content)
    assert same.people > 0.8 * before.people  # the others lie, or do handstands
    assert same.notes == {TURNED: same.people}
    for a in content["annotations"]:
        width = square[a["image_id"]]["width"]
        k = np.array(a["keypoints"], float).reshape(17, 3)
        k[k[:, 2] > 0, :2] = turns[orientation](k[k[:, 2] > 0, :2], width)
        a["keypoints"] = k.ravel().tolist()
        x, y, w, h = a["bbox"]
        corners = turns[orientation](np.array([[x, y], [x + w, y + h]]), width)
        a["bbox"] = [*corners.min(0).tolist(), *np.abs(corners[1] - corners[0]).tolist()]
    try:
        turned = preprocessed(tmp_path, "custom", root, content).people
    except StageError:
        turned = 0
    assert turned < 0.2 * before.people
