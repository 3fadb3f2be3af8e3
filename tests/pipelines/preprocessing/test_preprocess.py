from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import StageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS, read_all
from pipelines.readers.base import Person, ReaderOptions, Rejected
from pipelines.readers.coco import reader as coco
from pipelines.readers.openpose import match_people, read_detections
from spin.joints import JOINTS, OPENPOSE_NAMES, SUPERSET_NAMES
from store.annotations.table import Annotations

COCO = DATASETS["coco"]
ALL_JOINTS = ReaderOptions("train2014", min_body_joints=12)


@pytest.fixture
def mine(world: Path, tmp_path: Path) -> Path:
    """A copy of the world that a test may spoil."""
    return shutil.copytree(world, tmp_path / "raw")


def edited(root: Path) -> tuple[Path, dict[str, Any]]:
    path = root / "annotations" / "person_keypoints_train2014.json"
    return path, json.loads(path.read_text())


def test_coco_people_keep_their_keypoints_boxes_and_truth(world: Path) -> None:
    content = edited(world)[1]
    by_name = {f"annotation {a['id']}": a for a in content["annotations"]}
    outcomes = list(read_all(coco, world, ReaderOptions("train2014", 8)))
    people = [o for o in outcomes if isinstance(o, Person)]
    assert len(outcomes) == len(by_name) == len({o.source for o in outcomes})
    assert len(people) > 20
    truth = np.load(world / "truth" / "train2014.npz")
    assert sum(p.truth is not None for p in people) <= truth["given"].sum()
    for person in people:
        given = np.array(by_name[person.source]["keypoints"], float).reshape(17, 3)
        seen = given[:, 2] > 0
        part = person.keypoints_px[list(JOINTS.coco)]
        assert np.array_equal(part[seen, :2], given[seen, :2])
        assert np.array_equal(part[:, 2], seen)
        x, y, width, height = by_name[person.source]["bbox"]
        assert np.allclose(person.center_px, [x + width / 2, y + height / 2])
        assert person.scale == pytest.approx(1.2 * max(width, height) / 200)


def test_people_with_few_joints_are_rejected_with_the_number(world: Path) -> None:
    strict = list(read_all(coco, world, ALL_JOINTS))
    lenient = list(read_all(coco, world, ReaderOptions("train2014", 0)))
    assert all(isinstance(o, Person) for o in lenient)
    rejected = [o for o in strict if isinstance(o, Rejected)]
    assert 0 < len(rejected) < len(strict)
    assert all("of 12 body joints annotated, 12 asked for" in r.reason for r in rejected)


SPOILED: dict[str, tuple[Any, str]] = {
    "no keypoints": (lambda a: a.pop("keypoints"), "has no 'keypoints'"),
    "wrong count": (lambda a: a.update(keypoints=[1, 2, 3]), "not 17 × 3"),
    "NaN": (lambda a: a["keypoints"].__setitem__(6, float("nan")), "not a number"),
    "astronomical": (lambda a: a["keypoints"].__setitem__(6, 10**400), "not 17 × 3"),
    "text": (lambda a: a["keypoints"].__setitem__(6, "left"), "not 17 × 3"),
    "flat box": (lambda a: a.update(bbox=[5, 5, 0, 0]), "has no area"),
    "tiny box": (lambda a: a.update(bbox=[0, 0, 1e-46, 1e-46]), "has no area"),
    "astronomical box": (lambda a: a.update(bbox=[0, 0, 1e300, 1e300]), "not in pixels"),
    "box far too large": (lambda a: a.update(bbox=[0, 0, 9e5, 9e5]), "over fifty times"),
    "unknown image": (lambda a: a.update(image_id=[1]), "'images' does not list"),
    "crowd": (lambda a: a.update(iscrowd=1), "crowd"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_annotation_is_rejected_and_the_rest_goes_on(mine: Path, tmp_path: Path, case: str) -> None:
    spoil, reason = SPOILED[case]
    path, content = edited(mine)
    options = ReaderOptions("train2014", 8)
    good = next(o for o in read_all(coco, mine, options) if isinstance(o, Person)).source
    before = sum(isinstance(o, Person) for o in read_all(coco, mine, options))
    spoil(next(a for a in content["annotations"] if f"annotation {a['id']}" == good))
    path.write_text(json.dumps(content))
    data = DataFolder(tmp_path / "data")
    summary = preprocess(data, COCO, mine, "mine", options)
    assert summary.people == before - 1
    listed = json.loads(data.rejected("mine").read_text())
    assert [e for e in listed if e["source"] == good and reason in e["reason"]]
    assert sum(summary.rejected.values()) == len(listed)


def test_entries_that_can_not_be_placed_are_rejected(mine: Path) -> None:
    path, content = edited(mine)
    options = ReaderOptions("train2014", 0)
    before = list(read_all(coco, mine, options))
    first, second = content["annotations"][:2]
    content["annotations"] += [None, dict(first), {**second, "id": 9001, "image_id": 9002}]
    outside = {"id": 9003, "file_name": "../../outside.jpg", "width": 9, "height": 9}
    backslash = {"id": 9004, "file_name": "a\\b.jpg", "width": 9, "height": 9}
    content["images"] += [None, outside, backslash]
    content["annotations"] += [
        {**second, "id": 9005, "image_id": 9003},
        {**second, "id": 9006, "image_id": 9004},
    ]
    path.write_text("\ufeff" + json.dumps(content))  # with a byte order mark, as some editors write it
    after = list(read_all(coco, mine, options))
    reasons = {o.source: o.reason for o in after if isinstance(o, Rejected)}
    assert set(reasons.values()) == {
        "is not an annotation",
        "names image 9002, which 'images' does not list",
        "its image is outside the root",
        "its image's name has a backslash; use forward slashes",
    }
    # The copy has a name of its own; preprocess finds it listed twice.
    assert sum(isinstance(o, Person) for o in after) == len(before) + 1
    assert len({(o.image, o.source) for o in after if isinstance(o, Person)}) == len(before) + 1


def test_ids_written_as_text_find_their_truth(mine: Path) -> None:
    path, content = edited(mine)
    known = [o.source for o in read_all(coco, mine, ReaderOptions("train2014", 0)) if isinstance(o, Person) and o.truth]
    for annotation in content["annotations"]:
        annotation["id"] = str(annotation["id"])
    path.write_text(json.dumps(content))
    again = [o.source for o in read_all(coco, mine, ReaderOptions("train2014", 0)) if isinstance(o, Person) and o.truth]
    assert again == known != []


def test_missing_and_broken_images_are_rejected(mine: Path, tmp_path: Path) -> None:
    options = ReaderOptions("train2014", 8)
    images = sorted({o.image for o in read_all(coco, mine, options) if isinstance(o, Person)})
    (mine / images[0]).unlink()
    (mine / images[1]).write_bytes(b"no picture")
    (mine / images[2]).write_bytes(b"")
    summary = preprocess(DataFolder(tmp_path / "data"), COCO, mine, "mine", options)
    assert summary.images == len(images) - 3
    assert summary.rejected["its image is missing"] >= 1
    assert summary.rejected["its image can't be decoded"] >= 2


def test_nothing_usable_is_an_error_and_keeps_the_earlier_result(mine: Path, tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    preprocess(data, COCO, mine, "mine", ReaderOptions("train2014", 8))
    earlier = Annotations.read(data.annotations("mine")).content_hash
    for image in (mine / "train2014").glob("*.jpg"):
        image.unlink()
    with pytest.raises(StageError, match=r"no usable person among \d+; most often: its image is missing"):
        preprocess(data, COCO, mine, "mine", ReaderOptions("train2014", 8))
    assert Annotations.read(data.annotations("mine")).content_hash == earlier


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("not json", "not a COCO keypoints file"),
        ("[]", "not a COCO keypoints file"),
        ('{"images": []}', "not a COCO keypoints file"),
        ('{"images": [], "annotations": 3}', "not a COCO keypoints file"),
    ],
)
def test_a_file_that_is_not_cocos_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "annotations" / "person_keypoints_train2014.json"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content)
    with pytest.raises(StageError, match=message):
        list(read_all(coco, tmp_path, ALL_JOINTS))


# ---- OpenPose ---------------------------------------------------------------------------------------------------------

SHARED = [(i, SUPERSET_NAMES.index(n)) for i, n in enumerate(OPENPOSE_NAMES) if n in SUPERSET_NAMES]


def person_at(x: float, y: float, size: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Annotated (24, 3) and detected (25, 3) joints of one person, scattered over its box."""
    rng = np.random.default_rng(0)
    annotated, detected = np.zeros((24, 3), np.float32), np.zeros((25, 3), np.float32)
    for openpose, superset in SHARED:
        xy = np.array([x, y]) + size * rng.uniform(-0.5, 0.5, 2)
        annotated[superset], detected[openpose] = [*xy, 1], [*xy, 0.8]
    return annotated, detected


def test_each_person_gets_its_own_detection() -> None:
    (a1, d1), (a2, d2) = person_at(100, 100), person_at(160, 110)
    matches = match_people(np.stack([a1, a2]), np.array([100.0, 100.0]), np.stack([d2, d1]))
    assert np.array_equal(matches[0].keypoints_px, d1)
    assert np.array_equal(matches[1].keypoints_px, d2)
    assert [m.reason for m in matches] == ["", ""]


def test_a_far_detection_is_rejected_in_units_of_the_person() -> None:
    annotated, detected = person_at(100, 100)
    detected[:, 0] += 30
    near, far = (match_people(annotated[None], np.array([side]), detected[None])[0] for side in (400.0, 100.0))
    assert near.reason == ""
    assert "0.30 box sides away" in far.reason
    assert not far.keypoints_px.any()


def test_missing_limbs_and_swapped_legs_still_match() -> None:
    annotated, detected = person_at(100, 100)
    left = [OPENPOSE_NAMES.index(f"left {p}") for p in ("hip", "knee", "ankle")]
    right = [OPENPOSE_NAMES.index(f"right {p}") for p in ("hip", "knee", "ankle")]
    detected[left + right] = detected[right + left]
    detected[OPENPOSE_NAMES.index("left wrist")] = 0
    assert match_people(annotated[None], np.array([100.0]), detected[None])[0].reason == ""


def test_one_detection_is_not_given_to_two_people() -> None:
    annotated, detected = person_at(100, 100)
    shifted = annotated + np.float32([3, 0, 0]) * (annotated[:, 2:] > 0)
    matches = match_people(np.stack([shifted, annotated]), np.array([100.0, 100.0]), detected[None])
    assert [m.reason for m in matches] == ["the nearest detection belongs to a nearer person", ""]


def test_too_few_shared_joints_and_no_detection_say_so() -> None:
    annotated, detected = person_at(100, 100)
    detected[3:] = 0  # of those left, nose, neck and right shoulder, one more goes
    detected[0] = 0
    assert "no detection shares 3" in match_people(annotated[None], np.array([100.0]), detected[None])[0].reason
    nothing = np.zeros((0, 25, 3), np.float32)
    assert "no detection in the image" in match_people(annotated[None], np.array([100.0]), nothing)[0].reason


def test_openpose_files(tmp_path: Path) -> None:
    path = tmp_path / "x_keypoints.json"
    joints = [10.0, 20.0, 1.1] * 25
    joints[3] = float("nan")
    path.write_text(json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": joints}]}))
    found = read_detections(path)
    assert found[0, 0].tolist() == [10, 20, 1]  # confidences are in [0, 1]
    assert found[0, 1].tolist() == [0, 0, 0]  # not a number: not seen
    path.write_text('{"people": []}')
    assert read_detections(path).shape == (0, 25, 3)
    for wrong, reason in (
        ("", "not an OpenPose file"),
        ("[]", "not an OpenPose file"),
        ('{"people": {}}', "not an OpenPose file"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', r"person 1 'pose_keypoints_2d' has 2 numbers; expected 75 \(BODY_25\)"),
        ('{"people": [{"pose_keypoints_2d": []}, {}]}', "person 2 'pose_keypoints_2d' has no list"),
        ('{"people": [7]}', "person 1 is not a person"),
    ):
        path.write_text(wrong)
        with pytest.raises(StageError, match=rf"x_keypoints\.json: {reason}"):
            read_detections(path)


def test_a_broken_openpose_file_costs_the_detection_not_the_person(mine: Path) -> None:
    for file in (mine / "openpose" / "train2014").glob("*.json"):
        file.write_text("broken")
    people = [o for o in read_all(coco, mine, ReaderOptions("train2014", 8)) if isinstance(o, Person)]
    assert people
    assert all("not an OpenPose file" in p.openpose_match for p in people)
    assert not any(p.keypoints_px[JOINTS.openpose].any() for p in people)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_box_outside_its_image_is_rejected_and_one_at_its_edge_is_not(mine: Path, tmp_path: Path, orientation: int) -> None:
    """Sizes are of the upright image: EXIF's orientation 6 exchanges width and height."""
    path, content = edited(mine)
    file = mine / "train2014" / content["images"][0]["file_name"]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (400, 100)).save(file, exif=exif)
    width, height = (400, 100) if orientation == 1 else (100, 400)
    first = content["annotations"][0]
    boxes = {
        "beyond": [width + 60, 10, 50, 50],
        "below": [10, height + 60, 50, 50],
        "edge": [width - 10, 10, 50, 50],
    }
    content["images"] = [{"id": content["images"][0]["id"], "file_name": file.name}]
    content["annotations"] = []
    for number, (x, y, w, h) in enumerate(boxes.values()):
        keypoints = [value for k in range(17) for value in (x + k / 2, y + 3 * k, 2)]
        content["annotations"].append(first | {"id": number, "bbox": [x, y, w, h], "keypoints": keypoints})
    path.write_text(json.dumps(content))
    data = DataFolder(tmp_path / "data")
    done = preprocess(data, COCO, mine, "mine", ReaderOptions("train2014", 8))
    assert Annotations.read(done.path).source == ["annotation 2"]
    assert done.rejected == {f"its box is outside the image ({width} × {height} px)": 2}


@pytest.mark.parametrize("name", ["coco", "custom"])
def test_ids_may_be_texts_and_one_that_stands_for_two_images_names_neither(mine: Path, tmp_path: Path, name: str) -> None:
    path, content = edited(mine)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for entry, key in [(i, "id") for i in content["images"]] + [(a, "image_id") for a in content["annotations"]]:
        entry[key] = f"image-{entry[key]}"
    owner = {f"annotation {a['id']}": names[int(a["image_id"][6:])] for a in content["annotations"]}
    path.write_text(json.dumps(content))
    extra = {} if name == "coco" else {"annotations": path, "images": None, "joints": None, "table": None, "detections": None}
    root = mine if name == "coco" else mine / "train2014"

    def outcomes() -> list[Person | Rejected]:
        return list(read_all(DATASETS[name].reader, root, ReaderOptions("train2014", 8, extra=extra)))

    people = [o for o in outcomes() if isinstance(o, Person)]
    assert len({p.image for p in people}) > 10
    assert all(p.image.endswith(owner[p.source]) for p in people)
    content["images"].append(content["images"][0] | {"file_name": "another.jpg"})
    shared = content["images"][0]["id"]
    content["annotations"].append(content["annotations"][0] | {"id": 10**9, "image_id": None})
    path.write_text(json.dumps(content))
    rejected = {o.source: o.reason for o in outcomes() if isinstance(o, Rejected)}
    for annotation in content["annotations"]:
        if annotation["image_id"] == shared:
            assert "stands for several images" in rejected[f"annotation {annotation['id']}"]
    assert "'images' does not list" in rejected[f"annotation {10**9}"]


def test_a_run_that_finds_nobody_leaves_the_earlier_list_alone(mine: Path, tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    preprocess(data, COCO, mine, "mine", ALL_JOINTS)
    before = data.rejected("mine").read_bytes()
    path, content = edited(mine)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(StageError, match=r"no usable person.*mine\.failed\.json"):
        preprocess(data, COCO, mine, "mine", ALL_JOINTS)
    assert data.rejected("mine").read_bytes() == before
    assert len(json.loads(data.failed("mine").read_text())) == len(content["annotations"])
