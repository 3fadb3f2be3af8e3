"""OpenPose's files in every form that users have: the demo, own data and published layouts read them alike, or reject them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.demo.bodies import people_detected, person_of_box
from pipelines.errors import StageError
from pipelines.readers.base import Person, ReaderOptions, Rejected
from pipelines.readers.custom import reader as custom
from pipelines.readers.formats.openpose_file import BODY_25B, COCO_18, is_body_25b, read_openpose
from pipelines.readers.openpose import match_image
from spin.fitting.sampling import PoseSource, draw_people
from spin.joints import COCO_NAMES, JOINTS, OPENPOSE_NAMES

Joints = dict[str, tuple[float, float, float]]
HEIGHT, WIDTH = 300, 240
STANDING = {
    "nose": (0, -90), "neck": (0, -72), "upper neck": (0, -74), "top of head": (0, -105), "mid hip": (0, -3),
    "right shoulder": (-18, -70), "right elbow": (-25, -40), "right wrist": (-28, -10), "right hip": (-11, -5),
    "right knee": (-12, 40), "right ankle": (-13, 85), "right eye": (-3, -93), "right ear": (-8, -91),
    "right heel": (-13, 90), "right big toe": (-16, 95), "right small toe": (-19, 94),
}  # fmt: skip


def standing(confidence: float = 0.8) -> Joints:
    """Somebody of 200 px in the middle of an image."""
    places = STANDING | {name.replace("right", "left"): (-u, v) for name, (u, v) in STANDING.items() if "right" in name}
    return {name: (120.0 + u, 150.0 + v, confidence) for name, (u, v) in places.items()}


def flat(joints: Joints, order: tuple[str, ...] = OPENPOSE_NAMES) -> list[float]:
    return [value for name in order for value in joints[name]]


def scaled(joints: Joints, *, signed: bool) -> Joints:
    """As --keypoint_scale 3 (0..1) and 4 (-1..1) write them."""
    low = 1.0 if signed else 0.0
    return {n: ((1 + low) * x / WIDTH - low, (1 + low) * y / HEIGHT - low, c) for n, (x, y, c) in joints.items()}


def with_confidence(joints: Joints, factor: float) -> Joints:
    return {name: (x, y, factor * c) for name, (x, y, c) in joints.items()}


# ---- three ways in: each returns the joints of the first person, or why there are none -----------------------------------


def by_demo(file: Path) -> np.ndarray | str:
    try:
        (person,) = people_detected(file, np.zeros((HEIGHT, WIDTH, 3), np.uint8), "largest")
    except StageError as error:
        return str(error)
    assert person.keypoints_px is not None
    return person.keypoints_px[JOINTS.openpose]


def by_own_data(file: Path) -> np.ndarray | str:
    file.with_name("a.jpg").touch()
    options = ReaderOptions("all", 6, extra={"detections": file.parent})
    found = [one for part in custom.parts(file.parent, options) for one in custom.read(file.parent, part, options)]
    people = [one for one in found if isinstance(one, Person)]
    return people[0].keypoints_px[JOINTS.openpose] if people else next(o.reason for o in found if isinstance(o, Rejected))


def by_published_layouts(file: Path) -> np.ndarray | str:
    annotated = np.zeros((24, 3), np.float32)
    for name in COCO_NAMES:
        annotated[JOINTS.index[name] - JOINTS.superset.start] = [*standing()[name][:2], 1]
    (match,) = match_image(file.parent, "a.jpg", annotated[None], np.array([240.0]))
    return match.reason or match.keypoints_px


WAYS = [by_demo, by_own_data, by_published_layouts]
ways = pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])


def file_of(folder: Path, *people: object) -> Path:
    path = folder / "a_keypoints.json"
    path.write_text(json.dumps({"version": 1.3, "people": people}))
    return path


@ways
@pytest.mark.parametrize("key", ["pose_keypoints_2d", "pose_keypoints"])
@pytest.mark.parametrize("order", [OPENPOSE_NAMES, COCO_18], ids=["BODY_25", "COCO"])
def test_both_models_and_both_keys_are_read_everywhere(
    way: Callable[[Path], np.ndarray | str], key: str, order: tuple[str, ...], tmp_path: Path
) -> None:
    found = way(file_of(tmp_path, {key: flat(standing(), order), "face_keypoints_2d": [], "hand_left_keypoints_2d": [1, 2, 3]}))
    assert not isinstance(found, str), found
    expected = np.array([standing()[name] if name in order else (0, 0, 0) for name in OPENPOSE_NAMES])
    assert found == pytest.approx(expected, abs=1e-5)


@ways
@pytest.mark.parametrize(
    ("joints", "order", "reason"),
    [
        (scaled(standing(), signed=False), OPENPOSE_NAMES, "--keypoint_scale 0"),
        (scaled(standing(), signed=True), OPENPOSE_NAMES, "--keypoint_scale 0"),
        (scaled(standing(), signed=False), COCO_18, "--keypoint_scale 0"),
        (with_confidence(standing(), 100), OPENPOSE_NAMES, "confidences up to 80, expected 0 to 1; divide"),
        (with_confidence(standing(), 100), COCO_18, "confidences up to 80, expected 0 to 1; divide"),
        (standing(), BODY_25B, "joints in BODY_25B's order, expected BODY_25's; run OpenPose with --model_pose BODY_25"),
        (standing(), OPENPOSE_NAMES[:15], "has 45 numbers, its MPI model's; expected 75"),
        (standing(), OPENPOSE_NAMES[:5], "has 15 numbers; expected 75"),
    ],
    ids=["0..1", "-1..1", "0..1 COCO", "per cent", "per cent COCO", "BODY_25B", "MPI", "nothing known"],
)
def test_other_numbers_are_rejected_everywhere_with_what_to_do(
    way: Callable[[Path], np.ndarray | str], joints: Joints, order: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    found = way(file_of(tmp_path, {"pose_keypoints_2d": flat(joints, order)}))
    assert isinstance(found, str)
    assert reason in found


def test_who_has_a_face_alone_counts_but_has_no_body(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"pose_keypoints_2d": [], "face_keypoints_2d": [1, 2, 3]}, {"pose_keypoints_2d": flat(standing())})
    first, second = read_openpose(file)
    assert isinstance(first, str) and "no body" in first
    assert not isinstance(second, str)
    (person,) = people_detected(file, np.zeros((HEIGHT, WIDTH, 3), np.uint8), "all")
    assert person.number == 2  # in the file's order
    assert not isinstance(by_own_data(file), str)
    assert not isinstance(by_published_layouts(file), str)


def test_confidences_a_little_above_one_are_openposes_own(tmp_path: Path) -> None:
    (joints,) = read_openpose(file_of(tmp_path, {"pose_keypoints_2d": flat(standing(1.06))}))
    assert not isinstance(joints, str)
    assert set(joints[:, 2]) == {1.0}


def test_the_two_models_of_25_joints_are_told_apart(compact, prior) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        people = draw_people(compact, PoseSource(prior), 500, generator).pixels.numpy()
    named = {name.removeprefix("OpenPose "): people[:, k] for name, k in JOINTS.index.items() if name.startswith("OpenPose")}
    named["upper neck"], named["top of head"] = (people[:, JOINTS.index[n]] for n in ("neck", "top of head"))
    rng = np.random.default_rng(0)
    for order, most_of_body, least, most in ((OPENPOSE_NAMES, 0.6, 0.0, 0.004), (BODY_25B, 1.0, 0.98, 1.0)):
        joints = np.stack([named[name] for name in order], 1)
        joints = np.concatenate([joints, rng.random((*joints.shape[:2], 1)) < most_of_body], -1)
        joints[joints[..., 2] == 0] = 0
        share = np.mean([is_body_25b(person[None]) for person in joints])
        assert least <= share <= most
        assert is_body_25b(joints[:20]) == (order is BODY_25B)  # all people of a file together
    assert not is_body_25b(np.zeros((1, 25, 3)))  # no keypoints are of no model


@pytest.mark.parametrize("box", [[0.2, 0.1, 0.5, 0.7], [-0.4, -0.3, 1.1, 0.9], [0, 0, 1, 1], [100, 100, 2, 3]])
def test_a_box_that_is_not_in_pixels_is_rejected(box: list[float], tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    file.write_text(json.dumps({"bbox": box}))
    with pytest.raises(StageError, match=r"box\.json: the box .* is smaller than 4 px, expected pixels; multiply"):
        person_of_box(file, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    file.write_text(json.dumps({"bbox": [20, 30, 4, 60]}))
    assert person_of_box(file, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
