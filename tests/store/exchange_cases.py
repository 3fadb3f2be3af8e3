"""A small file of each exchange format, with known content, and ways to damage its arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from store import Annotations, Fits
from store.exchange import (
    export_bedlam,
    export_eft,
    export_final_fits,
    export_humans4d,
    export_mview_fits,
    export_spin_dataset,
    export_static_fits,
)
from tests.store.annotations.test_annotations import with_truth
from tests.store.fit_samples import random_fits

BODY = "open-body-1:0123456789ab"
COUNT = 5
VALID = np.array([True, False, True, True, True])
ROWS = np.flatnonzero(VALID)


def annotations() -> Annotations:
    """People with what the formats hold, the confidences of their 3D joints within 0 and 1."""
    made = with_truth(COUNT)
    made.joints3d_m[..., 3] = np.clip(np.abs(made.joints3d_m[..., 3]), 0, 1)
    return made


def fits() -> Fits:
    return random_fits(COUNT, np.random.default_rng(3))


def rotations(count: int) -> np.ndarray:
    """Proper rotations, (count, 24, 3, 3)."""
    q, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(count, 24, 3, 3)))
    return q * np.linalg.det(q)[..., None, None]


def weak_cameras(count: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(0.2, 1.0, (count, 3))


def bedlam_cameras(count: int) -> np.ndarray:
    return np.tile(np.diag([1000.0, 1000.0, 1.0]), (count, 1, 1))


def _eft(path: Path) -> None:
    k = len(ROWS)
    export_eft(
        path, annotations(), ROWS, rotations(k), fits().betas[ROWS], weak_cameras(k), body=BODY
    )  # fmt: skip


def _bedlam(path: Path) -> None:
    k = len(ROWS)
    export_bedlam(
        path, annotations(), ROWS, fits().take(ROWS), bedlam_cameras(k), np.full((k, 24, 2), 7.0), body=BODY
    )  # fmt: skip


WRITERS: dict[str, Callable[[Path], None]] = {
    "static.npy": lambda path: export_static_fits(path, fits()),
    "final.npz": lambda path: export_final_fits(path, fits(), VALID, body=BODY),
    "mview.npz": lambda path: export_mview_fits(path, fits(), VALID, body=BODY),
    "eft.json": _eft,
    "4dhumans.npz": lambda path: export_humans4d(path, annotations(), fits(), VALID, body=BODY),
    "bedlam.npz": _bedlam,
    "dataset.npz": lambda path: export_spin_dataset(path, annotations(), body=BODY),
}


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (str(self.witness), "w")


def damaged_arrays(arrays: dict[str, np.ndarray], rng: np.random.Generator, witness: Path) -> dict[str, np.ndarray]:
    """One array missing, of another shape, type or name, or with values that are none."""
    out = dict(arrays)
    name = sorted(out)[rng.integers(len(out))]
    array = out[name]
    kind = rng.integers(9)
    if kind == 0:
        del out[name]
    elif kind == 1:
        out[name] = array[..., :-1] if array.ndim else np.zeros(3)
    elif kind == 2:
        out[name] = array[None]
    elif kind == 3:
        out[name] = np.array([Payload(witness)], dtype=object)
    elif kind == 4:
        out[name] = np.full(array.shape, "x")
    elif kind == 5:
        out[name] = np.zeros(array.shape, np.complex128)
    elif kind == 6:
        out[name] = array[:-1] if array.ndim else np.array(1.5)
    elif kind == 7:
        out[name] = np.full(array.shape, [np.nan, np.inf, -1.0, 1e300, 0.0][rng.integers(5)])
    else:
        out[name] = np.zeros((0, *array.shape[1:]), array.dtype)
    return out
