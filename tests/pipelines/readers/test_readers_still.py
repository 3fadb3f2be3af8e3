"""LSP, HR-LSPET, MPII and COCO: the truth of a made-up tree comes back through the reader, and damage is rejected by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from mutations import byte_mutations, outcomes_of
from scipy.io import loadmat, savemat

from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS, read_all
from pipelines.readers.base import Person, ReaderOptions, Rejected
from pipelines.readers.lsp.evaluation import UPI_PARTS, UPI_UNDECIDED
from pipelines.readers.lsp.extended import parts as lspet_parts
from pipelines.readers.mpii import MPII_KEYPOINTS
from pipelines.synthetic.published import synthesize_layout
from spin.joints import JOINTS
from store.annotations.table import Annotations

STILLS = ("lsp-orig", "lspet", "mpii", "coco", "lsp")
LEEDS = ("lsp-orig", "lspet", "lsp")
PEOPLE = 10


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tree by the data set's name, made when it is first asked for. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("layouts")

    def tree(name: str) -> Path:
        synthesize_layout(folder / name, name, people=PEOPLE, seed=3)
        return folder / name

    return tree


@pytest.fixture
def mine(trees: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy that a test may spoil."""
    return lambda name: shutil.copytree(trees(name), tmp_path / name)


def outcomes(name: str, root: Path, min_body_joints: int = 0, **extra: object) -> list[Person | Rejected]:
    options = ReaderOptions(DATASETS[name].splits[0], min_body_joints, data=root / "none", extra=extra)
    return list(read_all(DATASETS[name].reader, root, options))


def people_of(name: str, root: Path, min_body_joints: int = 0, **extra: object) -> list[Person]:
    return [o for o in outcomes(name, root, min_body_joints, **extra) if isinstance(o, Person)]


def reasons(name: str, root: Path, min_body_joints: int = 0) -> dict[str, str]:
    return {o.source: o.reason for o in outcomes(name, root, min_body_joints) if isinstance(o, Rejected)}


# ---- The truth comes back ---------------------------------------------------------------------------------------------

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


# ---- Joints ------------------------------------------------------------------------------------------------------------


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
    assert reasons("mpii", root, 12)[whole.source] == (
        "15 of 16 joints annotated, all asked for (--min-body-joints 12)"
    )
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


# ---- Masks and parts of LSP ---------------------------------------------------------------------------------------------


def test_masks_and_parts_are_the_persons_own(trees: Callable[[str], Path]) -> None:
    root = trees("lsp")
    truth = np.load(root / "truth.npz")
    rows = {str(image): row for row, image in enumerate(truth["image"])}
    right = wrong = 0
    labels: set[int] = set()
    for person in people_of("lsp", root):
        mask, part = (
            cv2.imread(str(root / name), cv2.IMREAD_UNCHANGED) for name in (person.mask, person.part)
        )
        assert mask.ndim == part.ndim == 2
        assert set(np.unique(mask)) == {0, 255}
        labels |= set(np.unique(part).tolist())
        assert not part[mask == 0].any()
        assert (part[mask > 0] > 0).all()
        assert 0 < (part == UPI_UNDECIDED).mean() < 0.05
        for joint in ("wrist", "knee", "ankle"):
            for side in ("left", "right"):
                point = JOINTS.index[f"{side} {joint}"]
                if truth["visibility"][rows[person.image], point] != 2:
                    continue
                x, y = truth["keypoints_px"][rows[person.image], point].astype(int)
                limb = "arm" if joint == "wrist" else "leg"
                right += part[y, x] == 1 + UPI_PARTS.index(f"{side} {limb}")
                wrong += part[y, x] == 1 + UPI_PARTS.index(f"{'right' if side == 'left' else 'left'} {limb}")
    assert labels == {*range(7), UPI_UNDECIDED}
    assert right >= 20
    assert wrong <= 0.1 * right


def test_masks_may_lie_beside_the_root_or_in_it(mine: Callable[[str], Path], tmp_path: Path) -> None:
    root = mine("lsp")
    (tmp_path / "upi").mkdir()
    (root / "data").rename(tmp_path / "upi" / "data")
    assert all(p.mask == p.part == "" for p in people_of("lsp", root))
    beside = people_of("lsp", root, masks=tmp_path / "upi")
    assert all((root / p.mask).is_file() and (root / p.part).is_file() for p in beside)
    assert beside[0].mask == "../upi/data/lsp/im1001_segmentation.png"
    (root / "upi-s1h").symlink_to(tmp_path / "upi")
    assert all((root / p.mask).is_file() for p in people_of("lsp", root))
    with pytest.raises(StageError, match="has no folder data/lsp"):
        people_of("lsp", root, masks=tmp_path)


def test_a_mask_that_is_broken_or_of_another_image_is_named(mine: Callable[[str], Path]) -> None:
    root = mine("lsp")
    folder = root / "data" / "lsp"
    (folder / "im1001_segmentation.png").write_bytes(b"no picture")
    whole = (folder / "im1002_part_segmentation.png").read_bytes()
    (folder / "im1002_part_segmentation.png").write_bytes(whole[:-200])
    cv2.imwrite(str(folder / "im1003_segmentation.png"), np.zeros((9, 8), np.uint8))
    (folder / "im1004_segmentation.png").unlink()
    found = reasons("lsp", root)
    assert "im1001_segmentation.png: can't be decoded" in found["joints.mat 1001"]
    assert "im1002_part_segmentation.png: is cut short" in found["joints.mat 1002"]
    assert "8 × 9 px, its image" in found["joints.mat 1003"]
    alone = next(p for p in people_of("lsp", root) if p.source == "joints.mat 1004")
    assert (alone.mask, alone.part) == ("", "data/lsp/im1004_part_segmentation.png")


# ---- Files that are not what they should be -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STILLS)
def test_an_empty_folder_is_one_line_that_says_where_to_look(name: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=f"no .*spin-pipe preprocess {name} --help"):
        outcomes(name, tmp_path)


@pytest.mark.parametrize("name", LEEDS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"joints": np.zeros((3, 13, 1200))}, r"\(3, 13, 1200\); expected numbers, \(3, 14, N\)"),
        ({"joints": "text"}, "the variable is of class char; expected real numbers"),
        (
            {"poses": np.zeros((3, 14, 1200))},
            "not a MATLAB 5 file with 'joints' .ValueError: no variable 'joints', but 'poses'",
        ),
    ],
)
def test_a_joints_file_of_another_content_is_named(
    name: str, content: dict[str, object], message: str, tmp_path: Path
) -> None:
    savemat(tmp_path / "joints.mat", content)
    with pytest.raises(StageError, match=rf"joints\.mat: .*{message}"):
        outcomes(name, tmp_path)


def test_lsp_without_its_test_people_says_so(tmp_path: Path) -> None:
    savemat(tmp_path / "joints.mat", {"joints": np.zeros((3, 14, 1000))})
    with pytest.raises(StageError, match="1000 people; expected over 1000"):
        outcomes("lsp", tmp_path)


def test_an_mpii_file_of_another_shape_is_named(mine: Callable[[str], Path]) -> None:
    root = mine("mpii")
    with h5py.File(root / "train.h5", "r+") as file:
        part = file["part"][()]
        del file["part"]
        file["part"] = part[:-1]
    with pytest.raises(
        StageError, match=r"train\.h5: not MPII's train\.h5 \(ValueError: 'part' is .* expected"
    ):
        outcomes("mpii", root)
    with h5py.File(root / "train.h5", "r+") as file:
        del file["part"]
        # a claim of terabytes that no byte stands behind
        file.create_dataset("part", shape=(1 << 34, 16, 2), dtype="f8", chunks=(1024, 16, 2))
    with pytest.raises(StageError, match="'part' is"):
        outcomes("mpii", root)


def test_mpii_rows_that_name_no_image_of_the_folder_are_rejected(mine: Callable[[str], Path]) -> None:
    root = mine("mpii")
    with h5py.File(root / "train.h5", "r+") as file:
        names = list(file["imgname"][()])
        names[:4] = [b"../../outside.jpg", b"\xff\xfe.jpg", b"", b"/etc/passwd"]
        del file["imgname"]
        file["imgname"] = names
    found = reasons("mpii", root)
    assert [found[f"train.h5 row {row}"] for row in range(4)] == [
        "its image lies outside the root",
        "names no image",
        "names no image",
        "its image lies outside the root",
    ]


def test_mpii_looks_for_its_annotations_where_they_are_kept(
    mine: Callable[[str], Path], tmp_path: Path
) -> None:
    root = mine("mpii")
    (tmp_path / "data").mkdir()
    shutil.move(root / "train.h5", tmp_path / "data" / "train.h5")
    reader = DATASETS["mpii"].reader
    kept = list(read_all(reader, root, ReaderOptions("train", 0, data=tmp_path / "data")))
    named = people_of("mpii", root, annotations=tmp_path / "data" / "train.h5")
    assert len([o for o in kept if isinstance(o, Person)]) == len(named) >= PEOPLE
    with pytest.raises(StageError, match="mpii: no "):
        outcomes("mpii", root)


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("lsp-orig", "joints.mat", 250),
        ("lspet", "joints.mat", 250),
        ("lsp", "joints.mat", 150),
        ("mpii", "train.h5", 400),
        ("lsp", "data/lsp/im1002_segmentation.png", 150),
        ("lsp-orig", "openpose/lsp/im0002_keypoints.json", 150),
    ],
)
def test_damaged_files_are_rejected_and_nothing_else_happens(
    name: str, file: str, count: int, mine: Callable[[str], Path]
) -> None:
    root = mine(name)
    if file.endswith(".mat"):
        # A changed byte of a compressed file is found by its checksum: without, it becomes another number or shape.
        savemat(root / file, {"joints": loadmat(root / file)["joints"]})
    whole, seen = (root / file).read_bytes(), set()
    options = ReaderOptions(DATASETS[name].splits[0], 0, data=root / "none")
    for what, content in byte_mutations(whole, count, seed=11):
        (root / file).write_bytes(content)
        found = outcomes_of(DATASETS[name].reader, root, options, f"{file}: {what}")
        seen.add("error" if isinstance(found, StageError) else "read")
    assert "read" in seen
    assert ("error" in seen) == (file in ("joints.mat", "train.h5"))


@pytest.mark.parametrize("name", LEEDS)
def test_damaged_joints_files_as_the_data_sets_have_them(name: str, mine: Callable[[str], Path]) -> None:
    root = mine(name)
    options = ReaderOptions(DATASETS[name].splits[0], 0)
    for what, content in byte_mutations((root / "joints.mat").read_bytes(), 60, seed=12):
        (root / "joints.mat").write_bytes(content)
        outcomes_of(DATASETS[name].reader, root, options, what)
