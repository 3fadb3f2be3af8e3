"""Every exchange format: what is written is read, published keys and shapes, and what is refused, in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import ExchangeError
from store.annotations.schema import ARRAYS
from store.exchange import SampleKeys, export_eft, match_samples, read_fits_file, read_samples_file
from tests.store.annotations.test_annotations import some_annotations
from tests.store.exchange_cases import (
    BODY,
    COUNT,
    ROWS,
    VALID,
    WRITERS,
    annotations,
    bedlam_cameras,
    fits,
    rotations,
    weak_cameras,
)

SAMPLE_FILES = ("4dhumans.npz", "dataset.npz")


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Path]:
    out = {}
    for name, write in WRITERS.items():
        write(tmp_path / name)
        out[name] = tmp_path / name
    return out


@pytest.mark.parametrize("name", [n for n in WRITERS if n not in ("eft.json", "dataset.npz")])
def test_pose_and_betas_are_read_to_the_bit(written: dict[str, Path], name: str) -> None:
    found = read_fits_file(written[name])
    mine = fits()
    if name == "bedlam.npz":
        mine, valid = mine.take(ROWS), np.ones(len(ROWS), bool)
    else:
        valid = np.ones(COUNT, bool) if name == "static.npy" else VALID
    assert np.array_equal(found.valid, valid)
    assert found.pose[valid].tobytes() == mine.pose[valid].tobytes()
    assert found.betas[valid].tobytes() == mine.betas[valid].tobytes()
    assert found.body == ("" if name == "static.npy" else BODY)
    assert set(found.problems) == set(np.flatnonzero(~valid).tolist())
    if name == "bedlam.npz":
        assert found.translation_m is not None and found.camera_matrix is not None
        assert np.array_equal(found.translation_m, mine.camera)
        assert np.array_equal(found.camera_matrix, bedlam_cameras(len(ROWS)))
    if name in ("bedlam.npz", "4dhumans.npz"):
        rows = ROWS if name == "bedlam.npz" else np.arange(COUNT)
        assert found.keys is not None
        assert found.keys.image == [annotations().image[row] for row in rows]
        assert np.array_equal(found.keys.scale.astype(np.float32), annotations().scale[rows])
        samples, problems = match_samples(found.keys, annotations())
        assert np.array_equal(samples, rows)
        assert not problems


def test_eft_keeps_matrices_cameras_and_boxes(written: dict[str, Path]) -> None:
    found = read_fits_file(written["eft.json"])
    assert found.rotations is not None and found.weak_camera is not None and found.keys is not None
    assert np.array_equal(found.rotations, rotations(len(ROWS)))
    assert np.array_equal(found.weak_camera, weak_cameras(len(ROWS)))
    assert np.array_equal(found.betas, fits().betas[ROWS])
    assert found.body == BODY
    assert found.keys.annotation.tolist() == (ROWS).tolist()  # of sources 'annotation 0', 'annotation 2', …
    assert np.array_equal(match_samples(found.keys, annotations())[0], ROWS)
    content = json.loads(written["eft.json"].read_text())
    assert sorted(content) == ["data", "meta", "ver"]
    published = {
        "parm_pose", "parm_shape", "parm_cam", "bbox_scale", "bbox_center", "joint_validity_openpose18", "smpltype",
        "annotId", "imageName", "gt_keypoint_2d",
    }  # fmt: skip
    assert set(content["data"][0]) == published
    assert len(content["data"][0]["joint_validity_openpose18"]) == 18
    assert content["data"][0]["imageName"] == "Größe 0.jpg"


def test_two_images_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    same = some_annotations(3, image=["a/1.jpg", "b/1.jpg", "b/2.jpg"], source=["x", "y", "z"])
    rows = np.arange(3)
    export_eft(tmp_path / "x.json", same, rows, rotations(3), fits().betas[:3], weak_cameras(3), body="SMPL")
    entries = json.loads((tmp_path / "x.json").read_text())["data"]
    assert [e["imageName"] for e in entries] == ["a/1.jpg", "b/1.jpg", "2.jpg"]
    assert [(e["annotId"], e["smpltype"]) for e in entries] == [(0, "smpl")] * 3
    keys = read_fits_file(tmp_path / "x.json").keys
    assert keys is not None
    assert np.array_equal(match_samples(keys, same)[0], rows)


@pytest.mark.parametrize("name", SAMPLE_FILES)
def test_annotations_are_read_to_the_bit(written: dict[str, Path], name: str) -> None:
    found, mine = read_samples_file(written[name]), annotations()
    assert found.image == mine.image
    for column in ("center_px", "scale"):
        assert np.array_equal(getattr(found, column), getattr(mine, column))
    assert np.array_equal(found.keypoints_px[:, 25:44], mine.keypoints_px[:, 25:44])
    assert np.array_equal(found.keypoints_px[:, :25], mine.keypoints_px[:, :25])
    assert found.joints3d_m is not None
    assert np.array_equal(found.joints3d_m, mine.joints3d_m)
    assert found.body == BODY
    if name == "dataset.npz":
        assert np.array_equal(found.keypoints_px, mine.keypoints_px)
        assert np.array_equal(found.has_smpl, mine.has_smpl)
        assert found.gender == mine.gender
        assert np.array_equal(found.pose, mine.pose) and np.array_equal(found.betas, mine.betas)


def test_spins_files_may_lack_what_they_published_without(tmp_path: Path) -> None:
    """As 3dpw_test.npz (pose without has_smpl) and lsp_dataset_test.npz (masks; texts as bytes) are."""
    boxes: dict[str, Any] = {"center": np.ones((2, 2)), "scale": np.ones(2)}
    pose = {"pose": np.ones((2, 72)), "shape": np.ones((2, 10)), "gender": np.array(["m", "f"])}
    np.savez(tmp_path / "a.npz", imgname=np.array(["a.jpg", "b.jpg"]), **boxes, **pose)
    found = read_samples_file(tmp_path / "a.npz")
    assert found.has_smpl.all() and found.gender == ["male", "female"] and not found.keypoints_px.any()
    np.savez(
        tmp_path / "b.npz", imgname=np.array([b"a.jpg", b"b.jpg"]), maskname=np.array(["m", "n"]),
        partname=np.array(["p", "q"]), part=np.ones((2, 24, 3)), **boxes,
    )  # fmt: skip
    found = read_samples_file(tmp_path / "b.npz")
    assert found.image == ["a.jpg", "b.jpg"] and found.mask == ["m", "n"] and found.part == ["p", "q"]
    assert found.joints3d_m is None and not found.has_smpl.any()
    # A data set file with bodies is a file of fits as well.
    fits_of = read_fits_file(tmp_path / "a.npz")
    assert fits_of.valid.all() and fits_of.keys is not None


def test_bedlams_place_is_the_sum_of_both_translations(written: dict[str, Path], tmp_path: Path) -> None:
    with np.load(written["bedlam.npz"]) as content:
        arrays = {name: content[name].copy() for name in content.files}
    arrays["cam_ext"][:, :3, 3] = [1.0, 2.0, 3.0]
    np.savez(tmp_path / "moved.npz", **arrays)
    moved, before = read_fits_file(tmp_path / "moved.npz"), read_fits_file(written["bedlam.npz"])
    assert moved.translation_m is not None and before.translation_m is not None
    np.testing.assert_allclose(moved.translation_m - before.translation_m, [[1, 2, 3]] * len(ROWS), atol=1e-5)


def test_4d_humans_scale_may_be_width_and_height(written: dict[str, Path], tmp_path: Path) -> None:
    with np.load(written["4dhumans.npz"]) as content:
        arrays = {name: content[name] for name in content.files}
    arrays["scale"] = np.stack([arrays["scale"] * 0.5, arrays["scale"]], 1)
    np.savez(tmp_path / "wide.npz", **arrays)
    assert np.array_equal(read_samples_file(tmp_path / "wide.npz").scale, annotations().scale)


# ---- matching ---------------------------------------------------------------------------------------------------------


def keys(image: list[str], center: list[list[float]], scale: list[float], ids: list[int]) -> SampleKeys:
    return SampleKeys(image, np.array(center, float), np.array(scale, float), np.array(ids, np.int64))


def test_rows_find_their_samples_by_id_then_by_box() -> None:
    samples = some_annotations(
        4, image=["d/a.jpg", "d/a.jpg", "d/a.jpg", "d/b.jpg"], scale=np.ones(4, np.float32),
        source=["annotation 7", "annotation 8", "row 2", "row 3"],
        center_px=np.float32([[100, 100], [104, 100], [400, 100], [50, 50]]),
    )  # fmt: skip
    rows = keys(
        ["a.jpg", "a.jpg", "d/a.jpg", "b.jpg", "c.jpg", "a.jpg"],
        [[104, 100], [104, 101], [390, 100], [250, 50], [0, 0], [100, 100]],
        [1, 1, 1.1, 1, 1, 3],
        [7, 0, 0, 0, 0, 0],
    )
    found, problems = match_samples(rows, samples)
    # The id goes before the box; the second then gets the one next to it; the last is three times too large.
    assert found.tolist() == [0, 1, 2, -1, -1, -1]
    assert problems == {
        3: "no sample of its image has its box",
        4: "the data set has no such image",
        5: "no sample of its image has its box",
    }


# ---- bad input --------------------------------------------------------------------------------------------------------


def refused(path: Path, match: str) -> None:
    with pytest.raises(ExchangeError, match=match) as caught:
        read_fits_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_fits_is_named(written: dict[str, Path], tmp_path: Path) -> None:
    refused(tmp_path / "none.npz", "no such file of fits")
    (tmp_path / "x.txt").write_text("x")
    refused(tmp_path / "x.txt", "expected fits: a static-fits .npy")
    np.savez(tmp_path / "a.npz", joints=np.ones(3))
    refused(tmp_path / "a.npz", "found joints")
    np.savez(tmp_path / "b.npz", pose_cam=np.ones((2, 165)), shape=np.ones((2, 10)),
             imgname=np.array(["a", "b"]), center=np.ones((2, 2)), scale=np.ones(2))  # fmt: skip
    refused(tmp_path / "b.npz", "165 angles a row, as SMPL-X")
    np.savez(tmp_path / "c.npz", pose=np.ones((2, 72)), betas=np.ones((3, 10)), valid_fit=np.ones(2))
    refused(tmp_path / "c.npz", r"betas should hold numbers of shape \(2, 10\), found float64 of shape \(3, 10\)")
    for name in ("final.npz", "eft.json", "static.npy"):
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(written[name].read_bytes()[:-200])
        refused(cut, "it can't be read")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[1, 2]", "found a list"),
        ('{"people": []}', "found an object with people"),
        ('{"data": []}', "its list is empty"),
        ('{"data": [{"id": 3}]}', "found other entries"),
        ('{"data": [{"parm_pose": [[1]]}]}', "found no usable entry; the first: it has no 'parm_shape'"),
        ('{"annotations": [], "data": 3}', "found an object with annotations, data"),
    ],
)
def test_json_of_another_kind_is_named(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "x.json").write_text(content)
    refused(tmp_path / "x.json", found)


def test_an_entry_of_eft_that_cant_be_used_is_set_aside_alone(written: dict[str, Path], tmp_path: Path) -> None:
    content = json.loads(written["eft.json"].read_text())
    content["data"][0]["parm_pose"] = [[[2, 0, 0], [0, 2, 0], [0, 0, 2]]] * 24
    content["data"][1]["parm_shape"][3] = float("nan")
    content["data"][2]["smpltype"] = "smplx"
    (tmp_path / "x.json").write_text(json.dumps(content))
    found = read_fits_file(tmp_path / "x.json")
    assert found.valid.tolist() == [False, False, False, True]
    assert [found.problems[row] for row in range(3)] == [
        "a matrix of parm_pose is no rotation", "its body is not a number", "its body is SMPL-X's",
    ]  # fmt: skip


def test_python_objects_are_refused_unread(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return open, (str(tmp_path / "executed"), "w")

    np.save(tmp_path / "a.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", pose=np.array([Payload()], dtype=object), shape=np.ones((1, 10)))
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Payload()))
    for name in ("a.npy", "b.npz", "c.npy", "d.npz"):
        refused(tmp_path / name, "allow_pickle|pickled")
    assert not (tmp_path / "executed").exists()


def test_every_column_of_annotations_was_thought_of() -> None:
    """A new column must be said to be held by SPIN's format, or lost in it (store.exchange.spin_dataset)."""
    assert set(ARRAYS) == {
        "center_px", "scale", "keypoints_px", "has_smpl", "pose", "betas", "has_joints3d", "joints3d_m", "has_joints17",
        "joints17_m", "has_camera", "focal_px", "principal_px", "has_view", "view_rotation", "view_translation_m",
    }  # fmt: skip
