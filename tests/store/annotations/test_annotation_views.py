"""Cameras and views in annotations: optional, checked, and absent where they are not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from store import AnnotationError, Annotations
from store.annotations.schema import ARRAYS, LATER, OPTIONAL_TEXTS, TEXTS
from tests.store.annotations.test_annotations import assert_equal, some_annotations, with_truth, with_views

# What the code computed before there were cameras, of `counted` without and with a truth.
HASH_BEFORE = "5bff5f401c312d971da8267f9a517c8ea75dd533cfaa84312f5f628da542e792"
HASH_BEFORE_WITH_TRUTH = "a1afb94bfae9f7f8b36bd61d0d5ca452e2ce1b01aeade379f89b8278d33e4b6e"


def numbers(*shape: int) -> np.ndarray:
    """0 to 63 sixty-fourths, over and over: exact in float32, and the same in every NumPy."""
    return (np.arange(np.prod(shape)).reshape(shape) % 64 / 64).astype(np.float32)


def counted(**more: Any) -> Annotations:
    return Annotations(
        name="coco",
        image_root="/data",
        image=["a/Größe.jpg", "b.jpg", "b.jpg"],
        center_px=numbers(3, 2) * 100,
        scale=numbers(3) + 1,
        keypoints_px=numbers(3, 49, 3),
        source=["one", "two", "three"],
        openpose_match=["", "", "no detection near"],
        **more,
    )


def test_data_that_know_no_camera_keep_the_hash_they_had() -> None:
    known = np.array([True, False, True])
    truth: dict[str, Any] = {
        "has_smpl": known,
        "pose": numbers(3, 72) * known[:, None],
        "betas": numbers(3, 10) * known[:, None],
        "gender": ["", "male", ""],
    }
    assert counted().content_hash == HASH_BEFORE
    assert counted(**truth).content_hash == HASH_BEFORE_WITH_TRUTH
    camera: dict[str, Any] = {
        "has_camera": known, "focal_px": numbers(3) + known, "principal_px": np.ones((3, 2), np.float32),
    }  # fmt: skip
    camera["focal_px"][1], camera["principal_px"][1] = 0, 0
    assert counted(**camera).content_hash not in (HASH_BEFORE, HASH_BEFORE_WITH_TRUTH)


def test_the_hash_tells_which_rows_have_a_camera_or_a_view() -> None:
    base = replace(with_views(), pose_id=[])
    one_less = replace(
        base,
        has_view=base.has_view & (np.arange(5) != 4),
        **_changed("view_rotation", 4, 0),
        **_changed("view_translation_m", 4, 0),
    )
    unknown = {name: np.empty(0) for name in ("has_view", "view_rotation", "view_translation_m")}
    every = (with_views(), base, one_less, replace(base, **unknown), with_truth())
    assert len({annotations.content_hash for annotations in every}) == 5


def test_files_of_before_are_read_as_not_known(tmp_path: Path) -> None:
    with_truth().write(tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    pq.write_table(table.drop_columns(sorted(LATER)), tmp_path / "old.parquet")
    found = Annotations.read(tmp_path / "old.parquet")
    assert_equal(found, with_truth())
    assert found.content_hash == with_truth().content_hash
    assert not found.has_camera.any() and not found.has_view.any() and found.pose_id == [""] * 5
    assert {*ARRAYS, *TEXTS} >= LATER and not set(OPTIONAL_TEXTS) & set(ARRAYS)


@pytest.mark.parametrize("name", sorted(LATER))
def test_a_file_that_lacks_one_of_them_is_damaged(name: str, tmp_path: Path) -> None:
    with_views().write(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(table.drop_columns([name]), tmp_path / "a.parquet")
    with pytest.raises(AnnotationError, match=f"column '{name}' is missing"):
        Annotations.read(tmp_path / "a.parquet")


def test_what_is_not_known_is_null_in_the_file(tmp_path: Path) -> None:
    with_views().write(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("focal_px").is_null().to_pylist() == [False, True, True, False, False]
    assert table.column("view_rotation").is_null().to_pylist() == [True, True, True, False, False]
    assert table.column("has_camera").null_count == 0
    assert b"world to camera" in table.schema.field("view_rotation").metadata[b"unit"]


def _changed(name: str, row: int, value: object) -> dict[str, np.ndarray]:
    values = getattr(with_views(), name).copy()
    values[row] = value
    return {name: values}


NEARLY = with_views().view_rotation[4] + np.float32(2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (_changed("focal_px", 3, 0), "row 3, .*focal_px must be above 0"),
        (_changed("focal_px", 0, -900), "row 0, .*focal_px must be above 0"),
        (_changed("focal_px", 0, np.nan), "row 0, .*focal_px has numbers that are not finite"),
        (_changed("focal_px", 1, 900), "row 1, .*focal_px has numbers, has_camera is not set"),
        (_changed("principal_px", 1, 5), "row 1, .*principal_px has numbers, has_camera is not set"),
        (_changed("view_rotation", 4, np.diag([1, 1, -1])), "row 4, .*view_rotation is no rotation"),
        (_changed("view_rotation", 4, -with_views().view_rotation[4]), "view_rotation is no rotation"),
        (_changed("view_rotation", 3, 0), "row 3, .*view_rotation is no rotation"),
        (_changed("view_rotation", 3, 1.01 * np.eye(3)), "row 3, .*view_rotation is no rotation"),
        (_changed("view_rotation", 0, np.eye(3)), "row 0, .*view_rotation has numbers, has_view is not set"),
        (_changed("view_translation_m", 3, np.inf), "row 3, .*view_translation_m has numbers that are not"),
        (_changed("has_view", 3, False), "row 3, .*numbers, has_view is not set"),
        ({"focal_px": np.ones((5, 1), np.float32)}, r"focal_px must be float32 of shape \(5,\)"),
        ({"has_camera": np.ones(5, np.uint8)}, "has_camera must be bool"),
        ({"pose_id": ["a", "", "", "a", "a"]}, "row 0, .*a row with a pose_id must have a camera and a view"),
        ({"pose_id": ["", "", "a", "a", "a"]}, "row 2, .*a row with a pose_id must have a camera and a view"),
        ({"pose_id": ["a"]}, "pose_id must be 5 texts, found 1"),
        ({"view_rotation": np.empty(0)}, "has_view is set for some rows, but view_rotation is missing"),
    ],
)
def test_wrong_cameras_and_views_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        replace(with_views(), **changes)
    assert "\n" not in str(caught.value)


def test_a_pose_seen_with_a_view_but_without_a_camera_is_refused() -> None:
    known = np.array([False, False, False, True, False])
    views = with_views()
    with pytest.raises(AnnotationError, match=r"row 4, .*a row with a pose_id must have a camera and a view"):
        replace(
            views,
            has_camera=known,
            focal_px=views.focal_px * known,
            principal_px=views.principal_px * known[:, None],
        )


def test_a_view_needs_no_pose_id_and_rounding_is_allowed() -> None:
    replace(with_views(), pose_id=[])
    replace(with_views(), **_changed("view_rotation", 4, NEARLY))


def test_a_few_rows_with_views_among_many_without(tmp_path: Path) -> None:
    views = with_views()
    assert_equal(views.take(~views.has_camera), with_truth().take(~views.has_camera))
    views.take(np.zeros(0, np.int64)).write(tmp_path / "none.parquet")
    assert len(Annotations.read(tmp_path / "none.parquet")) == 0
    assert some_annotations(0).pose_id == []
