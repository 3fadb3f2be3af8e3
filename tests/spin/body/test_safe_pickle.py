"""A pickle of arrays is read without following anything in it: no code, and no pointer."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spin.body.safe_pickle import read_array_pickle, read_data_pickle
from spin.errors import BodyFileError


class Call:
    """Pickled as a call, with a state to set afterwards."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts if self.parts[2] is not None else self.parts[:2]


def reconstruct(state: Any) -> Call:
    return Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=state)  # type: ignore[attr-defined]


def typed(spec: str, state: Any = None) -> Call:
    return Call(np.dtype, spec, False, True, state=state)


POINTERS = struct.pack("<4q", *([0x4141414141414141] * 4))
# A structure of an object and a number: its flags say that there is no object in it, so that raw bytes would be taken.
FIELDS = (3, "|", None, ("a", "b"), {"a": (np.dtype("O"), 0), "b": (np.dtype("<i8"), 8)}, 16, 1, 0)
ATTACKS: dict[str, Any] = {
    "a structure with an object in it": reconstruct((1, (2,), typed("V16", FIELDS), False, POINTERS)),
    "fields in plain numbers": reconstruct((1, (4,), typed("<i8", FIELDS), False, POINTERS)),
    "objects from bytes": reconstruct((1, (4,), typed("O8"), False, POINTERS)),
    "fewer objects than places": reconstruct((1, (4,), typed("O8"), False, [1])),
    "fewer bytes than numbers": reconstruct((1, (1_000_000_000_000,), typed("<f8"), False, b"12345678")),
    "a negative length": reconstruct((1, (-1,), typed("<f8"), False, b"")),
    "objects on a buffer": Call(np.ndarray, (4,), "O", POINTERS),
    "one object from bytes": Call(np._core.multiarray.scalar, typed("O8"), POINTERS[:8]),  # type: ignore[attr-defined]
    "a number of no bytes": Call(np._core.multiarray.scalar, typed("<f8"), b""),  # type: ignore[attr-defined]
    "a subarray": reconstruct((1, (1,), typed("<i8", (3, "<", (np.dtype("O"), (4,)), None, None, 32, 1, 0)), False, POINTERS)),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("reader", [read_array_pickle, read_data_pickle])
def test_no_pointer_in_a_file_is_followed(tmp_path: Path, attack: str, reader: Any) -> None:
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps({"v_template": ATTACKS[attack]}, protocol=2))
    # In a process of its own: what is attacked here would end it.
    code = f"from spin.body.safe_pickle import {reader.__name__} as read; print(read({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "BodyFileError" in done.stderr, (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_of_every_plain_kind_come_back(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    content = {
        "f8": rng.normal(size=(3, 4)), "f4": rng.normal(size=5).astype(np.float32), "big": np.arange(4, dtype=">i4"),
        "bool": np.array([True, False]), "fortran": np.asfortranarray(rng.normal(size=(2, 3))), "text": np.array(["a", "bc"]),
        "bytes": np.array([b"a", b"bc"]), "none": np.zeros((0, 3)), "scalar": np.float32(1.5), "plain": [1, "two", 3.0],
    }  # fmt: skip
    path = tmp_path / "some.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_data_pickle(path)
    for name, value in content.items():
        kind = np.asarray(value).dtype.newbyteorder("=")  # numpy swaps the bytes
        assert np.array_equal(found[name], value) and np.asarray(found[name]).dtype == kind, name
    objects = np.empty(2, object)
    objects[:] = [np.arange(3), "text"]
    path.write_bytes(pickle.dumps({"objects": objects, "list": [np.arange(2.0)]}, protocol=protocol))
    found = read_data_pickle(path)
    assert np.array_equal(found["objects"][0], np.arange(3)) and found["objects"][1] == "text"
    # An array inside another value can be sent to another process.
    assert np.array_equal(pickle.loads(pickle.dumps(found["list"]))[0], np.arange(2.0))


def test_a_sparse_matrix_of_any_claimed_size_is_no_danger(tmp_path: Path) -> None:
    from scipy.sparse import csc_matrix

    path = tmp_path / "some.pkl"
    matrix = csc_matrix(np.eye(3))
    path.write_bytes(pickle.dumps({"J_regressor": matrix}, protocol=2))
    assert np.array_equal(read_array_pickle(path)["J_regressor"], np.eye(3))
    matrix._shape = (2**31, 2**31)
    path.write_bytes(pickle.dumps({"J_regressor": matrix}, protocol=2))
    with pytest.raises(BodyFileError, match="more than 33,554,432 numbers"):
        read_array_pickle(path)
