from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from store.crops import (
    CropRow,
    MadeFor,
    PackedCrop,
    PackedCrops,
    packing_summary,
    write_crops,
)
from store.errors import CropsError, StoreError

COUNT = 529
SUMMARY = {
    "unreadable": 1, "bytes": 9, "image_bytes": 99, "quality": 90, "compared": 3,
    "mean_absolute_difference": 1.5, "psnr_db": 40.0,
}  # fmt: skip


def rows() -> list[CropRow]:
    out = [CropRow(bytes([i % 256]) * (i % 7 + 1), np.array([[1.0, 0, i], [0, 2, -i]])) for i in range(COUNT)]
    out[5] = CropRow(None, np.zeros((2, 3)), "gone")
    return out


def write(path: Path, parts: list[list[CropRow]], count: int = COUNT) -> None:
    write_crops(path, parts, SUMMARY, dataset="mine", annotations="abc", rows=count, made_for=MadeFor(224, 0.25, 60.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "mine.crops", [rows()[:100], [], rows()[100:]])
    return tmp_path / "mine.crops"


def test_every_row_comes_back_to_any_thread(path: Path) -> None:
    crops = PackedCrops(path)
    assert len(crops) == COUNT
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(crops.get, range(COUNT)))
    for row, (got, given) in enumerate(zip(found, rows())):
        if row == 5:
            assert got == "gone"
        else:
            assert isinstance(got, PackedCrop)
            assert bytes(got.jpeg) == given.jpeg
            assert np.array_equal(got.from_image, given.from_image)
    assert crops.problems == {5: "gone"}
    with pytest.raises(CropsError, match="no row"):
        crops.get(COUNT)


def test_what_packing_cost_is_kept(path: Path) -> None:
    found = packing_summary(path)
    assert found.made_for == MadeFor(224, 0.25, 60.0)
    assert (found.rows, found.mean_absolute_difference, found.psnr_db) == (COUNT, 1.5, 40.0)


def test_crops_of_other_annotations_are_refused(path: Path) -> None:
    PackedCrops(path).require("abc")
    with pytest.raises(CropsError, match="packed from other annotations of 'mine'"):
        PackedCrops(path).require("abd")


@pytest.mark.parametrize("given", [0, COUNT - 1, COUNT + 1])
def test_a_file_without_all_rows_is_never_written(tmp_path: Path, given: int) -> None:
    with pytest.raises(CropsError, match=f"{given} rows of {COUNT}"):
        write(tmp_path / "x.arrow", [(rows() * 2)[:given]])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_writing_leaves_the_earlier_file(path: Path) -> None:
    before = path.read_bytes()

    def parts():
        yield rows()[:300]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, parts())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_files_that_are_cut_short_foreign_or_missing_are_one_line(path: Path) -> None:
    content = path.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(CropsError, match="make it again with `spin-pipe pack`"):
            PackedCrops(path)
    path.write_bytes(content.replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(CropsError, match="cut short or damaged"):
        PackedCrops(path)
    with pytest.raises(CropsError, match="no such packed crops"):
        PackedCrops(path.parent / "none.arrow")


def test_a_flipped_bit_is_found_or_harmless(path: Path) -> None:
    """Wherever it is: no crop comes back other than it was written, and no error is other than ours."""
    content, expected = path.read_bytes(), rows()
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            crops = PackedCrops(path)
            for row in rng.integers(0, COUNT, 40).tolist():
                found = crops.get(row)
                if isinstance(found, PackedCrop):
                    assert bytes(found.jpeg) == expected[row].jpeg
        except StoreError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5
