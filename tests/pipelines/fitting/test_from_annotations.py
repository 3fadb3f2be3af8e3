"""What fit-static makes of annotations that know more than keypoints, and of bodies to start from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.fit_static import GivenBodies, StaticFitter, Work, fit_static
from pipelines.fitting.from_annotations import groups_of, observations_of
from pipelines.folders import DataFolder
from spin.body import CompactBody
from spin.body.model_file import OPEN_BODY
from spin.crop import keypoints_to_crop
from spin.errors import ModelFileError
from spin.evaluation.metrics import pa_mpjpe_mm
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES
from spin.fitting.prior import PosePrior
from spin.fitting.sampling import PoseSource, draw_people, orbit
from spin.joints import JOINTS
from store.annotations.table import Annotations
from store.errors import FingerprintMismatchError
from store.fits.records import Source, StartKind, Verdict
from store.fits.store import FitStore

POSES, VIEWS = 3, 4
CONFIG = FitConfig(iterations=15)


@pytest.fixture(scope="module")
def people(compact: CompactBody, prior: PosePrior):
    with torch.no_grad():
        return draw_people(compact, PoseSource(prior), POSES, torch.Generator().manual_seed(5), wild_share=0)


@pytest.fixture(scope="module")
def studio(compact: CompactBody, people) -> Annotations:
    """Three people, each seen by four calibrated cameras of an image size of its own; exact keypoints."""
    views = orbit(people, VIEWS)
    pixels = views.project(compact.keypoints(people.points_m) + people.camera_m[:, None]).numpy()
    count = POSES * VIEWS
    # The crop is cut from an image three times its size, the crop's middle at (400, 300).
    center = np.tile(np.array([400, 300], np.float32), (count, 1))
    scale = np.full(count, 3 * 224 / 200, np.float32)
    keypoints = np.ones((count, 49, 3), np.float32)
    keypoints[..., :2] = 3 * (pixels.reshape(count, 49, 2) - 112) + center[:, None]
    order = np.arange(count).reshape(POSES, VIEWS).T.ravel()  # all first views, then all second ones, …
    return Annotations(
        name="studio",
        image_root="nowhere",
        image=[f"{i}.jpg" for i in range(count)],
        center_px=center,
        scale=scale,
        keypoints_px=keypoints[order],
        source=[str(i) for i in range(count)],
        openpose_match=[""] * count,
        pose_id=[f"pose {i // VIEWS}" for i in order],
        has_camera=np.ones(count, bool),
        focal_px=np.full(count, 3 * 1500, np.float32),
        principal_px=center.copy(),
        has_view=np.ones(count, bool),
        view_rotation=views.rotation.reshape(count, 3, 3).numpy()[order].copy(),
        view_translation_m=views.translation_m.reshape(count, 3).numpy()[order].copy(),
    )


def fit_all(annotations: Annotations, given: tuple[GivenBodies, ...] = (), config: FitConfig = CONFIG, **more):
    data = DataFolder(Path("no such folder"))
    fitter = StaticFitter(FittingFiles.of(data, config), config, ignore_3d=more.get("ignore_3d", False))
    ids = np.arange(len(annotations))
    return fitter.fit(Work(ids, annotations, groups_of(annotations), given))


def error_mm(compact: CompactBody, pose: np.ndarray, betas: np.ndarray, true: torch.Tensor) -> np.ndarray:
    found = compact.keypoints(compact(torch.from_numpy(pose), torch.from_numpy(betas)))
    return pa_mpjpe_mm(found.numpy(), compact.keypoints(true).numpy())


def test_views_of_a_pose_are_fitted_together_and_written_in_each_cameras_frame(studio, people, compact) -> None:
    assert [g.tolist() for g in groups_of(studio)] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    done = fit_all(studio)
    fits = done.fits
    assert (done.verdicts == 0).all()
    for i, rows in enumerate(groups_of(studio)):
        true = people.points_m[i : i + 1].expand(VIEWS, -1, -1)
        assert error_mm(compact, fits.pose[rows], fits.betas[rows], true).max() < 15
        assert np.allclose(fits.pose[rows, 3:], fits.pose[rows[0], 3:])  # one pose, seen from four sides
        assert np.ptp(fits.score[rows]) == 0
    # Each record meets the keypoints of its own image in that image's own camera.
    points = compact.keypoints(compact(torch.from_numpy(fits.pose), torch.from_numpy(fits.betas))).numpy()
    points = points + fits.camera[:, None]
    seen = 4500 * points[..., :2] / points[..., 2:] + studio.principal_px[:, None]
    away = np.linalg.norm(seen - studio.keypoints_px[..., :2], axis=-1) / 3
    assert away.mean() < 2.0
    assert (fits.loss < 10).all()


def test_the_images_own_camera_is_used_where_it_is_known(studio, compact) -> None:
    alone = replace(studio, pose_id=[""] * len(studio))
    assert [len(g) for g in groups_of(alone)] == [1] * len(studio)
    depth = fit_all(alone).fits.camera[:, 2]
    without = replace(alone, has_camera=np.zeros(len(alone), bool), focal_px=np.zeros(len(alone), np.float32),
                      principal_px=np.zeros((len(alone), 2), np.float32),
                      has_view=np.zeros(len(alone), bool), view_rotation=np.zeros((len(alone), 3, 3), np.float32),
                      view_translation_m=np.zeros((len(alone), 3), np.float32))  # fmt: skip
    published = fit_all(without).fits.camera[:, 2]
    assert np.allclose(published / depth, 5000 / 1500, rtol=0.1)
    observations = observations_of(without, np.arange(len(alone))[:, None])
    assert np.allclose(
        observations.keypoints_px[:, 0].numpy(),
        keypoints_to_crop(without.keypoints_px, without.center_px, without.scale),
    )


def test_joints_in_3d_are_fitted_unless_they_are_to_be_ignored(studio, people, compact) -> None:
    first = studio.take(np.arange(POSES))
    joints = compact.keypoints(people.points_m)[:, JOINTS.superset]
    joints = (joints @ torch.from_numpy(first.view_rotation).transpose(-1, -2)).numpy()
    known = np.concatenate([joints + np.array([1.0, 2.0, 3.0]), np.ones((POSES, 24, 1))], -1).astype(np.float32)
    first = replace(first, pose_id=[""] * POSES, has_joints3d=np.ones(POSES, bool), joints3d_m=known)
    true = people.points_m
    with_joints, without = fit_all(first).fits, fit_all(first, ignore_3d=True).fits
    errors = [error_mm(compact, f.pose, f.betas, true) for f in (with_joints, without)]
    assert errors[0].max() < 20
    assert errors[0].mean() < errors[1].mean()
    assert (with_joints.score < without.score).all()


def test_bodies_given_in_a_file_start_fits_where_there_are_any(studio, compact) -> None:
    alone = replace(studio, pose_id=[""] * len(studio))
    config = FitConfig("lm", 0, OBJECTIVES["published"], init=())
    rng = np.random.default_rng(0)
    pose = rng.normal(0, 0.1, (len(alone), 72)).astype(np.float32)
    betas = rng.normal(0, 0.5, (len(alone), 10)).astype(np.float32)
    known = np.arange(len(alone)) % 3 != 0
    given = GivenBodies("file", pose, betas, known)
    fits = fit_all(alone, (given,), config)
    assert len(fits.fits) == len(alone)
    assert np.allclose(fits.fits.pose[known], pose[known], atol=1e-6)
    assert np.allclose(fits.fits.betas[~known], 0)  # a mean pose, where the file has none
    assert (fits.fits.start == np.where(known, StartKind.FILE, StartKind.MULTISTART)).all()


def test_views_with_given_bodies_start_from_the_first_of_them(studio, people, compact) -> None:
    """The body is given in the camera of the third view only."""
    config = FitConfig("lm", 0, OBJECTIVES["published"], init=())
    rows = groups_of(studio)
    truth = fit_all(studio).fits
    known = np.zeros(len(studio), bool)
    known[[group[2] for group in rows]] = True
    given = GivenBodies("store", truth.pose, truth.betas, known)
    again = fit_all(studio, (given,), config).fits
    for name in ("pose", "betas"):
        assert np.allclose(getattr(again, name), getattr(truth, name), atol=2e-3)


# ---- through Ray and the store ----------------------------------------------------------------------------------------


@pytest.fixture
def data(preprocessed: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))


@pytest.mark.usefixtures("ray_running")
def test_fitting_again_keeps_what_scores_better(data: DataFolder) -> None:
    short = FitConfig("lm", 1)
    first = fit_static(data, "world", short, workers=1)
    store = FitStore.open(data.fits("world"))
    before = store.get(np.arange(store.samples))
    assert fit_static(data, "world", CONFIG, workers=1).fitted == 0  # everything is there
    again = fit_static(data, "world", CONFIG, workers=1, again=True)
    store = FitStore.open(data.fits("world"))
    after = store.get(np.arange(store.samples))
    assert again.fitted == first.fitted
    there = before.source != Source.NONE
    assert (after.score[there] <= before.score[there]).all()
    assert (after.score[there] < before.score[there]).any()
    assert (after.start[there] == StartKind.LIFTER).all()
    assert np.isin(after.verdict[there], list(Verdict)).all()
    assert (after.coverage[there] > 0).all() and (after.iterations[there] > 0).all()


@pytest.mark.usefixtures("ray_running")
def test_objectives_and_lifters_do_not_mix(data: DataFolder) -> None:
    fit_static(data, "world", CONFIG, workers=1)
    published = FitConfig(objective=OBJECTIVES["published"], init=("multistart",))
    with pytest.raises(FingerprintMismatchError, match=r"objective: stored.*score rule: stored"):
        fit_static(data, "world", published, workers=1)


def test_smpl_without_a_lifter_says_what_to_run(data: DataFolder) -> None:
    shutil.copy(OPEN_BODY, data.root / "SMPL_NEUTRAL.npz")
    with pytest.raises(ModelFileError, match="spin-pipe train-lifter"):
        fit_static(data, "world", CONFIG, workers=1)
