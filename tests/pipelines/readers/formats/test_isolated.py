"""Formats that are read in another process: damage costs no more than its file."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from pipelines.errors import StageError
from pipelines.readers.formats import isolated, isolated_child
from pipelines.readers.formats.cdf_matlab import read_cdf, read_mat5, read_mat5_array
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


def test_a_file_that_brings_its_reader_down_is_rejected_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks if the process is not started again, or an answer is taken for the next request's."""
    write_cdf(tmp_path / "good.cdf", "Pose", VALUES)
    read_cdf(tmp_path / "good.cdf", "Pose")
    first = isolated._child
    assert first is not None
    os.kill(first.pid, 9)
    with pytest.raises(StageError, match=r"good\.cdf: not a CDF file .* \(its reader broke down"):
        read_cdf(tmp_path / "good.cdf", "Pose")
    np.testing.assert_array_equal(read_cdf(tmp_path / "good.cdf", "Pose"), VALUES)
    assert isolated._child is not first


def test_a_file_that_takes_for_ever_is_rejected_in_seconds(tmp_path: Path) -> None:
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
    with pytest.raises(StageError, match="asked for more time or memory"):
        read_cdf(path, "Pose")


def test_what_a_library_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cdf(tmp_path / "a.cdf", "Pose", VALUES)
    chatty = tmp_path / "chatty_child.py"
    code = Path(isolated_child.__file__).read_text().replace("    import cdflib\n", "    import cdflib\n    print('hello')\n")
    assert "hello" in code
    chatty.write_text(code)
    isolated._stop()
    monkeypatch.setattr(isolated, "_CHILD", chatty)
    np.testing.assert_array_equal(read_cdf(tmp_path / "a.cdf", "Pose"), VALUES)
    isolated._stop()


def test_no_damage_ends_or_holds_up_this_process(tmp_path: Path) -> None:
    """One in a hundred damaged CDF files keeps cdflib counting for hours; a damaged MATLAB file can end the process."""
    write_cdf(tmp_path / "a.cdf", "Pose", VALUES)
    write_mat5(tmp_path / "b.mat", {"annot2": cells(*[VALUES[0]] * 3)})
    joints = np.random.default_rng(0).uniform(0, 300, (3, 14, 8))
    savemat(tmp_path / "c.mat", {"joints": joints})
    savemat(tmp_path / "d.mat", {"joints": joints}, do_compression=True)
    count = 0
    for file, name, read in (
        ("a.cdf", "Pose", read_cdf),
        ("b.mat", "annot2", read_mat5),
        ("c.mat", "joints", read_mat5_array),
        ("d.mat", "joints", read_mat5_array),
    ):
        rejected = 0
        path = tmp_path / file
        for _, content in byte_mutations(path.read_bytes(), 120, seed=7):
            path.write_bytes(content)
            try:
                read(path, name)
                count += 1
            except StageError as error:
                assert str(error).startswith(f"{path}: not a ") and "\n" not in str(error)
                rejected += 1
        assert rejected > 5, file
    assert count > 5


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_arrays_of_matlab_5_come_back(tmp_path: Path, kind: str, compressed: bool) -> None:
    path, random = tmp_path / "a.mat", np.random.default_rng(0)
    for shape in [(3, 14, 5), (1, 1), (2, 3), (0, 3), (2, 2, 2, 2)]:
        expected = random.integers(0, 100, shape).astype(kind)
        savemat(path, {"other": np.eye(2), "text": "words", "a": expected}, do_compression=compressed)
        found = read_mat5_array(path, "a")
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected)


def test_numbers_stored_as_smaller_ones_and_of_the_other_byte_order_come_back(tmp_path: Path) -> None:
    """MATLAB stores doubles that are whole as bytes. Written by hand, big-endian, with the name inside its tag."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    parts = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 2, 3))
    parts += struct.pack(">HH", 1, 1) + b"a\0\0\0" + element(2, bytes([1, 2, 3, 4, 5, 6]))
    (tmp_path / "a.mat").write_bytes(b" " * 124 + b"\x01\x00MI" + element(14, parts))
    np.testing.assert_array_equal(read_mat5_array(tmp_path / "a.mat", "a"), [[1, 3, 5], [2, 4, 6]])


def test_a_matlab_variable_that_is_not_an_array_of_numbers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"b": np.eye(2)})
    with pytest.raises(StageError, match="no variable 'a', but 'b'"):
        read_mat5_array(path, "a")
    others: dict[str, object] = {
        "of class char": "words",
        "of class struct": {"x": 1},
        "of class cell": np.array([1, "x"], object),
        "complex numbers": np.eye(2) + 1j,
        "of class sparse": csc_matrix(np.eye(2)),
    }
    for what, value in others.items():
        savemat(path, {"a": value})
        with pytest.raises(StageError, match=f"the variable is {what}; expected real numbers"):
            read_mat5_array(path, "a")
    path.write_bytes(b"")
    with pytest.raises(StageError, match="not a MATLAB 5 file with 'a'"):
        read_mat5_array(path, "a")


def test_an_array_that_claims_gigabytes_is_rejected(tmp_path: Path) -> None:
    """A small compressed file may claim any number of bytes."""
    path = tmp_path / "a.mat"
    savemat(path, {"b": 1})
    header, shape = path.read_bytes()[:128], (1 << 15, 1 << 14)

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content

    parts = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<ii", *shape))
    parts += struct.pack("<HH", 1, 1) + b"a\0\0\0" + struct.pack("<II", 9, 8 * shape[0] * shape[1] % 2**32)
    bomb = zlib.compress(struct.pack("<II", 14, len(parts)) + parts + bytes(1 << 20), 9)
    path.write_bytes(header + element(15, bomb))
    with pytest.raises(StageError, match="far larger than any data set's"):
        read_mat5_array(path, "a")
