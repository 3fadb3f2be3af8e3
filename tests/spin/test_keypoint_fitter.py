"""The way in from Python: what goes in, what comes out, and what a wrong input is answered with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import spin
from examples.fit_keypoints import some_keypoints
from spin import BodyFileError, BodyFits, Fitter, KeypointError
from spin.evaluation.metrics import pa_mpjpe_mm
from spin.joints import COCO_NAMES, JOINTS, OPENPOSE_NAMES


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    return Fitter.load()


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, np.ndarray]:
    return some_keypoints(6, seed=3)


@pytest.fixture(scope="module")
def fits(fitter: Fitter, people: tuple[np.ndarray, np.ndarray]) -> BodyFits:
    return fitter.fit_coco(people[0])


def test_a_file_of_smpls_that_can_not_be_used_is_an_error(tmp_path: Path) -> None:
    """There is no first line that could name it, as commands have."""
    (tmp_path / "smpl").mkdir()
    (tmp_path / "smpl" / "SMPL_NEUTRAL.pkl").touch()
    with pytest.raises(BodyFileError, match=r"ignored: .*SMPL_NEUTRAL\.pkl \(it is empty\); put SMPL's file there"):
        Fitter.load(data=tmp_path)


def test_the_public_interface_is_there_and_importing_it_loads_nothing() -> None:
    assert all(hasattr(spin, name) for name in spin.__all__)
    assert set(spin.__all__) <= set(dir(spin))
    code = "import spin, sys; assert not {'torch', 'smplx', 'cv2', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Fiter'"):
        spin.Fiter  # noqa: B018


def test_bodies_are_near_the_truth_and_meet_their_keypoints(fits: BodyFits, people: tuple[np.ndarray, np.ndarray]) -> None:
    keypoints, truth = people
    assert fits.valid.all() and set(fits.status) == {"valid"}
    assert fits.doubtful.dtype == bool and np.array_equal(fits.doubtful, fits.score > 100)
    found = fits.joints()[:, list(JOINTS.coco)]
    error = pa_mpjpe_mm(torch.from_numpy(found), torch.from_numpy(truth.astype(np.float32)))
    assert float(torch.as_tensor(error).mean()) < 70
    pixels = fits.keypoints_px()[:, list(JOINTS.coco)]
    assert np.linalg.norm(pixels - keypoints[..., :2], axis=-1).mean() < 4
    assert fits.vertices().shape == (6, len(fits.body.v_template), 3)
    assert fits.faces.max() < len(fits.body.v_template)


def test_arrays_lists_and_tensors_give_the_same(fitter: Fitter, fits: BodyFits, people: tuple[np.ndarray, np.ndarray]) -> None:
    keypoints = people[0]
    before = keypoints.copy()
    for given in (torch.from_numpy(keypoints), keypoints.tolist()):
        again = fitter.fit_coco(given)
        assert np.array_equal(again.pose, fits.pose) and np.array_equal(again.camera_m, fits.camera_m)
    one = fitter.fit_coco(keypoints[0])
    assert np.allclose(one.pose, fits.pose[:1], atol=1e-4)
    assert np.array_equal(keypoints, before)


def test_names_and_visibility_flags_mean_the_same_joints(
    fitter: Fitter, fits: BodyFits, people: tuple[np.ndarray, np.ndarray]
) -> None:
    keypoints = people[0]
    shuffled = np.random.default_rng(0).permutation(17)
    names = [COCO_NAMES[i].replace(" ", "_") for i in shuffled]
    assert np.array_equal(fitter.fit_named(names, keypoints[:, shuffled]).pose, fits.pose)
    flags = keypoints.copy()
    flags[..., 2] = 2
    assert np.array_equal(fitter.fit_coco(flags).pose, fits.pose)
    flags[:, 0, 2] = 0
    assert not np.array_equal(fitter.fit_coco(flags).pose, fits.pose)


def test_openpose_joints_go_to_their_half(fitter: Fitter, people: tuple[np.ndarray, np.ndarray]) -> None:
    named = dict(zip(COCO_NAMES, people[0].transpose(1, 0, 2)))
    openpose = np.stack([named.get(name, np.zeros((6, 3))) for name in OPENPOSE_NAMES], 1)
    assert fitter.fit_openpose(openpose).valid.all()


def test_a_known_camera_gives_true_depth(fitter: Fitter, people: tuple[np.ndarray, np.ndarray]) -> None:
    keypoints, truth = people
    fits = fitter.fit_coco(keypoints, focal_px=1000.0, principal_px=(500.0, 500.0))
    assert np.array_equal(fits.focal_px, np.full(6, 1000, np.float32))
    depth = fits.joints()[:, list(JOINTS.coco), 2].mean(1)
    assert np.abs(depth / truth[..., 2].mean(1) - 1).max() < 0.15  # the body's size is not known
    assert np.linalg.norm(fits.keypoints_px()[:, list(JOINTS.coco)] - keypoints[..., :2], axis=-1).mean() < 4


def test_one_bad_person_costs_no_one_else(fitter: Fitter, fits: BodyFits, people: tuple[np.ndarray, np.ndarray]) -> None:
    damaged = people[0].copy()
    boxes = np.concatenate([damaged[..., :2].min(1), np.ptp(damaged[..., :2], axis=1)], 1)
    clean = fitter.fit_coco(damaged, boxes)
    damaged[1, 5] = np.nan
    damaged[2, :, 2] = 0
    boxes[3, 2:] = 0
    result = fitter.fit_coco(damaged, boxes)
    assert result.valid.tolist() == [True, False, False, False, True, True]
    assert result.status[1].startswith("not a number")
    assert result.status[2].startswith("fewer than")
    assert "without area" in result.status[3]
    assert np.array_equal(result.pose[[0, 4, 5]], clean.pose[[0, 4, 5]])


def test_no_one_is_a_result_too(fitter: Fitter) -> None:
    fits = fitter.fit_coco(np.zeros((0, 17, 3)))
    assert len(fits) == 0 and fits.valid.shape == (0,) and fits.pose.shape == (0, 72)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, k: f.fit_coco(k[:, :16]), r"shape \(6, 16, 3\), expected \(N, 17, 3\)"),
        (lambda f, k: f.fit_coco(k / [1000, 1000, 1]), "expected pixels"),
        (lambda f, k: f.fit_coco(k, np.zeros((5, 4))), r"boxes have shape \(5, 4\), expected \(6, 4\)"),
        (lambda f, k: f.fit_coco([["a"]]), "expected an array of numbers"),
        (lambda f, k: f.fit_coco(k, focal_px=1000), "focal_px and principal_px together"),
        (lambda f, k: f.fit_coco(k, focal_px=-1, principal_px=(0, 0)), "above 0"),
        (lambda f, k: f.fit_named(["tail"], k[:, :1]), "no joint is called 'tail'"),
        (lambda f, k: f.fit_named(["left knee", "LKnee"], k[:, :2]), "left knee appears twice"),
    ],
)
def test_wrong_input_is_one_line(fitter: Fitter, people: tuple[np.ndarray, np.ndarray], change, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(KeypointError, match=message) as caught:
        change(fitter, people[0])
    assert "\n" not in str(caught.value)


def test_saved_fits_read_back(fits: BodyFits, tmp_path: Path) -> None:
    with np.load(fits.save(tmp_path / "a.npz")) as saved:
        assert sorted(saved) == ["betas", "pose", "valid_fit"]
        assert np.array_equal(saved["pose"], fits.pose) and saved["valid_fit"].all()
    rows = np.load(fits.save(tmp_path / "a.npy"))
    assert np.array_equal(rows, np.concatenate([fits.pose, fits.betas], 1))
    with pytest.raises(ValueError, match=r"\.npz"):
        fits.save(tmp_path / "a.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a.npz"]
