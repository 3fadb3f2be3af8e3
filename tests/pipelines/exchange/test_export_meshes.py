"""Fits as meshes and as a table."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from pipelines.errors import UsageError
from pipelines.exchange.export import export_fits, valid_fits
from pipelines.exchange.export_meshes import export_glb, in_one_camera
from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder
from spin.body import BodyMesh, load_body
from spin.fitting.fitter import FitConfig
from store.annotations.table import Annotations
from store.fits.store import FitStore
from tests.spin.rendering.test_gltf import Reader


@pytest.fixture(scope="module")
def data(ray_running: None, preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """The world's people as frames of a recording, fitted; one of them not."""
    folder = DataFolder(shutil.copytree(preprocessed, tmp_path_factory.mktemp("meshes") / "data"))
    known = Annotations.read(folder.annotations("world-test"))
    images = [f"walk/image_{len(known) - row:05d}.jpg" for row in range(len(known))]
    for old, new in zip(known.image, images):
        target = folder.root / "frames" / new
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(known.image_root) / old, target)
    keypoints = known.keypoints_px.copy()
    keypoints[2] = 0
    nothing = np.arange(len(known)) == 2  # no keypoints, and no 3D joints that could be fitted without them
    moved = replace(
        known, name="walk", image=images, image_root=str(folder.root / "frames"), keypoints_px=keypoints,
        has_joints3d=known.has_joints3d & ~nothing, joints3d_m=np.where(nothing[:, None, None], 0, known.joints3d_m),
    )  # fmt: skip
    moved.write(folder.annotations("walk"), provenance={"reader": "test"})
    fit_static(folder, "walk", FitConfig("lm", 3), workers=1)
    return folder


def test_a_sample_stands_where_its_fit_does(data: DataFolder) -> None:
    (done,) = export_glb(data, "walk", samples=[1])
    fits = FitStore.open(data.fits("walk")).get(np.array([1]))
    with torch.no_grad():
        own = BodyMesh(load_body(data.body))(torch.from_numpy(fits.pose), torch.from_numpy(fits.betas)).vertices_m[0].numpy()
    found = Reader(done.path.read_bytes()).posed(0) * [1, -1, -1]
    assert np.linalg.norm(found - own - fits.camera[0], axis=1).mean() < 2e-3
    assert done.path == data.exported("walk", "_1.glb")


def test_a_recording_moves_in_the_order_of_its_frames(data: DataFolder) -> None:
    (done,) = export_glb(data, "walk", sequence="walk", fps=10)
    count = len(Annotations.read(data.annotations("walk")))
    assert done.samples == [row for row in reversed(range(count)) if row != 2]
    file = Reader(done.path.read_bytes())
    times = file.array(file.json["animations"][0]["samplers"][0]["input"])[:, 0]
    assert times == pytest.approx(np.arange(count - 1) / 10)


def test_what_can_not_be_shown_is_said(data: DataFolder) -> None:
    with pytest.raises(UsageError, match="--sample 2: expected a sample with a fit, from 0 to 7 of walk"):
        export_glb(data, "walk", samples=[2])
    with pytest.raises(UsageError, match="--sample 99"):
        export_glb(data, "walk", samples=[99])
    with pytest.raises(UsageError, match="no such recording; expected a name like walk"):
        export_glb(data, "walk", sequence="run")
    with pytest.raises(UsageError, match=r"expected a name ending in \.glb"):
        export_glb(data, "walk", Path("x.obj"), samples=[1])
    with pytest.raises(UsageError, match="--out names one file"):
        export_glb(data, "walk", Path("x.glb"), samples=[0, 1])


def test_one_camera_sees_every_body_where_its_own_did() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(1, 4, (5, 3))
    cameras = np.tile(np.eye(3), (5, 1, 1))
    cameras[:, 0, 0] = cameras[:, 1, 1] = rng.uniform(500, 900, 5)
    cameras[:, :2, 2] = rng.uniform(100, 300, (5, 2))
    moved = in_one_camera(places, cameras)
    focal, principal = np.median(cameras[:, 0, 0]), np.median(cameras[:, :2, 2], axis=0)
    seen = np.einsum("nij,nj->ni", cameras, places)
    assert focal * moved[:, :2] / moved[:, 2:] + principal == pytest.approx(seen[:, :2] / seen[:, 2:])
    assert focal / moved[:, 2] == pytest.approx(cameras[:, 0, 0] / places[:, 2])
    assert in_one_camera(places, cameras[:1].repeat(5, 0)) == pytest.approx(places)


def test_the_table_has_a_row_a_sample_and_says_its_units(data: DataFolder) -> None:
    done = export_fits(data, "walk", format="parquet")
    table = pyarrow.parquet.read_table(done.path)
    fits = FitStore.open(data.fits("walk")).get(np.arange(done.samples))
    assert table.column("valid").to_pylist() == valid_fits(fits).tolist()
    assert table.column("reason").to_pylist()[2] == "no fit"
    assert table.column("pose").to_pylist()[2] is None
    assert np.array_equal(np.array(table.column("pose").to_pylist()[1], np.float32), fits.pose[1])
    assert table.schema.field("camera").metadata[b"unit"] == b"m"
    assert table.schema.metadata[b"spin_pipe_body"].decode() == load_body(data.body).fingerprint
