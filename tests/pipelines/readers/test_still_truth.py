"""LSP, HR-LSPET, MPII and COCO: the truth of a made-up tree comes back through the reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import Person, ReaderOptions
from pipelines.readers.lsp.extended import parts as lspet_parts
from pipelines.readers.mpii import MPII_KEYPOINTS
from pipelines.synthetic.published import synthesize_layout
from spin.joints import JOINTS
from store.annotations.table import Annotations
from tests.pipelines.still_images import LEEDS, PEOPLE, STILLS, people_of, reasons

ANNOTATED = {name: list(JOINTS.lsp) for name in LEEDS} | {
    "mpii": list(MPII_KEYPOINTS),
    "coco": list(JOINTS.coco),
}


WITHIN_PX = {name: 1e-3 for name in LEEDS} | {"mpii": 0.501, "coco": 0.501}  # these two have whole pixels


def number_of(name: str, person: Person) -> int:
    return int(person.source.split(" ")[-1]) if name in ("mpii", "coco") else 0


@pytest.mark.parametrize("name", STILLS)
def test_keypoints_come_back_and_absent_ones_stay_absent(name: str, trees: Callable[[str], Path]) -> None:
    root = trees(name)
    people = {(p.image, number_of(name, p)): p for p in people_of(name, root)}
    truth = np.load(root / "truth.npz")
    assert len(truth["image"]) >= PEOPLE
    absent = 0
    for row, (image, number) in enumerate(zip(truth["image"], truth["number"])):
        person = people[str(image), int(number)]
        keypoints, joints = person.keypoints_px, ANNOTATED[name]
        present = truth["visibility"][row, joints] > 0
        if name == "mpii":  # where 0 is the sign of absence: a joint on the image's edge is lost
            present &= (np.rint(truth["keypoints_px"][row, joints]) > 0).all(1)
        apart = np.abs(keypoints[joints, :2] - truth["keypoints_px"][row, joints]).max(1)
        assert (apart[present] <= WITHIN_PX[name]).all(), (image, apart)
        assert np.array_equal(keypoints[joints, 2], present), image
        assert not keypoints[joints][~present].any(), image
        others = np.setdiff1d(np.arange(25, 49), joints)
        assert not keypoints[others].any()
        absent += int((~present).sum())
    assert (absent > 0) == (name not in ("lsp-orig", "lsp"))


@pytest.mark.parametrize("name", LEEDS)
def test_boxes_of_leeds_data_sets_are_the_published_ones(name: str, trees: Callable[[str], Path]) -> None:
    for person in people_of(name, trees(name)):
        seen = person.keypoints_px[list(JOINTS.lsp)]
        seen = seen[seen[:, 2] > 0, :2]
        low, high = seen.min(0), seen.max(0)
        assert np.allclose(person.center_px, (low + high) / 2, atol=1e-3)
        assert person.scale == pytest.approx(1.2 * (high - low).max() / 200, rel=1e-5)


def test_boxes_of_mpii_are_the_files(trees: Callable[[str], Path]) -> None:
    with h5py.File(trees("mpii") / "train.h5") as file:
        center, scale = file["center"][()], file["scale"][()]
    for person in people_of("mpii", trees("mpii")):
        row = number_of("mpii", person)
        assert np.array_equal(person.center_px, center[row])
        assert person.scale == scale[row]


@pytest.mark.parametrize("name", STILLS)
def test_openpose_detections_find_the_person_they_are_of(name: str, trees: Callable[[str], Path]) -> None:
    root = trees(name)
    truth = np.load(root / "truth.npz")
    rows = {(str(i), int(n)): r for r, (i, n) in enumerate(zip(truth["image"], truth["number"]))}
    people = people_of(name, root)
    matched = [p for p in people if not p.openpose_match]
    assert len(matched) >= 0.8 * PEOPLE
    assert not any(p.keypoints_px[JOINTS.openpose].any() for p in people if p.openpose_match)
    for person in matched:
        row = rows[person.image, number_of(name, person)]
        found = person.keypoints_px[JOINTS.openpose]
        seen = found[:, 2] > 0
        apart = np.linalg.norm(found[seen, :2] - truth["keypoints_px"][row, JOINTS.openpose][seen], axis=1)
        assert np.median(apart) < 0.05 * 200 * person.scale


@pytest.mark.parametrize("name", STILLS)
def test_trees_go_through_preprocess(name: str, trees: Callable[[str], Path], tmp_path: Path) -> None:
    data, split = DataFolder(tmp_path), DATASETS[name].splits[0]
    summary = preprocess(data, DATASETS[name], trees(name), name, ReaderOptions(split, 6), workers=1)
    read = Annotations.read(data.annotations(name))
    assert summary.people == len(read) >= 0.8 * PEOPLE
    assert summary.with_openpose >= 0.8 * summary.people
    assert all(read.mask) == all(read.part) == (name == "lsp")


def test_trees_are_a_function_of_their_seed(trees: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("lsp-orig", "lspet", "mpii"):
        synthesize_layout(tmp_path / name, name, people=PEOPLE, seed=3)
        ours, theirs = (
            {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
            for root in (tmp_path / name, trees(name))
        )
        assert ours.keys() == theirs.keys()
        assert all(ours[p] == theirs[p] for p in ours)


def test_a_tree_has_no_more_people_than_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1001 people; the data set has 1000"):
        synthesize_layout(tmp_path / "lsp", "lsp", people=1001, seed=0)


def test_mpii_asks_for_all_sixteen_joints_as_published_unless_told_otherwise(
    mine: Callable[[str], Path],
) -> None:
    root = mine("mpii")
    whole = people_of("mpii", root, 12)[0]
    row = number_of("mpii", whole)
    with h5py.File(root / "train.h5", "r+") as file:
        joints = file["part"][row]
        joints[7] = 0  # thorax
        file["part"][row] = joints
    assert reasons("mpii", root, 12)[whole.source] == ("15 of 16 joints annotated, all asked for (--min-body-joints 12)")
    again = next(p for p in people_of("mpii", root, 11) if p.source == whole.source)
    assert again.keypoints_px[JOINTS.index["thorax"], 2] == 0
    with h5py.File(root / "train.h5", "r+") as file:
        joints[0] = [-1, -1]  # right ankle
        file["part"][row] = joints
    assert "11 of 12 body joints annotated" in reasons("mpii", root, 12)[whole.source]


def test_images_of_lspet_find_their_rows_by_order_or_by_number(mine: Callable[[str], Path]) -> None:
    root = mine("lspet")
    by_order = {p.image: p.keypoints_px for p in people_of("lspet", root)}
    joints = loadmat(root / "joints.mat")["joints"]
    assert len(by_order) == joints.shape[2] == PEOPLE
    assert "im00010.png" not in by_order, "a number is missing, or this test shows nothing"
    everyone = np.full((14, 3, 20), 50.0)
    for row, image in enumerate(sorted(by_order)):
        everyone[:, :, int(image[2:7]) - 1] = joints[:, :, row]
    savemat(root / "joints.mat", {"joints": everyone})
    by_number = {p.image: p.keypoints_px for p in people_of("lspet", root)}
    assert by_number.keys() == by_order.keys()
    assert all(np.array_equal(by_number[image], by_order[image]) for image in by_order)


def test_an_image_lost_from_lspet_is_an_error_and_not_a_shift_of_everybody(
    mine: Callable[[str], Path],
) -> None:
    root = mine("lspet")
    (root / "im00003.png").unlink()
    with pytest.raises(StageError, match=r"9 images up to im00011\.png, but joints\.mat has 10 people"):
        lspet_parts(root, ReaderOptions("train"))


def test_joints_that_web_workers_left_out_do_not_stretch_the_box(mine: Callable[[str], Path]) -> None:
    root = mine("lspet")
    before = people_of("lspet", root, 12)[0]
    joints = loadmat(root / "joints.mat")["joints"]
    row = int(before.source.split(" ")[-1]) - 1
    for place in ([0, 0], [-53, 0], [0, -7], [np.nan, np.nan]):
        joints[13, :2, row] = place
        savemat(root / "joints.mat", {"joints": joints})
        after = next(p for p in people_of("lspet", root, 12) if p.source == before.source)
        assert not after.keypoints_px[JOINTS.lsp[13]].any()
        assert after.scale <= before.scale + 1e-6


@pytest.mark.parametrize("name", ["lsp-orig", "lsp"])
def test_a_joint_that_is_no_number_rejects_its_person_alone(name: str, mine: Callable[[str], Path]) -> None:
    root = mine(name)
    before = people_of(name, root)
    joints = loadmat(root / "joints.mat")["joints"]
    row = int(before[4].source.split(" ")[-1]) - 1
    joints[1, 5, row] = np.inf
    savemat(root / "joints.mat", {"joints": joints})
    assert reasons(name, root) == {before[4].source: "a joint is not a number of pixels"}
    joints[:2, :, row] = 7
    savemat(root / "joints.mat", {"joints": joints})
    assert "span no pixel" in reasons(name, root)[before[4].source]


def test_lsp_has_the_last_thousand_and_the_original_the_first(tmp_path: Path) -> None:
    joints = np.random.default_rng(0).uniform(10, 90, (3, 14, 2000))
    savemat(tmp_path / "joints.mat", {"joints": joints})
    train, test = people_of("lsp-orig", tmp_path), people_of("lsp", tmp_path)
    assert [train[0].image, train[-1].image] == ["images/im0001.jpg", "images/im1000.jpg"]
    assert [test[0].image, test[-1].image] == ["images/im1001.jpg", "images/im2000.jpg"]
    assert len(train) == len(test) == 1000
    assert np.allclose(test[0].keypoints_px[list(JOINTS.lsp), :2], joints[:2, :, 1000].T)
    assert (test[0].keypoints_px[list(JOINTS.lsp), 2] == 1).all(), "hidden joints are annotated all the same"
    assert (test[0].mask, test[0].part) == ("", "")
