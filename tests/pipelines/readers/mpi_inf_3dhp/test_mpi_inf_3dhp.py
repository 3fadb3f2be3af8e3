"""MPI-INF-3DHP: the truth of its layout comes back, views belong together, and published fits find their frames."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.errors import StageError
from pipelines.readers import DATASETS
from pipelines.readers.base import Person, ReaderOptions
from pipelines.readers.formats.cdf_matlab import read_mat5
from pipelines.readers.mpi_inf_3dhp.published_fits import FITS, ROWS
from pipelines.synthetic.layouts.recordings import write_mat5, write_mat73
from spin.body import load_body
from spin.joints import JOINTS
from tests.pipelines.mutations import byte_mutations, outcomes_of
from tests.pipelines.raw_trees import joints17_cam_m, made, outcomes, project, truth_of

TRAIN, VALID = "mpi-inf-3dhp", "mpi-inf-3dhp-valid"
ANNOTATION, CALIBRATION = "S1/Seq1/annot.mat", "S1/Seq1/camera.calibration"
TEST = "mpi_inf_3dhp_test_set/TS1/annot_data.mat"
VIDEOS = (0, 1, 2, 4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of two moments from eight cameras, and six people of the test set."""
    return made(tmp_path_factory.mktemp("raw"), "mpi-inf-3dhp", people=17)


@pytest.fixture
def small(tree: Path, tmp_path: Path) -> Path:
    """A sequence's annotation and a test subject's, which a test may spoil; no pictures."""
    for file in (ANNOTATION, CALIBRATION, FITS, TEST):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / file, tmp_path / file)
    for video in VIDEOS:
        (tmp_path / "S1" / "Seq1" / "imageFrames" / f"video_{video}").mkdir(parents=True)
    return tmp_path


def test_every_tenth_moment_of_all_cameras_is_kept(tree: Path) -> None:
    people, rejected = outcomes(TRAIN, tree)
    expected = {f"S1/Seq{s}/imageFrames/video_{v}/frame_0000{f}.jpg" for s in (1, 2) for v in VIDEOS for f in ("01", "11")}
    assert {p.image for p in people} == expected and len(people) == 32
    assert {r.reason for r in rejected} == {"has no annot.mat"}
    assert [r.source for r in rejected][:2] == ["S2/Seq1", "S2/Seq2"]


@pytest.mark.parametrize("dataset", [TRAIN, VALID])
def test_the_truth_comes_back(tree: Path, dataset: str) -> None:
    truth, people = truth_of(tree), outcomes(dataset, tree)[0]
    assert people
    for person in people:
        row = truth[person.image, 0]
        joints = joints17_cam_m(row)
        assert person.truth is not None and person.truth.joints3d_m is not None
        np.testing.assert_allclose(person.truth.joints17_m, joints - joints[0], atol=1e-6)
        at = [JOINTS.index[name] for name in ("pelvis", "spine", "neck", "jaw", "head")]
        np.testing.assert_allclose(person.keypoints_px[at, :2], row["keypoints_px"][at], atol=0.05)
        if person.camera is not None:
            expected = project(person.camera, joints)
            np.testing.assert_allclose(person.keypoints_px[list(JOINTS.h36m), :2], expected, atol=1e-3)
        points = person.keypoints_px[list(JOINTS.h36m), :2]
        low, high = points.min(0), points.max(0)
        np.testing.assert_allclose(person.center_px, (low + high) / 2, atol=1e-4)
        assert person.scale == pytest.approx(1.2 * (high - low).max() / 200, rel=1e-5)
        assert (tree / person.image).is_file()


def test_views_of_a_moment_place_it_in_one_world(tree: Path) -> None:
    truth = truth_of(tree)
    by_pose: dict[str, list[np.ndarray]] = {}
    for person in outcomes(TRAIN, tree)[0]:
        assert person.view is not None
        seen = joints17_cam_m(truth[person.image, 0])
        by_pose.setdefault(person.view.pose_id, []).append((seen - person.view.translation_m) @ person.view.rotation)
    assert len(by_pose) == 4
    for places in by_pose.values():
        np.testing.assert_allclose(places, np.broadcast_to(places[0], (8, 17, 3)), atol=1e-5)


def test_the_published_script_reads_the_calibration(tree: Path) -> None:
    """Its `read_calibration`, transcribed: the sixth and seventh of each camera's lines, less two characters at the end."""
    content = (tree / CALIBRATION).read_text().splitlines(keepends=True)
    people = [p for p in outcomes(TRAIN, tree)[0] if p.image.startswith("S1/Seq1/")]
    for video in VIDEOS:
        intrinsic, extrinsic = (np.reshape([float(s) for s in content[video * 7 + at][11:-2].split()], (4, 4)) for at in (5, 6))
        person = next(p for p in people if f"/video_{video}/" in p.image)
        assert person.camera is not None and person.view is not None
        assert intrinsic[0, 0] == pytest.approx(person.camera.focal_px)
        np.testing.assert_allclose(intrinsic[:2, 2], person.camera.principal_px, rtol=1e-6)
        np.testing.assert_allclose(extrinsic[:3, :3], person.view.rotation, atol=1e-6)
        np.testing.assert_allclose(extrinsic[:3, 3] / 1000, person.view.translation_m, atol=1e-6)


def test_only_valid_frames_of_the_test_set_are_read(tree: Path) -> None:
    people, rejected = outcomes(VALID, tree)
    assert {o.image for o in (*people, *rejected)} == {
        f"mpi_inf_3dhp_test_set/TS{n}/imageSequence/img_000001.jpg" for n in range(1, 7)
    }
    assert all("are outside the picture" in r.reason for r in rejected)


# ---- published fits --------------------------------------------------------------------------------------------------


def check_fits(tree: Path, people: list[Person]) -> None:
    """Each body is that of the person it stands with, in that camera's axes."""
    truth, known = truth_of(tree), 0
    for person in people:
        assert person.truth is not None
        if person.truth.pose_aa is not None:
            known += 1
            assert person.truth.body == load_body().fingerprint
            np.testing.assert_array_equal(person.truth.pose_aa, truth[person.image, 0]["pose"])
            np.testing.assert_array_equal(person.truth.betas, truth[person.image, 0]["betas"])
    assert 0 < known < len(people)


def test_fits_go_to_the_frames_that_the_published_counting_keeps(tree: Path) -> None:
    """Breaks if frames are counted otherwise than by the layout, which counts the published way by itself."""
    people = outcomes(TRAIN, tree, fits=tree / FITS)[0]
    with np.load(tree / FITS) as fits:
        assert len(people) == len(fits["pose"])
        assert sum(p.truth is not None and p.truth.pose_aa is not None for p in people) == fits["has_smpl"].sum()
    check_fits(tree, people)
    # counted through cameras of 20 and of 19 usable frames: not the same moments of all
    assert len({p.image[-10:] for p in people}) > 2


def test_fits_go_by_name_where_the_published_rows_lie_in_the_data_folder(tree: Path, tmp_path: Path) -> None:
    """In another order than that of counting, and found without being named."""
    people = outcomes(TRAIN, tree, fits=tree / FITS)[0]
    order = np.random.default_rng(0).permutation(len(people))
    with np.load(tree / FITS) as fits:
        arrays = {key: fits[key][order] for key in fits.files}
    for file in (FITS, ROWS):
        (tmp_path / file).parent.mkdir()
    np.savez(tmp_path / FITS, allow_pickle=False, **arrays)
    np.savez(tmp_path / ROWS, allow_pickle=False, imgname=np.array([people[i].image for i in order]))
    named = outcomes(TRAIN, tree, data=tmp_path)[0]
    assert {p.image for p in named} == {p.image for p in people}
    check_fits(tree, named)
    assert len(outcomes(TRAIN, tree, data=tmp_path, without_fits=True)[0]) == 32


def test_fits_of_another_count_are_rejected_with_one_line(tree: Path, tmp_path: Path) -> None:
    with np.load(tree / FITS) as fits:
        np.savez(tmp_path / "fits.npz", allow_pickle=False, **{key: fits[key][1:] for key in fits.files})
    with pytest.raises(StageError, match=r"31 fits, but counting through .* finds 32 rows.*--without-fits"):
        outcomes(TRAIN, tree, fits=tmp_path / "fits.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "not a file of fits"),
        ({"pose": np.zeros((3, 71)), "shape": np.zeros((3, 10)), "has_smpl": np.ones(3)}, "expected (N, 72)"),
        ({"pose": np.array([{}]), "shape": np.zeros((3, 10)), "has_smpl": np.ones(3)}, "not a file of fits"),
    ],
)
def test_a_file_that_holds_no_fits_is_named(tree: Path, tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "fits.npz", **arrays)
    with pytest.raises(StageError) as error:
        outcomes(TRAIN, tree, fits=tmp_path / "fits.npz")
    assert "fits.npz" in str(error.value) and message in str(error.value)
    with pytest.raises(StageError, match=r"missing\.npz: not a file of fits"):
        outcomes(TRAIN, tree, fits=tmp_path / "missing.npz")


# ---- videos and OpenPose ---------------------------------------------------------------------------------------------


def test_frames_are_extracted_where_their_poses_are(tree: Path, tmp_path: Path) -> None:
    """Breaks if frame 11, the first of the second moment, is taken for one of the first's."""
    copy = shutil.copytree(tree, tmp_path / "raw")
    shutil.rmtree(copy / "S1" / "Seq1" / "imageFrames")
    rejected = outcomes(TRAIN, copy)[1]
    assert "S1/Seq1/imageFrames/video_0" in {r.source for r in rejected if "--extract-images" in r.reason}
    people = [p for p in outcomes(TRAIN, copy, extract_images=True)[0] if p.image.startswith("S1/Seq1")]
    assert len(people) == 16
    for person in people:
        pictures = [cv2.imread(str(root / person.image)).astype(int) for root in (tree, copy)]
        other = person.image.replace("000001", "x").replace("000011", "000001").replace("x", "000011")
        wrong = cv2.imread(str(tree / other)).astype(int)
        assert np.abs(pictures[0] - pictures[1]).mean() < 8
        assert np.abs(wrong - pictures[1]).mean() > 10
    # the frames that are kept, and no others
    assert len(list((copy / "S1" / "Seq1" / "imageFrames").rglob("*.jpg"))) == 16


def test_openpose_detections_are_matched(tree: Path, tmp_path: Path) -> None:
    person = outcomes(TRAIN, tree)[0][0]
    joints = truth_of(tree)[person.image, 0]["keypoints_px"][JOINTS.openpose]
    file = tmp_path / f"{person.image.removesuffix('.jpg')}_keypoints.json"
    file.parent.mkdir(parents=True)
    numbers = np.c_[joints, np.full(25, 0.5)].ravel().tolist()
    file.write_text(f'{{"people": [{{"pose_keypoints_2d": {numbers}}}]}}')
    people = outcomes(TRAIN, tree, openpose=tmp_path)[0]
    assert people[0].openpose_match == ""
    np.testing.assert_allclose(people[0].keypoints_px[JOINTS.openpose, :2], joints, rtol=1e-6)
    assert {p.openpose_match for p in people[1:]} == {"no OpenPose file"}


# ---- damage ----------------------------------------------------------------------------------------------------------


def annotate(root: Path, change: Callable[[dict], object]) -> None:
    content = read_mat5(root / ANNOTATION, "annot2", "annot3")
    change(content)
    write_mat5(root / ANNOTATION, content)


SPOILED: dict[str, tuple[Callable[[dict], object], str, int]] = {
    "no joints": (lambda c: c.pop("annot3"), "with annot2, annot3", 0),
    "few cameras": (lambda c: c.update(annot2=c["annot2"][:8]), "no numbers for camera 8", 0),
    "other joints": (
        lambda c: c["annot3"].__setitem__((0, 0), np.zeros((20, 51))),
        "expected (frames, 84)",
        0,
    ),
    "other frames": (lambda c: c["annot3"].__setitem__((0, 0), np.zeros((19, 84))), "of camera 0 have", 0),
    "numbers": (lambda c: c.update(annot2=np.zeros((14, 2))), "'annot2' of camera 0 has shape ()", 0),
    "NaN": (lambda c: c["annot3"][4, 0].__setitem__((10, 13), np.nan), "a 3D joint is not a number", 15),
    "astray": (lambda c: c["annot2"][4, 0].__setitem__((0, 8), 900.0), "1 of 17 joints are outside", 15),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_damaged_is_rejected_by_name(small: Path, case: str) -> None:
    change, reason, left = SPOILED[case]
    annotate(small, change)
    people, rejected = outcomes(TRAIN, small, without_fits=True)
    assert len(people) == left
    assert next(r.source for r in rejected if reason in r.reason).startswith("S1/Seq1")


def test_a_damaged_calibration_costs_the_cameras_not_the_people(small: Path) -> None:
    (small / CALIBRATION).write_text("name 0\n  intrinsic 1 2 3\n")
    people, rejected = outcomes(TRAIN, small)
    assert len(people) == 16 and all(p.camera is None and p.view is None for p in people)
    assert "camera.calibration: not a camera calibration" in rejected[0].reason


TESTS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "no annotation": ({"valid_frame": np.ones((2, 1))}, "'annot2'"),
    "other joints": (
        {"annot2": np.ones((2, 1, 14, 2)), "univ_annot3": np.ones((2, 1, 17, 3)), "valid_frame": np.ones((2, 1))},
        "expected (2, 1, 17, 2)",
    ),
    "NaN": (
        {"annot2": np.full((1, 1, 17, 2), np.nan), "univ_annot3": np.ones((1, 1, 17, 3)), "valid_frame": np.ones((1, 1))},
        "not a number of pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TESTS)
def test_a_damaged_test_recording_is_rejected_by_name(small: Path, case: str) -> None:
    arrays, reason = TESTS[case]
    write_mat73(small / TEST, arrays)
    people, rejected = outcomes(VALID, small)
    assert not people
    assert next(r.source for r in rejected if reason in r.reason).startswith(("mpi_inf_3dhp_test_set/TS1", "TS1"))
    assert sum("no such file" in r.reason for r in rejected) == 5


@pytest.mark.parametrize("dataset", [TRAIN, VALID])
def test_a_folder_without_sequences_is_an_error_with_the_layout(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(StageError, match=rf"preprocess {dataset} --help` shows the layout"):
        outcomes(dataset, tmp_path)


@pytest.mark.parametrize(
    ("dataset", "file", "fits"),
    [(TRAIN, ANNOTATION, False), (TRAIN, CALIBRATION, False), (TRAIN, str(FITS), True), (VALID, TEST, False)],
)
def test_no_damage_breaks_the_reader(small: Path, dataset: str, file: str, fits: bool) -> None:
    entry = DATASETS[dataset]
    extra = {"fits": small / FITS} if fits else {"without_fits": True}
    options = ReaderOptions(entry.splits[0], data=small, extra=extra)
    for what, content in byte_mutations((small / file).read_bytes(), 150, seed=81):
        (small / file).write_bytes(content)
        outcomes_of(entry.reader, small, options, f"{file}: {what}")
