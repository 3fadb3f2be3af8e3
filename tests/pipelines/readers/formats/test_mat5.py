"""Our reader of MATLAB 5 arrays: what scipy writes comes back, and damage is a ValueError."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from pipelines.readers import mat5
from pipelines.readers.mat5 import array_of
from tests.pipelines.mutations import byte_mutations


def written(compressed: bool = False, **variables: object) -> bytes:
    handle = BytesIO()
    savemat(handle, variables, do_compression=compressed)
    return handle.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("shape", [(3, 14, 5), (1, 1), (2, 3), (0, 3), (2, 2, 2, 2)])
def test_arrays_come_back(shape: tuple[int, ...], kind: str, compressed: bool) -> None:
    expected = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    found = array_of(written(compressed, other=np.eye(2), text="words", a=expected), "a")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_numbers_stored_as_smaller_ones_and_of_the_other_byte_order_come_back() -> None:
    """MATLAB stores doubles that are whole as bytes. Written by hand, big-endian, with the name inside its tag."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    parts = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 2, 3))
    parts += struct.pack(">HH", 1, 1) + b"a\0\0\0" + element(2, bytes([1, 2, 3, 4, 5, 6]))
    data = b" " * 124 + b"\x01\x00MI" + element(14, parts)
    found = array_of(data, "a")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[1, 3, 5], [2, 4, 6]])


def test_what_is_no_array_of_numbers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no variable 'a', but 'b'"):
        array_of(written(b=np.eye(2)), "a")
    others: dict[str, object] = {
        "text": "words",
        "structs": {"x": 1},
        "cells": np.array([1, "x"], object),
        "complex numbers": np.eye(2) + 1j,
        "a sparse matrix": csc_matrix(np.eye(2)),
    }
    for what, value in others.items():
        with pytest.raises(ValueError, match=f"the variable is {what}; expected real numbers"):
            array_of(written(a=value), "a")
    with pytest.raises(ValueError, match="no header"):
        array_of(b"", "a")
    monkeypatch.setattr(mat5, "_MOST_BYTES", 1 << 20)
    bomb = zlib.compress(bytes(2 << 20), 9)
    with pytest.raises(ValueError, match="over 1 MB unpacked"):
        array_of(written(b=1)[:128] + struct.pack("<II", 15, len(bomb)) + bomb, "a")


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_is_a_value_error(compressed: bool) -> None:
    """Some of it ends a process in scipy's reader."""
    data = written(compressed, a=np.random.default_rng(0).uniform(0, 300, (3, 14, 8)))
    errors = 0
    for what, content in byte_mutations(data, 600, seed=4):
        try:
            assert array_of(content, "a").dtype.kind in "fiu", what
        except ValueError:
            errors += 1
    assert errors > 100
