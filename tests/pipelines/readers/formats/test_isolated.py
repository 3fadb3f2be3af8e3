"""Formats that are read in a process beside this one: what is damaged costs no more than its file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import StageError
from pipelines.readers.formats import isolated as guarded
from pipelines.readers.formats import isolated_child as guarded_child
from pipelines.readers.studio_common import read_cdf, read_mat5
from pipelines.synthetic.layouts.recordings import write_cdf, write_mat5
from tests.pipelines.mutations import byte_mutations

VALUES = np.random.default_rng(0).normal(size=(1, 6, 64)).astype(np.float32)


def cells(*arrays: np.ndarray) -> np.ndarray:
    out = np.empty((len(arrays), 1), object)
    for row, array in enumerate(arrays):
        out[row, 0] = array
    return out


def test_arrays_come_through_as_they_are_in_the_files(tmp_path: Path) -> None:
    write_cdf(tmp_path / "a.cdf", "Pose", VALUES)
    np.testing.assert_array_equal(read_cdf(tmp_path / "a.cdf", "Pose"), VALUES)
    first, second = np.arange(6.0).reshape(2, 3), np.arange(4.0).reshape(4, 1)
    write_mat5(tmp_path / "b.mat", {"one": cells(first, second), "two": cells(second)})
    found = read_mat5(tmp_path / "b.mat", "two", "one")
    assert [found[name].shape for name in ("one", "two")] == [(2, 1), (1, 1)]
    for cell, expected in zip([*found["one"][:, 0], found["two"][0, 0]], (first, second, second)):
        np.testing.assert_array_equal(cell, expected)


def test_a_file_that_brings_its_reader_down_is_refused_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks if the process is not started again, or an answer is taken for the next request's."""
    write_cdf(tmp_path / "good.cdf", "Pose", VALUES)
    read_cdf(tmp_path / "good.cdf", "Pose")
    first = guarded._child
    assert first is not None
    os.kill(first.pid, 9)
    with pytest.raises(StageError, match=r"good\.cdf: not a CDF file .* \(its reader broke down"):
        read_cdf(tmp_path / "good.cdf", "Pose")
    np.testing.assert_array_equal(read_cdf(tmp_path / "good.cdf", "Pose"), VALUES)
    assert guarded._child is not first


def test_a_file_that_takes_for_ever_is_refused_in_seconds(tmp_path: Path) -> None:
    """Its index of records counts 1.9 thousand million entries, which cdflib goes through one by one."""
    path = tmp_path / "endless.cdf"
    write_cdf(path, "Pose", VALUES)
    data = bytearray(path.read_bytes())
    # Records stand one after the other: size (8 bytes), type (4); in an index (type 6) entries used are at byte 24.
    at = 8
    while int.from_bytes(data[at + 8 : at + 12], "big") != 6:
        at += int.from_bytes(data[at : at + 8], "big")
    data[at + 24 : at + 28] = (1_885_430_629).to_bytes(4, "big")
    path.write_bytes(data)
    started = time.monotonic()
    with pytest.raises(StageError, match="asked for more time or memory"):
        read_cdf(path, "Pose")
    assert time.monotonic() - started < 60


def test_what_a_library_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cdf(tmp_path / "a.cdf", "Pose", VALUES)
    chatty = tmp_path / "chatty_child.py"
    code = (
        Path(guarded_child.__file__)
        .read_text()
        .replace("    import cdflib\n", "    import cdflib\n    print('hello')\n")
    )
    assert "hello" in code
    chatty.write_text(code)
    guarded._stop()
    monkeypatch.setattr(guarded, "_CHILD", chatty)
    np.testing.assert_array_equal(read_cdf(tmp_path / "a.cdf", "Pose"), VALUES)
    guarded._stop()


def test_no_damage_ends_or_holds_up_this_process(tmp_path: Path) -> None:
    """One in a hundred damaged CDF files keeps cdflib counting for hours; a damaged MATLAB file can end the process."""
    write_cdf(tmp_path / "a.cdf", "Pose", VALUES)
    write_mat5(tmp_path / "b.mat", {"annot2": cells(*[VALUES[0]] * 3)})
    outcomes = {"read": 0, "refused": 0}
    for file, name, read in (("a.cdf", "Pose", read_cdf), ("b.mat", "annot2", read_mat5)):
        path = tmp_path / file
        for _, content in byte_mutations(path.read_bytes(), 120, seed=7):
            path.write_bytes(content)
            try:
                read(path, name)
                outcomes["read"] += 1
            except StageError as error:
                assert str(error).startswith(f"{path}: not a ") and "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 5
