from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import AnnotationError, Annotations
from store.annotations.schema import ARRAYS, TEXTS
from store.files.atomic import TEMPORARY


def some_annotations(count: int = 5, **changes: Any) -> Annotations:
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 600, (count, 49, 3)).astype(np.float32)
    keypoints[:, :, 2] = rng.uniform(0, 1, (count, 49))
    columns: dict[str, Any] = {
        "name": "coco",
        "image_root": "/data/coco",
        "image": [f"train2014/Größe {row}.jpg" for row in range(count)],
        "center_px": rng.uniform(0, 600, (count, 2)).astype(np.float32),
        "scale": rng.uniform(0.5, 3, count).astype(np.float32),
        "keypoints_px": keypoints,
        "source": [f"annotation {row}" for row in range(count)],
        "openpose_match": ["" if row % 2 else "no detection near" for row in range(count)],
    }
    return Annotations(**{**columns, **changes})


def with_truth(count: int = 5) -> Annotations:
    """Every other row knows its body, the third its joints."""
    rng = np.random.default_rng(1)
    has_smpl, has_joints3d = np.arange(count) % 2 == 0, np.arange(count) == 2
    return replace(
        some_annotations(count),
        has_smpl=has_smpl,
        pose=(rng.normal(size=(count, 72)) * has_smpl[:, None]).astype(np.float32),
        betas=(rng.normal(size=(count, 10)) * has_smpl[:, None]).astype(np.float32),
        has_joints3d=has_joints3d,
        joints3d_m=(rng.normal(size=(count, 24, 4)) * has_joints3d[:, None, None]).astype(np.float32),
        has_joints17=~has_joints3d,
        joints17_m=(rng.normal(size=(count, 17, 3)) * ~has_joints3d[:, None, None]).astype(np.float32),
        gender=["female", "", "male", "neutral", ""] + [""] * (count - 5),
    )


def with_views(count: int = 5) -> Annotations:
    """The last two rows show one person at one moment; the first has a camera alone."""
    rng = np.random.default_rng(2)
    has_view = np.arange(count) >= count - 2
    has_camera = has_view | (np.arange(count) == 0)
    turned, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    turned *= np.linalg.det(turned)[:, None, None]
    return replace(
        with_truth(count),
        has_camera=has_camera,
        focal_px=(rng.uniform(500, 2000, count) * has_camera).astype(np.float32),
        principal_px=(rng.uniform(100, 900, (count, 2)) * has_camera[:, None]).astype(np.float32),
        has_view=has_view,
        view_rotation=(turned * has_view[:, None, None]).astype(np.float32),
        view_translation_m=(rng.normal(size=(count, 3)) * has_view[:, None]).astype(np.float32),
        pose_id=["subject 1, frame 7" if known else "" for known in has_view],
    )


def assert_equal(first: Annotations, second: Annotations) -> None:
    for name in ARRAYS:
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype and np.array_equal(a, b), name
    for name in (*TEXTS, "name", "image_root"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.mark.parametrize("annotations", [some_annotations(), with_truth(), with_views(), some_annotations(0)])
def test_what_is_written_is_read(annotations: Annotations, tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "coco.parquet"
    annotations.write(path, provenance={"reader": "coco 1"})
    annotations.write(path)
    found = Annotations.read(path)
    assert_equal(found, annotations)
    assert found.content_hash == annotations.content_hash
    assert [item.name for item in path.parent.iterdir()] == ["coco.parquet"]


def test_many_rows_span_row_groups(tmp_path: Path) -> None:
    annotations = with_views(5000)
    annotations.write(tmp_path / "a.parquet", provenance={"reader": "coco"})
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4096, 904]
    assert_equal(Annotations.read(tmp_path / "a.parquet"), annotations)


def test_the_file_says_what_it_is_and_unknown_is_null(tmp_path: Path) -> None:
    with_truth().write(tmp_path / "a.parquet", provenance={"reader": "coco 1"})
    table = pq.read_table(tmp_path / "a.parquet")
    metadata = table.schema.metadata
    assert metadata[b"format"] == b"spin-pipe-annotations" and metadata[b"version"] == b"1"
    assert metadata[b"dataset"] == b"coco" and json.loads(metadata[b"provenance"]) == {"reader": "coco 1"}
    assert metadata[b"content_hash"].decode() == with_truth().content_hash
    assert table.schema.field("keypoints_px").metadata[b"shape"] == b"49,3"
    assert b"px" in table.schema.field("center_px").metadata[b"unit"]
    assert table.column("pose").is_null().to_pylist() == [False, True, False, True, False]


def test_content_hash_depends_on_every_column_and_not_on_the_place() -> None:
    base = with_views()
    assert replace(base, image_root="/elsewhere").content_hash == base.content_hash
    assert base.take(np.arange(5)).content_hash == base.content_hash
    hashes = {base.content_hash}
    numbers = [name for name, column in ARRAYS.items() if column.dtype == "<f4"]
    for name in numbers:
        values = getattr(base, name)
        other = values.transpose(0, 2, 1) if name == "view_rotation" else values * np.float32(0.5)
        hashes.add(replace(base, **{name: other}).content_hash)
    for name in TEXTS:
        texts = list(getattr(base, name))
        texts[-1] = "male" if name == "gender" else "other"
        hashes.add(replace(base, **{name: texts}).content_hash)
    assert len(hashes) == 1 + len(numbers) + len(TEXTS)


def test_take_keeps_order_and_flags() -> None:
    annotations = with_views()
    taken = annotations.take(np.array([4, 0]))
    assert taken.source == ["annotation 4", "annotation 0"] and taken.has_smpl.tolist() == [True, True]
    assert np.array_equal(taken.pose, annotations.pose[[4, 0]])
    assert taken.has_view.tolist() == [True, False] and taken.pose_id == ["subject 1, frame 7", ""]
    assert np.array_equal(taken.focal_px, annotations.focal_px[[4, 0]])
    assert len(annotations.take(annotations.has_joints3d)) == 1
    assert annotations.image_path(1) == Path("/data/coco/train2014/Größe 1.jpg")


def _bad_keypoints(value: float, column: int) -> np.ndarray:
    keypoints = some_annotations().keypoints_px.copy()
    keypoints[3, 10, column] = value
    return keypoints


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"keypoints_px": _bad_keypoints(np.nan, 0)},
            "row 3, 'annotation 3': keypoints_px has numbers that are not",
        ),
        ({"keypoints_px": _bad_keypoints(1.2, 2)}, "row 3, .*confidence is outside 0..1"),
        ({"keypoints_px": np.zeros((5, 24, 3), np.float32)}, r"must be float32 of shape \(5, 49, 3\)"),
        ({"scale": np.zeros(5, np.float32)}, r"row 0, .*and 4 more rows.*scale must be above 0"),
        ({"scale": np.ones(5)}, "scale must be float32 .* found float64"),
        ({"center_px": np.full((5, 2), np.inf, np.float32)}, "center_px has numbers that are not finite"),
        ({"image": ["/abs.jpg", *"bcde"]}, "row 0, .*relative path"),
        ({"image": ["a\\b.jpg", *"bcde"]}, "forward slashes"),
        ({"source": ["one"]}, "source must be 5 texts, found 1"),
        ({"gender": [*"abcde"]}, "gender must be"),
        ({"has_smpl": np.ones(5, bool)}, "has_smpl is set for some rows, but pose is missing"),
        ({"pose": np.ones((5, 72), np.float32)}, "pose has numbers, has_smpl is not set"),
        ({"name": ""}, "name is empty"),
    ],
)
def test_wrong_values_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        some_annotations(**changes)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="spin-pipe preprocess") as caught:
        Annotations.read(tmp_path / "none.parquet")
    assert isinstance(caught.value, FileNotFoundError) and str(tmp_path / "none.parquet") in str(caught.value)


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("not parquet at all, but long enough to look at")
    with pytest.raises(AnnotationError, match="not a Parquet file"):
        Annotations.read(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(AnnotationError, match="expected spin-pipe-annotations version 1, found None"):
        Annotations.read(path)
    some_annotations().write(path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["scale"]), path)
    with pytest.raises(AnnotationError, match="column 'scale' is missing"):
        Annotations.read(path)
    wrong = table.set_column(table.schema.get_field_index("scale"), "scale", pa.array(["1"] * 5))
    pq.write_table(wrong, path)
    with pytest.raises(AnnotationError, match="column 'scale' should be float, found string") as caught:
        Annotations.read(path)
    assert "\n" not in str(caught.value)


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    some_annotations(200).write(path)
    whole = path.read_bytes()
    for position in range(1000, len(whole) // 2, 997):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(AnnotationError):
            Annotations.read(path)


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead, young, living = (tmp_path / f"{TEMPORARY}{name}" for name in ("dead", "young", "living"))
    for path in (dead, young, living):
        path.write_bytes(b"half")
    for path in (dead, living):
        os.utime(path, (0, 0))
    with living.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        some_annotations().write(tmp_path / "a.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.parquet", living.name, young.name])
