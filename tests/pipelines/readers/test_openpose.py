"""Whose an OpenPose detection is: near and far people, people in each other's arms, swapped sides, and what the files lack."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.readers.base import ReaderOptions
from pipelines.readers.openpose import (
    MAX_DISTANCE,
    NO_FILE,
    detections_folder,
    match_image,
    match_people,
)
from spin.body import BodyData, BodyMesh
from spin.fitting.prior import PosePrior
from spin.joints import JOINTS, OPENPOSE_NAMES, SUPERSET_NAMES, mirrored
from spin.world import World, detect

SHARED = [(i, SUPERSET_NAMES.index(name)) for i, name in enumerate(OPENPOSE_NAMES) if name in SUPERSET_NAMES]
STANDING = {
    "nose": (0, -90), "neck": (0, -75), "right shoulder": (-18, -70), "right elbow": (-25, -40),
    "right wrist": (-28, -10), "right hip": (-11, -5), "right knee": (-12, 40), "right ankle": (-13, 85),
    "right eye": (-3, -93), "right ear": (-8, -91),
}  # fmt: skip


def standing(x: float, y: float, height: float = 200.0) -> tuple[np.ndarray, np.ndarray]:
    """Annotated (24, 3) and detected (25, 3) joints of somebody who faces the camera."""
    annotated, detected = np.zeros((24, 3), np.float32), np.zeros((25, 3), np.float32)
    places = STANDING | {name.replace("right", "left"): (-u, v) for name, (u, v) in STANDING.items() if "right" in name}
    for openpose, superset in SHARED:
        u, v = places[OPENPOSE_NAMES[openpose]]
        at = [x + u * height / 200, y + v * height / 200]
        annotated[superset], detected[openpose] = [*at, 1], [*at, 0.8]
    return annotated, detected


def only(joints: np.ndarray, names: tuple[str, ...], *of: str) -> np.ndarray:
    """The joints of which one of these words is the last."""
    keep = np.array([name.split(" ")[-1] in of for name in names])
    return np.where(keep[:, None], joints, 0).astype(np.float32)


def reason(annotated: np.ndarray, side: float, detected: np.ndarray) -> str:
    return match_people(annotated[None], np.array([side]), detected[None])[0].reason


def test_a_near_person_of_whom_only_the_face_is_seen_matches() -> None:
    # The published rule wants all twelve limb joints of a detection, and drops this one.
    annotated, detected = standing(200, 200, height=1000)
    annotated = only(annotated, SUPERSET_NAMES, "nose", "eye", "ear")
    detected = only(detected, OPENPOSE_NAMES, "nose", "eye", "ear")
    detected[:, :2] += 3 * (detected[:, 2:] > 0)
    assert reason(annotated, 100.0, detected) == ""


def test_a_far_person_is_scored_by_its_own_size() -> None:
    # 12 px is nothing for a person of 400 px and another person for one of 40: the published rule keeps both.
    for height, matches in ((400, True), (40, False)):
        annotated, detected = standing(200, 200, height)
        detected[:, 0] += 12
        assert (reason(annotated, 1.2 * height, detected) == "") == matches


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_the_limit_is_where_it_says(share: float) -> None:
    annotated, detected = standing(200, 200)
    detected[:, 0] += share * MAX_DISTANCE * 240
    assert (reason(annotated, 240.0, detected) == "") == (share < 1)


def test_everything_mirrored_is_rejected_as_that_and_one_pair_of_limbs_is_not() -> None:
    annotated, detected = standing(200, 200)
    turned = detected[list(mirrored(OPENPOSE_NAMES))]
    turned_far = turned + np.float32([500, 0, 0])
    # An annotated head, neck and trunk would still be in place: the limbs are what is asked here.
    limbs = only(annotated, SUPERSET_NAMES, "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    assert reason(limbs, 240.0, turned) in ("", "the nearest detection has left and right swapped")
    arms = only(annotated, SUPERSET_NAMES, "shoulder", "elbow", "wrist")
    assert reason(arms, 240.0, turned) == "the nearest detection has left and right swapped"
    assert "box sides away" in reason(arms, 240.0, turned_far)
    legs_swapped = detected.copy()
    for part in ("hip", "knee", "ankle"):
        pair = [OPENPOSE_NAMES.index(f"{side} {part}") for side in ("left", "right")]
        legs_swapped[pair] = detected[pair[::-1]]
    assert reason(annotated, 240.0, legs_swapped) == ""


def test_a_whole_skeleton_is_preferred_to_a_fragment_that_is_nearer() -> None:
    annotated, whole = standing(200, 200)
    fragment = only(whole, OPENPOSE_NAMES, "nose", "eye", "ear")
    whole = whole + np.float32([2, 0, 0]) * (whole[:, 2:] > 0)
    match = match_people(annotated[None], np.array([240.0]), np.stack([fragment, whole]))[0]
    assert np.array_equal(match.keypoints_px, whole)


def test_of_two_people_in_each_others_arms_both_are_explained() -> None:
    # The first person is nearer to the second's detection than to its own, and the second has no other.
    (first, own), (second, others) = standing(200, 200), standing(212, 200)
    own[:, 0] -= 8
    others[:, 0] -= 6
    found = match_people(np.stack([first, second]), np.array([240.0, 240.0]), np.stack([others, own]))
    assert [m.reason for m in found] == ["", ""]
    assert np.array_equal(found[0].keypoints_px, own)
    assert np.array_equal(found[1].keypoints_px, others)


def test_as_many_as_can_be_are_matched_whatever_their_order() -> None:
    random = np.random.default_rng(4)
    crowd = [standing(200 + 16 * k, 200 + random.normal(0, 3)) for k in range(5)]
    people = np.stack([a for a, _ in crowd])
    found = np.stack([d for _, d in crowd])[[0, 2, 3, 4]]
    found[..., :2] += random.normal(0, 2, found[..., :2].shape)
    for order in itertools.islice(itertools.permutations(range(4)), 0, 24, 5):
        matches = match_people(people, np.full(5, 240.0), found[list(order)])
        assert sum(not m.reason for m in matches) == 4
        used = [m.keypoints_px.tobytes() for m in matches if not m.reason]
        assert len(set(used)) == 4, "a detection was used twice"
        assert matches[0].keypoints_px.tobytes() == found[0].tobytes()


def test_inputs_stay_as_they_were() -> None:
    annotated, detected = standing(200, 200)
    copies = annotated.copy(), detected.copy()
    match = match_people(annotated[None], np.array([240.0]), detected[None])[0]
    match.keypoints_px[:] = -1
    assert np.array_equal(annotated, copies[0])
    assert np.array_equal(detected, copies[1])


def test_people_of_the_world_get_their_own_detections(body: BodyData, mesh: BodyMesh, prior: PosePrior) -> None:
    """A detector that misses, swaps and invents people: no person gets another's, and nearly all get their own."""
    world, right, wrong, asked = World(body, mesh, prior), 0, 0, 0
    coco = [k - JOINTS.superset.start for k in JOINTS.coco]
    for index in range(24):
        picture = world.picture(21, index)
        found = np.array([d.keypoints_px for d in detect(picture, np.random.default_rng(index))], np.float32).reshape(-1, 25, 3)
        annotated = np.zeros((len(picture.people), 24, 3), np.float32)
        for k, person in enumerate(picture.people):
            seen = person.visibility[list(JOINTS.coco)] > 0
            annotated[k, coco] = np.c_[person.keypoints_px[list(JOINTS.coco)], np.ones(17)] * seen[:, None]
        sides = np.array([1.2 * np.ptp(np.argwhere(p.mask), axis=0).max() for p in picture.people])
        for k, match in enumerate(match_people(annotated, sides, found)):
            seen = match.keypoints_px[:, 2] > 0
            apart = (
                [
                    np.median(np.linalg.norm((match.keypoints_px[:, :2] - p.keypoints_px[JOINTS.openpose])[seen], axis=1))
                    for p in picture.people
                ]
                if seen.any()
                else []
            )
            asked += 1
            right += bool(apart) and int(np.argmin(apart)) == k
            wrong += bool(apart) and int(np.argmin(apart)) != k
    assert wrong == 0
    assert right >= 0.85 * asked


# ---- Folders and files -------------------------------------------------------------------------------------------------


def test_detections_lie_in_the_published_folder_or_where_they_are_said_to(tmp_path: Path) -> None:
    inside, given = ReaderOptions("train"), ReaderOptions("train", openpose=tmp_path / "all")
    assert detections_folder(tmp_path, inside, "hrlspet") is None
    (tmp_path / "openpose").mkdir()
    assert detections_folder(tmp_path, inside, "hrlspet") == tmp_path / "openpose"
    (tmp_path / "openpose" / "hrlspet").mkdir()
    assert detections_folder(tmp_path, inside, "hrlspet") == tmp_path / "openpose" / "hrlspet"
    (tmp_path / "all" / "hrlspet").mkdir(parents=True)
    assert detections_folder(tmp_path, given, "hrlspet") == tmp_path / "all" / "hrlspet"


def test_an_image_without_a_file_says_so_and_one_with_a_broken_file_names_it(tmp_path: Path) -> None:
    annotated, detected = standing(200, 200)
    side = np.array([240.0])
    for folder in (None, tmp_path):
        assert match_image(folder, "images/a.jpg", annotated[None], side)[0].reason == NO_FILE
    assert match_image(tmp_path, "a\0b.jpg", annotated[None], side)[0].reason.startswith(str(tmp_path))
    (tmp_path / "a_keypoints.json").write_text("{")
    assert "a_keypoints.json: not an OpenPose file" in match_image(tmp_path, "images/a.jpg", annotated[None], side)[0].reason
    people = [{"pose_keypoints_2d": detected.ravel().tolist()}]
    (tmp_path / "a_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    match = match_image(tmp_path, "images/a.jpg", annotated[None], side)[0]
    assert match.reason == ""
    assert np.array_equal(match.keypoints_px, detected)
