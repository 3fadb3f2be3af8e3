"""Human3.6M: the truth of its layout comes back, and damage costs what it touches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from pipelines.errors import StageError
from pipelines.readers import DATASETS
from pipelines.readers.base import Person, ReaderOptions
from pipelines.readers.h36m.cameras import euler_matrix
from pipelines.synthetic.layouts.recordings import write_cdf, write_mat73
from spin.joints import JOINTS
from tests.pipelines.mutations import byte_mutations, outcomes_of
from tests.pipelines.raw_trees import joints17_cam_m, made, outcomes, project, truth_of

SPLITS = ("h36m", "h36m-p1", "h36m-p2")
NAME = "Directions 1.60457274"
D3 = f"S9/MyPoseFeatures/D3_Positions_mono/{NAME}.cdf"
D2 = f"S9/MyPoseFeatures/D2_Positions/{NAME}.cdf"
BOXES = f"S9/MySegmentsMat/ground_truth_bb/{NAME}.mat"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """S1 and S9, an action each, two moments from four cameras."""
    return made(tmp_path_factory.mktemp("raw"), "h36m", people=16)


@pytest.fixture
def small(tree: Path, tmp_path: Path) -> Path:
    """One sequence of S9, which a test may spoil, as protocol 2 reads it."""
    for file in (D3, D2, BOXES, "metadata.xml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / file, tmp_path / file)
    (tmp_path / "images").mkdir()
    return tmp_path


def test_each_split_has_its_subjects_and_cameras(tree: Path) -> None:
    people = {split: outcomes(split, tree)[0] for split in SPLITS}
    assert [len(people[split]) for split in SPLITS] == [8, 8, 2]
    assert {p.image.split("_")[0] for p in people["h36m"]} == {"images/S1"}
    assert {p.image.split("_")[0] for p in people["h36m-p1"]} == {"images/S9"}
    assert [p.image for p in people["h36m-p2"]] == [
        "images/S9_Directions_1.60457274_000001.jpg",
        "images/S9_Directions_1.60457274_000006.jpg",
    ]
    assert all((tree / p.image).is_file() for split in SPLITS for p in people[split])


@pytest.mark.parametrize("split", SPLITS)
def test_the_truth_comes_back(tree: Path, split: str) -> None:
    truth, alike = truth_of(tree), ["pelvis", "spine", "neck", "jaw", "head"]
    for person in outcomes(split, tree)[0]:
        row = truth[person.image, 0]
        joints = joints17_cam_m(row)
        assert person.truth is not None and person.camera is not None
        np.testing.assert_allclose(person.truth.joints17_m, joints - joints[0], atol=2e-6)
        np.testing.assert_array_equal(person.keypoints_px[list(JOINTS.h36m), 2], 1)
        np.testing.assert_allclose(person.keypoints_px[list(JOINTS.h36m), :2], project(person.camera, joints), atol=1e-3)
        # joints that the regressor of the 17 and the keypoints place alike: not by the reader's own camera
        at = [JOINTS.index[name] for name in alike]
        np.testing.assert_allclose(person.keypoints_px[at, :2], row["keypoints_px"][at], atol=0.05)
        s = person.truth.joints3d_m
        assert s is not None and person.truth.joints17_m is not None
        order = np.array(JOINTS.h36m) - JOINTS.superset.start
        np.testing.assert_array_equal(s[order, :3], person.truth.joints17_m)
        assert s[:, 3].sum() == 17


def test_boxes_are_the_masks_with_the_published_margin(tree: Path) -> None:
    person = outcomes("h36m-p2", tree)[0][1]
    with h5py.File(tree / BOXES) as file:
        mask = file[file["Masks"][5, 0]][()].T
    down, across = np.nonzero(mask)
    left, top, right, bottom = across.min(), down.min(), across.max() + 1, down.max() + 1
    np.testing.assert_allclose(person.center_px, [(left + right) / 2, (top + bottom) / 2])
    assert person.scale == pytest.approx(0.9 * max(right - left, bottom - top) / 200)


def test_views_of_a_moment_place_it_in_one_world(tree: Path) -> None:
    """Breaks if metadata.xml's angles, places or their order are misread."""
    people, truth = outcomes("h36m", tree)[0], truth_of(tree)
    by_pose: dict[str, list[np.ndarray]] = {}
    for person in people:
        assert person.view is not None
        seen = joints17_cam_m(truth[person.image, 0])
        place = (seen - person.view.translation_m) @ person.view.rotation
        by_pose.setdefault(person.view.pose_id, []).append(place)
    assert set(by_pose) == {"S1/Directions 1/000001", "S1/Directions 1/000006"}
    for places in by_pose.values():
        assert len(places) == 4
        np.testing.assert_allclose(places, np.broadcast_to(places[0], (4, 17, 3)), atol=1e-5)
        # z points up
        assert places[0][10, 2] > places[0][0, 2] > places[0][3, 2]


def test_angles_are_about_x_then_y_then_z() -> None:
    x, y, z = 0.3, -0.7, 1.9
    about_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    about_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    about_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    expected = np.array(about_x) @ np.array(about_y) @ np.array(about_z)
    np.testing.assert_allclose(euler_matrix(np.array([x, y, z])), expected, atol=1e-12)


def test_without_metadata_people_have_no_camera(small: Path) -> None:
    (small / "metadata.xml").unlink()
    people = outcomes("h36m-p2", small)[0]
    assert [(p.camera, p.view) for p in people] == [(None, None)] * 2


def test_without_2d_positions_people_have_no_keypoints_and_it_is_said(small: Path, capsys) -> None:
    shutil.rmtree((small / D2).parent)
    people = outcomes("h36m-p2", small)[0]
    assert len(people) == 2
    assert not any(p.keypoints_px.any() for p in people)
    assert all(p.truth is not None for p in people)
    assert "no MyPoseFeatures/D2_Positions of S9" in capsys.readouterr().err


def test_frames_are_extracted_where_their_poses_are(tree: Path, tmp_path: Path) -> None:
    """Breaks if a picture is the frame before or after: those are grey."""
    copy = shutil.copytree(tree, tmp_path / "raw")
    shutil.rmtree(copy / "images")
    with pytest.raises(StageError, match="images: no such folder; --extract-images"):
        outcomes("h36m-p1", copy)
    people = outcomes("h36m-p1", copy, extract_images=True)[0]
    for person in people:
        original, extracted = (cv2.imread(str(folder / person.image)) for folder in (tree, copy))
        difference = np.abs(original.astype(int) - extracted.astype(int)).mean()
        assert difference < 8 < np.abs(original.astype(int) - 128).mean()
    assert len(list((copy / "images").iterdir())) == len(people) == 8


def test_an_extraction_that_can_not_end_says_so_and_keeps_what_there_is(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "raw")
    video = copy / "S9" / "Videos" / f"{NAME}.mp4"
    kept = copy / "images" / "S9_Directions_1.60457274_000001.jpg"
    before = kept.read_bytes()
    (copy / "images" / "S9_Directions_1.60457274_000006.jpg").unlink()
    video.write_bytes(video.read_bytes()[:500])
    assert "frames are missing" in outcomes("h36m-p2", copy, extract_images=True)[1][0].reason
    video.unlink()
    rejected = outcomes("h36m-p2", copy, extract_images=True)[1]
    assert "no such video" in rejected[0].reason
    assert kept.read_bytes() == before


def spoil_joints(root: Path) -> None:
    values = np.ones((1, 6, 96))
    values[0, 5, 33] = np.nan
    write_cdf(root / D3, "Pose", values)


def spoil_masks(root: Path) -> None:
    write_mat73(root / BOXES, {}, {"Masks": [np.zeros((9, 9), bool)] * 5})


SPOILED: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "no poses": (lambda r: (r / D3).write_bytes(b"no CDF"), "not a CDF file", 0),
    "no 2D poses": (lambda r: (r / D2).unlink(), "no such file", 0),
    "other joints": (lambda r: write_cdf(r / D3, "Pose", np.ones((1, 6, 51))), "expected (1, frames, 96)", 0),
    "other variable": (lambda r: write_cdf(r / D3, "Posture", np.ones((1, 6, 96))), "'Pose'", 0),
    "fewer 2D frames": (lambda r: write_cdf(r / D2, "Pose", np.ones((1, 5, 64))), "5 frames, but 6", 0),
    "NaN": (spoil_joints, "a 3D joint is not a number", 1),
    "no boxes": (lambda r: (r / BOXES).unlink(), "no such file", 0),
    "not HDF5": (lambda r: (r / BOXES).write_bytes(b"MATLAB 5.0"), "not a MATLAB 7.3 file", 0),
    "no masks": (lambda r: write_mat73(r / BOXES, {"Boxes": np.ones(3)}), "'Masks'", 0),
    "masks that are numbers": (lambda r: write_mat73(r / BOXES, {"Masks": np.ones((6, 1))}), "mask can't", 0),
    "an empty mask": (spoil_masks, "its mask is empty", 0),
    "too few masks": (spoil_masks, "its mask can't be read", 0),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_damaged_is_rejected_by_name(small: Path, case: str) -> None:
    spoil, reason, left = SPOILED[case]
    spoil(small)
    people, rejected = outcomes("h36m-p2", small)
    about_s9 = [r for r in rejected if r.source != "S11"]
    assert len(people) == left
    assert any(reason in r.reason for r in about_s9), about_s9
    assert all(r.source.startswith(f"S9/{NAME}") for r in about_s9)


def test_a_missing_subject_is_listed_and_none_at_all_is_an_error(small: Path) -> None:
    assert [r.source for r in outcomes("h36m-p2", small)[1]] == ["S11"]
    with pytest.raises(StageError, match=r"neither S1 nor S5 .* --help` shows the layout"):
        outcomes("h36m", small)


def test_damaged_metadata_ends_the_run_with_one_line(small: Path) -> None:
    (small / "metadata.xml").write_text("<w0>[1 2 3]</w0>")
    with pytest.raises(StageError, match=r"metadata\.xml: expected 300 numbers .* found 3"):
        outcomes("h36m-p2", small)


def test_a_file_of_all_actions_is_passed_over(small: Path) -> None:
    shutil.copy(small / D3, (small / D3).with_name("_ALL 1.60457274.cdf"))
    assert len(outcomes("h36m-p2", small)[0]) == 2


@pytest.mark.parametrize("file", [D3, D2, BOXES, "metadata.xml"])
def test_no_damage_breaks_the_reader(small: Path, file: str) -> None:
    original = (small / file).read_bytes()
    with_people = 0
    for what, content in byte_mutations(original, 150, seed=1):
        (small / file).write_bytes(content)
        found = outcomes_of(DATASETS["h36m-p2"].reader, small, ReaderOptions("p2"), f"{file}: {what}")
        with_people += isinstance(found, list) and any(isinstance(o, Person) for o in found)
    assert with_people < 150


def test_a_damaged_count_of_dimensions_costs_no_more_than_its_file(small: Path) -> None:
    content = bytearray((small / D3).read_bytes())
    count_at = content.index(b"Pose\0") - 84 + 340  # of its descriptor record
    content[count_at : count_at + 4] = (2**31 - 1).to_bytes(4, "big")
    (small / D3).write_bytes(content)
    rejected = outcomes("h36m-p2", small)[1]
    assert any("asked for more time or memory" in r.reason for r in rejected), rejected
