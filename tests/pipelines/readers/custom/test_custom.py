"""Your own data: the same people through each kind of file, boxes derived where there are none, and what is wrong named."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_data import (
    NAMES,
    PLAIN,
    Someone,
    coco_style,
    people_of,
    table_rows,
    write_csv,
    write_openpose,
)

from pipelines.errors import StageError, UsageError
from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS, read_all
from pipelines.readers.base import Person, ReaderOptions, Rejected
from pipelines.readers.custom import reader as custom
from pipelines.readers.formats.openpose_file import COCO_18
from spin.crop import KEYPOINTS_TO_BOX
from spin.fitting.fitter import FitConfig
from spin.joint_names import joint_index
from spin.joints import JOINTS, OPENPOSE_NAMES, SUPERSET_NAMES
from store.annotations.table import Annotations


def options(**extra: Any) -> ReaderOptions:
    return ReaderOptions("all", min_body_joints=extra.pop("min_body_joints", 1), extra=extra)


def read(root: Path, **extra: Any) -> list[Person | Rejected]:
    return list(read_all(custom, root, options(**extra)))


@pytest.fixture
def people(world: Path) -> list[Someone]:
    return people_of(world)


@pytest.fixture
def images(world: Path) -> Path:
    return world / "train2014"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An empty folder of images: readers don't look into them."""
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def keypoints_of(person: Person, half: str) -> dict[str, tuple[float, float]]:
    out = {}
    for name in PLAIN:
        x, y, c = person.keypoints_px[JOINTS.index[f"OpenPose {name}" if half == "openpose" else name]]
        if c > 0:
            out[name] = (float(x), float(y))
    return out


def same_people(found: list[Any], people: list[Someone], half: str = "superset") -> None:
    assert all(isinstance(o, Person) for o in found), [o for o in found if isinstance(o, Rejected)][:3]
    assert len(found) == len(people)
    for person, given in zip(sorted(found, key=lambda p: p.image), sorted(people, key=lambda p: p.image)):
        assert person.image == given.image
        expected = {n: given.joints[n][:2] for n in PLAIN if n in given.joints}
        measured = keypoints_of(person, half)
        assert measured.keys() == expected.keys()
        for name, place in expected.items():
            assert np.allclose(measured[name], place, atol=1e-3)


def one_a_image(people: list[Someone]) -> list[Someone]:
    return list({p.image: p for p in people}.values())


@pytest.mark.parametrize("boxes", [True, False])
def test_coco_style_people_with_joints_of_any_name_and_order(photos: Path, people, boxes: bool) -> None:
    people = one_a_image(people)
    file = photos.parent / "mine.json"
    file.write_text(json.dumps(coco_style(people, boxes=boxes)))
    found = read(photos, annotations=file)
    same_people(found, people)
    for person, given in zip(found, people):
        assert person.source == f"annotation {given.number}"
        x, y, width, height = given.bbox
        if boxes:
            assert np.allclose(person.center_px, [x + width / 2, y + height / 2])
            assert person.scale == pytest.approx(1.2 * max(width, height) / 200)
        else:
            points = np.array(list(keypoints_of(person, "superset").values()))
            low, high = points.min(0), points.max(0)
            assert np.allclose(person.center_px, (low + high) / 2, atol=1e-3)
            assert person.scale == pytest.approx(1.2 * KEYPOINTS_TO_BOX * (high - low).max() / 200, rel=1e-5)


def test_a_derived_box_is_about_the_annotated_one(photos: Path, people: list[Someone]) -> None:
    (photos / "annotations.json").write_text(json.dumps(coco_style(people, boxes=False)))
    derived = {p.source: p.scale for p in read(photos, min_body_joints=10) if isinstance(p, Person)}
    given = {f"annotation {p.number}": 1.2 * max(p.bbox[2:]) / 200 for p in people}
    ratios = np.array([derived[source] / given[source] for source in derived])
    assert len(ratios) > 20
    assert 0.93 < np.median(ratios) < 1.1


@pytest.mark.parametrize(("order", "count"), [(OPENPOSE_NAMES, 25), (COCO_18, 18)])
def test_every_detection_of_a_folder_is_a_person(images: Path, tmp_path, people, order, count: int) -> None:
    assert len(order) == count
    write_openpose(tmp_path / "found", people, order)
    found = read(images, detections=tmp_path / "found")
    same_people([p for p in found], sorted(people, key=lambda p: p.image), "openpose")
    first = found[0]
    assert isinstance(first, Person)
    assert first.source.endswith("_keypoints.json person 0")
    confidences = first.keypoints_px[:, 2]
    assert set(np.round(confidences[confidences > 0], 3)) == {0.75}
    assert not first.keypoints_px[JOINTS.superset].any()


def test_images_of_detections_lie_at_the_same_place_and_may_not_be_two(photos: Path, people) -> None:
    (photos / "day1").mkdir()
    (photos / "day1" / "a.JPG").touch()
    for name in ("b.jpg", "b.png"):
        (photos / name).touch()
    detections = photos / "detections"
    for image in ("day1/a.jpg", "b.jpg", "c.jpg"):
        someone = Someone(image, people[0].joints, people[0].bbox, 1)
        write_openpose(detections / Path(image).parent, [someone], OPENPOSE_NAMES)
    found = {o.source.split("_")[0]: o for o in read(photos)}
    assert found["day1/a"].image == "day1/a.JPG"
    assert "several images are called b: b.jpg, b.png" in found["b"].reason
    assert "no image c" in found["c"].reason


@pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet"])
@pytest.mark.parametrize("boxes", [True, False])
def test_a_table_of_people(photos: Path, people: list[Someone], kind: str, boxes: bool) -> None:
    people = one_a_image(people)
    rows = table_rows(people, boxes=boxes)
    file = photos / ("table.parquet" if kind == "parquet" else "table.csv")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        write_csv(file, rows, ";" if kind == "semicolons" else ",")
    found = read(photos)
    same_people(found, people)
    assert found[0].source == f"row {0 if kind == 'parquet' else 2}, p{people[0].number}"
    if boxes:
        assert found[0].scale == pytest.approx(1.2 * max(people[0].bbox[2:]) / 200)


def test_people_of_one_image_stay_together_wherever_their_rows_are(photos: Path, people) -> None:
    rows = table_rows(people, boxes=True)
    apart = rows[::2] + rows[1::2] + [{**rows[0], "person": "again"}]
    write_csv(photos / "table.csv", apart)
    named = [o.image for o in read(photos)]
    assert len(named) == len(apart)
    changes = sum(a != b for a, b in pairwise(named))
    assert changes == len(set(named)) - 1


def test_all_of_the_49_have_names_and_no_name_two_places() -> None:
    for place, name in enumerate(JOINTS.names):
        # Feet are OpenPose's alone, and so are named without saying so.
        assert joint_index(name) == place
        assert joint_index(name.replace(" ", "_")) == place
    assert joint_index("left_big_toe") == JOINTS.index["OpenPose left big toe"]
    for name, plain in zip(NAMES, PLAIN):
        assert joint_index(name) == JOINTS.index[plain]
    for word, meaning in {
        "head_top": "top of head",
        "Pelvis": "pelvis",
        "hip": "pelvis",
        "thorax": "thorax",
    }.items():
        assert joint_index(word) == JOINTS.index[meaning]
    assert joint_index("midHip") == JOINTS.index["OpenPose mid hip"]
    for nonsense in ("tail", "left", "", "knee", "left_left_knee", "openpose tail", "±"):
        assert joint_index(nonsense) is None
    assert {joint_index(n) for n in SUPERSET_NAMES} == set(range(25, 49))


def test_other_names_are_said_or_left_out(photos: Path, people: list[Someone]) -> None:
    content = coco_style(people[:3], boxes=True)
    content["categories"][0]["keypoints"][1:3] = ["joint 7", "tail"]
    file = photos / "annotations.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"no joint is called 'joint 7', 'tail'; .*--joints"):
        read(photos)
    found = read(photos, joints="joint 7=left knee, tail=")
    for person, given in zip(found, people):
        measured = keypoints_of(person, "superset")
        assert set(measured) == {n for n in PLAIN if n in given.joints} - {"left hip"}
    with pytest.raises(UsageError, match="'joint 7' and 'left_knee' are both left knee"):
        content["categories"][0]["keypoints"][3] = "left_knee"
        file.write_text(json.dumps(content))
        read(photos, joints="joint 7=left knee,tail=")
    for wrong in ("tail", "=x", "tail=nose of a dog"):
        with pytest.raises(UsageError, match="--joints"):
            read(photos, joints=wrong)


def test_a_file_without_names_is_taken_for_cocos_17_only_if_it_has_17(photos: Path) -> None:
    keypoints = [v for k in range(17) for v in (10.0 + 20 * k, 300.0 - 10 * k, 2)]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "keypoints": keypoints}],
    }
    file = photos / "annotations.json"
    file.write_text(json.dumps(content))
    (person,) = read(photos)
    assert np.array_equal(person.keypoints_px[list(JOINTS.coco), 0], 10 + 20 * np.arange(17))
    content["annotations"][0]["keypoints"] = keypoints[:-3]
    file.write_text(json.dumps(content))
    with pytest.raises(StageError, match="no category names its 'keypoints'"):
        read(photos)


def test_confidences_are_kept_and_visibilities_become_certain(photos: Path, people) -> None:
    content = coco_style(people[:1], boxes=True)
    values = content["annotations"][0]["keypoints"]
    for place, value in enumerate((0.25, 1, 2, 0)):
        values[3 * place : 3 * place + 3] = [50.0 + place, 60.0, value]
    (photos / "annotations.json").write_text(json.dumps(content))
    (person,) = read(photos)
    measured = [float(person.keypoints_px[JOINTS.index[name], 2]) for name in PLAIN[:4]]
    assert measured == [0.25, 1, 1, 0]


SPOILED_COCO: dict[str, tuple[Any, str]] = {
    "no keypoints": (lambda a: a.pop("keypoints"), "not 13 × 3 numbers"),
    "wrong count": (lambda a: a.update(keypoints=[1, 2, 3]), "not 13 × 3 numbers"),
    "NaN": (lambda a: a["keypoints"].__setitem__(0, float("nan")), "not a number of pixels"),
    "scaled to 1": (lambda a: a.update(keypoints=[0.1, 0.2, 2, 0.8, 0.9, 2] * 6 + [0.5, 0.5, 2]), "span 0.7 px"),
    "scaled to -1..1": (lambda a: a.update(keypoints=[-0.9, -0.2, 2, 0.8, 0.9, 2] * 6 + [0.5, 0.5, 2]), "span 1.7 px"),
    "per cent": (lambda a: a.update(keypoints=[10, 20, 97.5, 80, 90, 1] * 6 + [50, 50, 2]), "confidences up to 97.5, expected"),
    "box scaled to 1": (lambda a: a.update(bbox=[0.1, 0.2, 0.5, 0.7]), "not in pixels"),
    "box of the whole, scaled to 1": (lambda a: a.update(bbox=[0, 0, 1, 1]), "not in pixels"),
    "box of three": (lambda a: a.update(bbox=[1, 2, 3]), "not 4 numbers"),
    "box of text": (lambda a: a.update(bbox=["a", 2, 3, 4]), "not 4 numbers"),
    "negative box": (lambda a: a.update(bbox=[10, 10, -50, 90]), "has no area"),
    "far box": (lambda a: a.update(bbox=[5000, 10, 90, 90]), "outside the image, 320 × 320"),
    "crowd": (lambda a: a.update(iscrowd=1), "crowd"),
    "other category": (lambda a: a.update(category_id=9), "names no keypoints"),
    "image not listed": (lambda a: a.update(image_id=99), "does not list"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED_COCO)
def test_a_spoiled_annotation_is_named(photos: Path, people: list[Someone], case: str) -> None:
    spoil, reason = SPOILED_COCO[case]
    content = coco_style(people[:4], boxes=True)
    content["annotations"][1]["keypoints"] = content["annotations"][0]["keypoints"].copy()
    for image in content["images"]:
        image |= {"width": 320, "height": 320}
    spoil(content["annotations"][1])
    (photos / "annotations.json").write_text(json.dumps(content))
    found = read(photos)
    (rejected,) = [o for o in found if isinstance(o, Rejected)]
    assert rejected.source == f"annotation {people[1].number}"
    assert reason in rejected.reason
    assert len(found) == 4


def test_a_spoiled_row_is_named(photos: Path, people: list[Someone]) -> None:
    rows = table_rows(people[:7], boxes=True)
    rows[1]["left_knee_x"] = "wide"
    rows[2]["image"] = "../../etc/passwd"
    rows[3]["width"] = None
    rows[4] = {k: (v if k in ("image", "person") else None) for k, v in rows[4].items()}
    rows[5] |= {key: 88 for key, value in rows[5].items() if key.endswith("_confidence") and value}
    write_csv(photos / "table.csv", rows)
    with (photos / "table.csv").open("a") as handle:
        handle.write("a.jpg,1,2\n\n")
    found = {o.source.split(",")[0]: o for o in read(photos)}
    assert isinstance(found["row 2"], Person)
    assert isinstance(found["row 8"], Person)
    reasons = {source: o.reason for source, o in found.items() if isinstance(o, Rejected)}
    assert "left_knee_x is 'wide', not a number" in reasons["row 3"]
    assert "outside the images' folder" in reasons["row 4"]
    assert "some of x, y, width, height" in reasons["row 5"]
    assert "0 of 12 body joints seen" in reasons["row 6"]
    assert "confidences up to 88, expected 0 to 1; divide" in reasons["row 7"]
    assert "has 3 cells" in reasons["row 9"]


def test_absolute_paths_inside_the_folder_are_fine(photos: Path, people: list[Someone]) -> None:
    rows = table_rows(people[:2], boxes=True)
    rows[0]["image"] = str((photos / "sub" / "a.jpg").resolve())
    rows[1]["image"] = str((photos.parent / "b.jpg").resolve())
    write_csv(photos / "table.csv", rows)
    outcomes = read(photos)
    assert {o.image for o in outcomes if isinstance(o, Person)} == {"sub/a.jpg"}
    assert sum(isinstance(o, Rejected) for o in outcomes) == 1


WRONG_SOURCES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nothing there": ("", "no annotations.json, detections/ or table.csv", {}),
    "two there": ("annotations.json table.csv", "say which to read", {}),
    "two options": ("", "give one of them", {"annotations": "a.json", "table": "b.csv"}),
    "no such file": ("", "a.json: no such file", {"annotations": "a.json"}),
    "no such table": ("", "b.csv: no such file", {"table": "b.csv"}),
    "no such folder": ("", "c: no such folder", {"detections": "c"}),
    "not JSON": ("annotations.json", "annotations.json: not a JSON file", {}),
    "empty table": ("table.csv", "table.csv: has no column 'image'", {}),
    "not Parquet": ("table.parquet", "table.parquet: not a Parquet file", {}),
}


@pytest.mark.parametrize("case", WRONG_SOURCES)
def test_a_source_that_can_not_be_read_is_named(photos: Path, case: str) -> None:
    files, message, extra = WRONG_SOURCES[case]
    for name in files.split():
        (photos / name).write_bytes(b"")
    with pytest.raises(StageError, match=message):
        read(photos, **{key: photos / value for key, value in extra.items()})


def test_detections_are_matched_to_annotations_that_have_none(photos: Path, people, tmp_path: Path) -> None:
    shifted = [Someone(p.image, {n: (x + 1, y + 1, c) for n, (x, y, c) in p.joints.items()}, p.bbox, p.number) for p in people]
    write_openpose(tmp_path / "openpose", shifted, OPENPOSE_NAMES)
    (photos / "annotations.json").write_text(json.dumps(coco_style(people, boxes=True)))
    with_folder = ReaderOptions("all", 6, openpose=tmp_path / "openpose")
    found = [o for o in read_all(custom, photos, with_folder) if isinstance(o, Person)]
    matched = [p for p in found if not p.openpose_match]
    assert len(matched) > 0.9 * len(found) > 10
    for person in matched:
        own, detected = keypoints_of(person, "superset"), keypoints_of(person, "openpose")
        for name in own:
            assert np.allclose(np.array(own[name]) + 1, detected[name], atol=1e-2)


def test_the_default_asks_for_half_of_the_limb_joints() -> None:
    assert DATASETS["custom"].min_body_joints == 6
    assert DATASETS["coco"].min_body_joints == 12


def test_detections_alone_are_fitted_by_name(images: Path, people, tmp_path: Path, ray_running: None) -> None:
    """From OpenPose's files, of the older model and without a box, to valid fits. (The page of own data fits annotations.)"""
    mine = tmp_path / "photos"
    mine.mkdir()
    few = people[:8]
    for name in {p.image for p in few}:
        shutil.copy(images / name, mine / name)
    write_openpose(mine / "detections", few, COCO_18)
    data = DataFolder(tmp_path / "data")
    done = preprocess(data, DATASETS["custom"], mine, "mine", ReaderOptions("all", 6), workers=1)
    assert done.people == done.with_openpose >= 6
    fits = fit_static(data, "mine", FitConfig(), workers=1)
    assert fits.fitted == done.people
    assert fits.valid >= 0.7 * done.people


def test_a_name_that_is_no_text_is_rejected_before_it_is_written(images: Path, tmp_path: Path) -> None:
    """Names of files may hold bytes that are not UTF-8."""
    mine = tmp_path / "photos"
    mine.mkdir()
    shutil.copy(next(images.glob("*.jpg")), mine / "a.jpg")
    joints = {name: (20.0 + 10 * i, 200.0 - 15 * i, 1.0) for i, name in enumerate(PLAIN)}
    write_openpose(mine / "detections", [Someone("a.jpg", joints, [], 1)], OPENPOSE_NAMES)
    odd = os.fsencode(mine / "detections") + b"/\xff_keypoints.json"
    shutil.copy(mine / "detections" / "a_keypoints.json", odd)
    shutil.copy(mine / "a.jpg", os.fsencode(mine) + b"/\xff.jpg")
    data = DataFolder(tmp_path / "data")
    done = preprocess(data, DATASETS["custom"], mine, "mine", ReaderOptions("all", 6), workers=1)
    assert done.people == 1
    assert sum(done.rejected.values()) == 1
    assert Annotations.read(data.annotations("mine")).image == ["a.jpg"]


def test_lines_that_an_open_quote_swallows_are_all_rejected(photos: Path) -> None:
    header = "image,left_knee_x,left_knee_y,right_hip_x,right_hip_y\n"
    rows = ["a.jpg,1,2,30,40\n", '"b.jpg,1,2,30,40\n', "c.jpg,1,2,30,40\n", "d.jpg,1,2,30,40\n"]
    (photos / "table.csv").write_text(header + "".join(rows))
    outcomes = read(photos)
    assert [o.image for o in outcomes if isinstance(o, Person)] == ["a.jpg"]
    rejected = {o.source: o.reason for o in outcomes if isinstance(o, Rejected)}
    assert list(rejected) == ["row 3", "row 4", "row 5"]
    assert all("lines 3 to 5 are one row" in reason for reason in rejected.values())


def test_utf16_is_said_to_be_that(photos: Path) -> None:
    (photos / "table.csv").write_text("image,nose_x,nose_y\n", encoding="utf-16")
    with pytest.raises(StageError, match=r"table\.csv: is UTF-16; save it as UTF-8"):
        read(photos)
