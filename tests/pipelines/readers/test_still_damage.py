"""LSP, HR-LSPET, MPII and COCO: files that are damaged, or not what they should be, are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from mutations import byte_mutations, outcomes_of
from scipy.io import loadmat, savemat

from pipelines.errors import StageError
from pipelines.readers import DATASETS, read_all
from pipelines.readers.base import Person, ReaderOptions
from tests.pipelines.still_images import LEEDS, PEOPLE, STILLS, outcomes, people_of, reasons


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
def test_a_joints_file_of_another_content_is_named(name: str, content: dict[str, object], message: str, tmp_path: Path) -> None:
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
    with pytest.raises(StageError, match=r"train\.h5: not MPII's train\.h5 \(ValueError: 'part' is .* expected"):
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
        "its image is outside the root",
        "names no image",
        "names no image",
        "its image is outside the root",
    ]


def test_mpii_looks_for_its_annotations_where_they_are_kept(mine: Callable[[str], Path], tmp_path: Path) -> None:
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
