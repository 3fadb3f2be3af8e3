from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fit_samples import random_fits

from store import ExchangeError, export_final_fits, export_spin_dataset, import_static_fits
from tests.store.annotations.test_annotations import some_annotations, with_truth, with_views


def test_final_fits_round_trip(tmp_path: Path) -> None:
    fits, valid = random_fits(6, np.random.default_rng(0)), np.arange(6) != 2
    export_final_fits(tmp_path / "coco.npz", fits, valid)
    with np.load(tmp_path / "coco.npz", allow_pickle=False) as content:
        assert sorted(content) == ["betas", "pose", "valid_fit"]
        assert content["pose"].shape == (6, 72) and content["betas"].shape == (6, 10)
        assert np.array_equal(content["valid_fit"], valid)
    found = import_static_fits(tmp_path / "coco.npz", 6)
    assert np.array_equal(found.pose, fits.pose) and np.array_equal(found.betas, fits.betas)
    assert np.array_equal(found.valid, valid)
    assert [path.name for path in tmp_path.iterdir()] == ["coco.npz"]


def test_static_fits_are_pose_then_betas_and_zero_rows_are_absent(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 82))
    rows[1], rows[2, 5] = 0, np.nan
    np.save(tmp_path / "coco_fits.npy", rows)
    found = import_static_fits(tmp_path / "coco_fits.npy", 4)
    assert found.valid.tolist() == [True, False, False, True]
    assert np.array_equal(found.pose[0], rows[0, :72].astype(np.float32))
    assert np.array_equal(found.betas[3], rows[3, 72:].astype(np.float32))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="no such file"):
        import_static_fits(tmp_path / "none.npy", 4)
    np.save(tmp_path / "a.npy", np.zeros((3, 82)))
    with pytest.raises(ExchangeError, match="the data set has 4 samples"):
        import_static_fits(tmp_path / "a.npy", 4)
    np.save(tmp_path / "b.npy", np.zeros(82))
    with pytest.raises(ExchangeError, match=r"expected an \.npy array \(n, 82\)"):
        import_static_fits(tmp_path / "b.npy", 4)
    np.save(tmp_path / "c.npy", np.array([{"pose": 1}]), allow_pickle=True)
    with pytest.raises(ExchangeError, match="allow_pickle=False"):
        import_static_fits(tmp_path / "c.npy", 1)
    np.savez(tmp_path / "d.npz", pose=np.zeros((4, 72)))
    with pytest.raises(ExchangeError, match="betas"):
        import_static_fits(tmp_path / "d.npz", 4)
    fits = random_fits(2, np.random.default_rng(0))
    with pytest.raises(ExchangeError, match=r"valid must be bool of shape \(2,\)"):
        export_final_fits(tmp_path / "e.npz", fits, np.ones(3, bool))
    with pytest.raises(ExchangeError, match=r"must end in \.npz"):
        export_final_fits(tmp_path / "e", fits, np.ones(2, bool))


def test_spin_dataset_has_the_published_names_and_only_what_is_known(tmp_path: Path) -> None:
    export_spin_dataset(tmp_path / "plain.npz", some_annotations())
    with np.load(tmp_path / "plain.npz", allow_pickle=False) as plain:
        assert sorted(plain) == ["center", "imgname", "openpose", "part", "scale"]
        assert plain["imgname"][0] == "train2014/Größe 0.jpg"
        assert np.array_equal(plain["openpose"], some_annotations().keypoints_px[:, :25])
        assert np.array_equal(plain["part"], some_annotations().keypoints_px[:, 25:])
    annotations = replace(with_truth(), gender=["female", "", "male", "neutral", ""])
    export_spin_dataset(tmp_path / "truth.npz", annotations)
    with np.load(tmp_path / "truth.npz", allow_pickle=False) as truth:
        assert {"S", "pose", "shape", "has_smpl", "gender"} < set(truth)
        assert truth["has_smpl"].tolist() == [1, 0, 1, 0, 1]
        assert truth["S"].shape == (5, 24, 4) and not truth["S"][0].any()
        assert truth["gender"].tolist() == ["f", "", "m", "n", ""]


def test_views_change_nothing_about_spins_format(tmp_path: Path) -> None:
    export_spin_dataset(tmp_path / "plain.npz", with_truth())
    export_spin_dataset(tmp_path / "views.npz", with_views())
    assert (tmp_path / "plain.npz").read_bytes() == (tmp_path / "views.npz").read_bytes()
