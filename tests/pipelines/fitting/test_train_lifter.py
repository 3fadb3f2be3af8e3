"""What train-lifter reads, and that it leaves a lifter which fits can use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UsageError
from pipelines.fitting.train_lifter import read_poses, train_lifter
from pipelines.folders import DataFolder
from spin.body import load_body
from spin.fitting.lifter import load_lifter


def poses(tmp_path: Path, array: np.ndarray, key: str = "poses") -> Path:
    np.savez(tmp_path / "poses.npz", **{key: array})
    return tmp_path / "poses.npz"


@pytest.mark.parametrize("width", [69, 72, 156])
def test_body_angles_are_found_in_files_of_all_widths(tmp_path: Path, width: int) -> None:
    array = np.random.default_rng(0).normal(size=(5, width))
    found = read_poses(poses(tmp_path, array, "pose"))
    first = 0 if width == 69 else 3
    assert found.shape == (5, 69)
    assert np.allclose(found[:, :63], array[:, first : first + 63])
    assert (found[:, 63:] == 0).all() == (width == 156)  # hands of AMASS are fingers


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 70)),
        np.zeros((0, 72)),
        np.full((4, 72), np.nan),
        np.full((4, 72), 1e9),
        np.zeros((4, 72), int),
    ],
)
def test_files_without_poses_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"--poses .*poses\.npz"):
        read_poses(poses(tmp_path, array))


def test_a_lifter_is_trained_with_more_poses_and_says_so(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    more = poses(tmp_path, np.random.default_rng(0).normal(0, 0.2, (50, 72)))
    with pytest.raises(UsageError, match="--overwrite"):
        train_lifter(data, steps=2, poses=more)
    done = train_lifter(data, steps=2, poses=more, again=True, people=64)
    lifter = load_lifter(data.lifter, load_body().fingerprint)
    assert done.path == data.own_lifter and lifter.info.poses.endswith("50 of poses.npz")
    assert lifter.info.steps == 2 and done.expects_mm > 20
