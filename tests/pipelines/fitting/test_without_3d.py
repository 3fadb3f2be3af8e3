"""A training without 3D takes fits of single views' keypoints only; a fit's record holds which run made it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.cli import main
from pipelines.errors import StageError
from pipelines.exchange.import_fits import import_fits
from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.fit_static import StaticFitter, Work, fit_static
from pipelines.fitting.from_annotations import groups_of
from pipelines.fitting.without_3d import MARK, fits_with_3d, require_without_3d, run_name
from pipelines.folders import DataFolder, RunFolder
from pipelines.training.config import TrainConfig
from pipelines.training.run import train
from spin.body import load_body
from spin.fitting.fitter import FitConfig
from spin.fitting.sampling import PoseSource, draw_people, orbit
from spin.joints import JOINTS
from store.annotations.table import Annotations
from store.exchange import export_final_fits
from store.fits.records import Fits, Source
from store.fits.runs import run_code
from store.fits.store import FitStore

CONFIG = FitConfig(iterations=15)
ALONE, KNOWN, VIEWS = 0, 1, slice(2, 4)  # a person of one view, one with 3D joints, one seen twice


@pytest.fixture(scope="module")
def studio(compact, prior) -> Annotations:
    """Three people in views of two cameras; the third in both, the second with 3D joints."""
    with torch.no_grad():
        people = draw_people(compact, PoseSource(prior), 3, torch.Generator().manual_seed(5), wild_share=0)
        points = compact.keypoints(people.points_m)
    views = orbit(people, 2)
    pixels = views.project(points + people.camera_m[:, None]).numpy()
    pick = [(0, 0), (1, 0), (2, 0), (2, 1)]
    count = len(pick)
    keypoints = np.ones((count, 49, 3), np.float32)
    keypoints[..., :2] = [pixels[p, v] for p, v in pick]
    joints = np.zeros((count, 24, 4), np.float32)
    turned = (views.rotation[1, 0] @ points[1, JOINTS.superset].T).T
    joints[KNOWN] = np.concatenate([turned.numpy(), np.ones((24, 1))], 1)
    return Annotations(
        name="studio",
        image_root="nowhere",
        image=[f"{i}.jpg" for i in range(count)],
        center_px=np.full((count, 2), 112, np.float32),
        scale=np.full(count, 224 / 200, np.float32),
        keypoints_px=keypoints,
        source=[str(i) for i in range(count)],
        openpose_match=[""] * count,
        pose_id=["", "", "twice", "twice"],
        has_camera=np.ones(count, bool),
        focal_px=np.full(count, 1500, np.float32),
        principal_px=np.full((count, 2), 112, np.float32),
        has_view=np.ones(count, bool),
        view_rotation=np.stack([views.rotation[p, v].numpy() for p, v in pick]),
        view_translation_m=np.stack([views.translation_m[p, v].numpy() for p, v in pick]),
        has_joints3d=np.arange(count) == KNOWN,
        joints3d_m=joints,
    )


@pytest.fixture
def data(studio: Annotations, tmp_path: Path) -> DataFolder:
    data = DataFolder(tmp_path / "data")
    studio.write(data.annotations("studio"))
    return data


def fitted(data: DataFolder, studio: Annotations, *, ignore_3d: bool, run: str) -> FitStore:
    """A store with the fits of `fit-static`, by a run of this name."""
    files = FittingFiles.of(data, CONFIG)
    ids = np.arange(len(studio))
    work = Work(ids, studio, groups_of(studio, ignore_3d=ignore_3d), ())
    done = StaticFitter(files, CONFIG, ignore_3d).fit(work)
    store = FitStore.open_or_create(
        data.fits("studio"),
        samples=len(studio),
        fingerprint=files.fingerprint(CONFIG.objective, studio),
        writer="test",
    )
    code = np.uint64(store.name_run(run))
    store.merge(done.ids, replace(done.fits, run=np.full(len(done.ids), code)))
    store.flush()
    return store


def test_each_view_is_fitted_alone_where_3d_is_ignored(studio: Annotations) -> None:
    assert [g.tolist() for g in groups_of(studio)] == [[0], [1], [2, 3]]
    assert [g.tolist() for g in groups_of(studio, ignore_3d=True)] == [[0], [1], [2], [3]]


def test_fits_of_poses_that_know_more_are_told_by_their_runs(studio: Annotations) -> None:
    fits, runs = Fits.empty(4), {run_code(name): name for name in ("fit-static", run_name("fit-static", True))}
    fits.source[:] = [Source.STATIC] * 3 + [Source.NONE]
    assert fits_with_3d(studio, fits, runs).tolist() == [False, True, True, False]  # of an unknown run
    fits.run[:] = run_code("fit-static")
    assert fits_with_3d(studio, fits, runs).tolist() == [False, True, True, False]
    fits.run[KNOWN] = run_code(f"fit-static{MARK}")
    assert fits_with_3d(studio, fits, runs).tolist() == [False, False, True, False]
    fits.source[3], fits.run[VIEWS] = Source.LOOP, run_code(f"fit-static{MARK}")
    assert not fits_with_3d(studio, fits, runs).any()
    fits.run[3] = run_code("first")
    assert fits_with_3d(studio, fits, runs).tolist() == [False, False, False, True]


def test_a_training_without_3d_does_not_start_from_fits_with_it(data: DataFolder, studio: Annotations, tmp_path: Path) -> None:
    require_without_3d(data, "studio", studio)  # no fits, no question
    fitted(data, studio, ignore_3d=False, run="fit-static")
    config = TrainConfig(datasets=("studio",), ignore_3d=True, batch_size=2)
    remedy = rf"3 of its fits .* `spin-pipe fit-static studio --ignore-3d --fits {data.root}/fits-without-3d`"
    with pytest.raises(StageError, match=remedy):
        train(data, RunFolder(tmp_path / "logs" / "first"), config, resume=False)
    assert not (tmp_path / "logs").exists()
    elsewhere = DataFolder(data.root, str(data.root / "fits-without-3d"))
    fitted(elsewhere, studio, ignore_3d=True, run=run_name("fit-static", True))
    require_without_3d(elsewhere, "studio", studio)


def test_stored_bodies_with_3d_start_no_fits_without_it(
    data: DataFolder, studio: Annotations, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(data, studio, ignore_3d=False, run="fit-static")
    monkeypatch.setattr(
        sys, "argv", ["spin-pipe", "fit-static", "studio", "--init", "store", "--ignore-3d", "--data", str(data.root)]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "3 of its fits may have been made with 3D joints or several views" in capsys.readouterr().err


@pytest.mark.parametrize("ignore_3d", [True, False])
def test_an_import_says_whether_its_bodies_know_3d(
    data: DataFolder, studio: Annotations, tmp_path: Path, ignore_3d: bool
) -> None:
    store = fitted(data, studio, ignore_3d=True, run=run_name("fit-static", True))
    file = tmp_path / "bodies.npz"
    fits = store.get(np.arange(4))
    export_final_fits(file, fits, np.ones(4, bool), body=load_body(data.body).fingerprint)
    elsewhere = DataFolder(data.root, str(tmp_path / "imported"))
    done = import_fits(elsewhere, "studio", file, ignore_3d=ignore_3d)
    assert done.better == 4
    if ignore_3d:
        require_without_3d(elsewhere, "studio", studio)
        return
    with pytest.raises(StageError, match="3 of its fits may have been made"):
        require_without_3d(elsewhere, "studio", studio)


@pytest.mark.usefixtures("ray_running")
def test_fit_static_makes_and_marks_them(data: DataFolder, studio: Annotations, tmp_path: Path) -> None:
    done = fit_static(data, "studio", CONFIG, workers=1, ignore_3d=True)
    assert done.fitted == 4
    require_without_3d(data, "studio", studio)
    store = FitStore.open(data.fits("studio"))
    assert set(store.runs.values()) == {"fit-static --ignore-3d"}
    # A pose of one view and no 3D joints has no part in it: the fits are those of such annotations.
    unknown = np.zeros((4, 24, 4), np.float32)
    plain = replace(studio, pose_id=[""] * 4, has_joints3d=np.zeros(4, bool), joints3d_m=unknown)
    files = FittingFiles.of(data, CONFIG)
    alone = StaticFitter(files, CONFIG, ignore_3d=False).fit(Work(np.arange(4), plain, groups_of(plain), ()))
    assert np.abs(store.get(np.arange(4)).pose - alone.fits.pose).max() < 1e-4  # another process, another rounding
