"""Evaluation end to end on made-up data of the published formats: networks, fits, result files, cards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import StageError
from pipelines.evaluation.evaluate import EvaluationConfig, evaluate, measure_network
from pipelines.evaluation.protocol_card import differing
from pipelines.evaluation.subjects import checkpoint_subject, fits_subject, result_subject
from pipelines.folders import DataFolder
from spin.body.model_file import OPEN_BODY
from spin.crop import crop_encoded, normalise
from spin.images import decode, read_encoded
from spin.joints import H36M_TO_J14, JOINTS
from store.errors import FitStoreNotFoundError
from tests.pipelines.evaluation.measured import (
    CONFIG,
    IMG_RES,
    fit_store,
    read,
    save_result,
    tiny_network,
    true_fits,
    with_joints,
)
from tests.pipelines.raw_trees import truth_of
from tests.spin.published_crop import bytescale, corners, padded_box, resized


def test_a_perfect_result_is_without_error(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    subject = result_subject(save_result(tmp_path / "theirs.npz", people), people)
    done = evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    assert done.metrics == pytest.approx({"mpjpe_mm": 0, "pa_mpjpe_mm": 0, "per_vertex_error_mm": 0}, abs=1e-3)
    assert subject.about["joints"] == "regressed from pose and betas"
    card = done.result.card
    assert card["true joints"] == {"of the data set": 0, "regressed from the true body": len(people)}
    assert card["frames"]["count"] == len(people)
    assert set(card["true bodies"]) == {"female", "male"}
    assert len(card["joints"]) == 14


def test_joints_of_a_result_file_are_used_as_they_are(data: DataFolder, mesh, tmp_path: Path) -> None:
    people = with_joints(data, mesh, "mpi-inf-3dhp-valid")
    moved = people.joints17_m.copy()
    moved[:, 4] += [0.0, 0.2, 0.0]  # one of seventeen joints is 200 mm off
    subject = result_subject(save_result(tmp_path / "theirs.npz", people, pred_joints=moved + 3.0), people)
    metrics = evaluate(data, people.name, subject, tmp_path / "out.json", config=CONFIG).metrics
    assert metrics["mpjpe_mm"] == pytest.approx(200 / 17, abs=1e-3)
    assert metrics["pck_percent"] == pytest.approx(100 * 16 / 17)
    assert metrics["pck_14_percent"] == pytest.approx(100 * 13 / 14)
    assert metrics["auc_percent"] == pytest.approx(100 * 16 / 17 * 30 / 31)
    larger = save_result(tmp_path / "larger.npz", people, pred_joints=2 * people.joints17_m)
    metrics = evaluate(data, people.name, result_subject(larger, people), tmp_path / "larger.json", config=CONFIG).metrics
    assert metrics["pck_percent"] < 40
    assert metrics["pa_pck_percent"] == 100
    assert metrics["pa_auc_percent"] == pytest.approx(100 * 30 / 31)


@pytest.mark.parametrize("rule", ["published", "plain"])
def test_a_network_is_measured_as_a_loop_over_samples_would(
    rule: str, data: DataFolder, folder: Path, mesh, tmp_path: Path
) -> None:
    """The published evaluation, written out for one sample at a time."""
    done = evaluate(data, "3dpw", checkpoint_subject(folder / "net0.pt", rule), tmp_path / "out.json", config=CONFIG)
    people, network = read(data, "3dpw"), tiny_network(0).eval()
    with np.load(done.npz_path) as npz:
        predicted = {name: npz[name] for name in ("pred_joints", "pose", "betas", "camera")}
    for row in range(len(people)):
        encoded, center_px, scale = read_encoded(people.image_path(row)), people.center_px[row], float(people.scale[row])
        if rule == "published":
            box = padded_box(decode(encoded), *corners(center_px, scale, IMG_RES))
            crop = resized(bytescale(box), IMG_RES)
        else:
            crop = crop_encoded(encoded, center_px, scale, crop_px=IMG_RES)
        with torch.no_grad():
            body = network(torch.from_numpy(normalise(crop))[None])
            mine = mesh.forward_rotations(body.rotations, body.betas)
            true = mesh(torch.from_numpy(people.pose[[row]]), torch.from_numpy(people.betas[[row]]))
        j, t = (x.joints17_m[0].double().numpy() for x in (mine, true))
        # By hand, a grey level may be rounded to the other side of a half.
        off = 1e-3 if rule == "published" else 1e-5
        assert np.allclose(predicted["pred_joints"][row], j, atol=off)
        assert np.allclose(predicted["camera"][row], body.weak_camera[0], atol=off)
        j, t = (x[list(H36M_TO_J14)] - x[0] for x in (j, t))
        assert done.result.scores.pose is not None
        expected = 1000 * np.linalg.norm(j - t, axis=1).mean()
        assert done.result.scores.pose.mpjpe_mm[row] == pytest.approx(expected, abs=1000 * off)
        u, s, vt = np.linalg.svd((j - j.mean(0)).T @ (t - t.mean(0)))
        flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
        aligned = (j - j.mean(0)) @ u @ flip @ vt * np.trace(flip @ np.diag(s)) / ((j - j.mean(0)) ** 2).sum() + t.mean(0)
        expected = 1000 * np.linalg.norm(aligned - t, axis=1).mean()
        assert done.result.scores.pose.pa_mpjpe_mm[row] == pytest.approx(expected, abs=1000 * off)
    again = result_subject(done.npz_path, people)
    same = evaluate(data, "3dpw", again, tmp_path / "again.json", config=CONFIG)
    assert same.metrics == pytest.approx(done.metrics, abs=1e-2)
    assert same.result.card == done.result.card
    assert same.result.card["crop"] == rule


def test_two_workers_find_what_one_does_and_so_does_a_network_in_memory(
    ray_running: None, folder: Path, tmp_path: Path
) -> None:
    data, subject = DataFolder(folder / "data"), checkpoint_subject(folder / "net0.pt")
    config = EvaluationConfig(workers=2, batch=3, log_every=1)
    done = evaluate(data, "3dpw", subject, tmp_path / "two.json", config=config)
    alone = measure_network(data, "3dpw", tiny_network(0), IMG_RES, config=replace(config, batch=4))
    assert alone.scores.metrics() == pytest.approx(done.metrics, abs=1e-2)
    assert np.array_equal(alone.rows, done.result.rows)
    assert not differing(alone.card, done.result.card)


def test_masks_and_parts_of_the_true_body_are_nearly_right(data: DataFolder, folder: Path, mesh, tmp_path: Path) -> None:
    people, truth = read(data, "lsp"), truth_of(folder / "lsp")
    rows = [truth[image, 0] for image in people.image]
    pose, betas = (np.stack([row[key] for row in rows]) for key in ("pose", "betas"))
    with torch.no_grad():
        points = mesh(torch.from_numpy(pose), torch.from_numpy(betas)).keypoints_m[:, :, :2].numpy()
    cameras = []
    for row, xy in enumerate(points):  # the weak camera that puts the body's keypoints where they are
        seen = (rows[row]["keypoints_px"] - people.center_px[row]) / (100 * people.scale[row])
        x, y = xy - xy.mean(0), seen - seen.mean(0)
        s = (x * y).sum() / (x * x).sum()
        cameras.append([s, *(seen.mean(0) / s - xy.mean(0))])
    changes = {"pose": pose, "betas": betas, "camera": np.array(cameras)}
    count = len(people)
    blank = replace(people, has_smpl=np.ones(count, bool), pose=pose.astype(np.float32), betas=betas.astype(np.float32))
    subject = result_subject(save_result(tmp_path / "theirs.npz", blank, **changes), people)
    done = evaluate(data, "lsp", subject, tmp_path / "out.json", config=CONFIG)
    assert set(done.metrics) == {"mask_accuracy", "mask_f1", "part_accuracy", "part_f1"}
    assert done.metrics["mask_f1"] > 0.93  # a perspective picture against a weak camera
    assert done.metrics["part_f1"] > 0.75
    changes["camera"] = changes["camera"] + [0, 5.0, 0]
    away = result_subject(save_result(tmp_path / "away.npz", blank, **changes), people)
    metrics = evaluate(data, "lsp", away, tmp_path / "away.json", config=CONFIG).metrics
    assert metrics["mask_f1"] < 0.5
    assert metrics["part_f1"] < 0.2
    changes["camera"][0] = np.nan
    nowhere = result_subject(save_result(tmp_path / "nowhere.npz", blank, **changes), people)
    listed = evaluate(data, "lsp", nowhere, tmp_path / "nowhere.json", config=CONFIG).result.left_out
    assert [entry["row"] for entry in listed] == [0]
    assert "not finite numbers" in listed[0]["reason"]
    assert "raster" in done.result.card
    assert "joints" not in done.result.card


def test_fits_are_measured_where_there_are_some(data: DataFolder, body, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    with pytest.raises(FitStoreNotFoundError):
        fits_subject(data, people, None)
    store = fit_store(data, people, body.fingerprint)
    with pytest.raises(StageError, match="has no fit yet"):
        fits_subject(data, people, None)
    rows = np.arange(0, len(people), 2)
    store.merge(rows, true_fits(people, rows))
    store.tag("half")
    subject = fits_subject(data, people, "half")
    done = evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    assert done.metrics == pytest.approx({"mpjpe_mm": 0, "pa_mpjpe_mm": 0, "per_vertex_error_mm": 0}, abs=1e-3)
    assert done.result.rows.tolist() == rows.tolist()
    assert done.result.subject["tag"] == "half"


def test_joints_of_an_imported_file_are_those_of_spins_superset(data: DataFolder, mesh, tmp_path: Path) -> None:
    """SPIN's data set files have S alone: 24 joints with confidences."""
    people = with_joints(data, mesh, "mine")
    joints3d = np.zeros((len(people), 24, 4), np.float32)
    place = np.array(JOINTS.h36m) - JOINTS.superset.start
    joints3d[:, place, :3], joints3d[:, place, 3] = people.joints17_m, 1
    joints3d[1, place[3], 3] = 0  # without this joint the row's truth is its body
    known = np.ones(len(people), bool)
    imported = replace(people, has_joints17=~known, joints17_m=people.joints17_m * 0, has_joints3d=known, joints3d_m=joints3d)
    imported.write(data.annotations("mine"))
    subject = result_subject(save_result(tmp_path / "x.npz", people, pred_joints=people.joints17_m), people)
    done = evaluate(data, "mine", subject, tmp_path / "out.json", config=CONFIG)
    assert done.result.card["true joints"] == {
        "of the data set": len(people) - 1, "regressed from the true body": 1
    }  # fmt: skip
    assert done.result.scores.pose is not None
    errors = done.result.scores.pose.mpjpe_mm
    assert errors[1] > 5
    assert np.delete(errors, 1) == pytest.approx(0, abs=1e-3)


def as_smpl(data: DataFolder, name: str, stretch: float) -> None:
    """The open body under a name of SMPL's, larger by a factor."""
    with np.load(OPEN_BODY) as file:
        arrays = {key: file[key] for key in file.files}
    arrays |= {"name": np.array(name), "v_template": arrays["v_template"] * stretch}
    np.savez(data.root / f"{name}.npz", **arrays)


def test_truth_is_put_on_the_body_of_its_gender(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    assert set(people.gender) == {"female", "male"}
    as_smpl(data, "SMPL_NEUTRAL", 1.0)
    subject = result_subject(save_result(tmp_path / "theirs.npz", people), people)
    with pytest.raises(StageError, match=r"true bodies are .*put SMPL_(FE)?MALE\.pkl into .*--truth-gender neutral"):
        evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    neutral = evaluate(data, "3dpw", subject, tmp_path / "n.json", config=replace(CONFIG, neutral_truth=True))
    assert neutral.metrics["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    as_smpl(data, "SMPL_FEMALE", 1.0)
    as_smpl(data, "SMPL_MALE", 1.1)
    done = evaluate(data, "3dpw", subject, tmp_path / "own.json", config=CONFIG)
    assert done.result.scores.pose is not None
    assert done.result.scores.vertex_mm is not None
    men = np.array([gender == "male" for gender in people.gender])
    for errors in (done.result.scores.pose.mpjpe_mm, done.result.scores.vertex_mm):
        assert errors[~men] == pytest.approx(0, abs=1e-3)
        assert (errors[men] > 20).all()
    assert done.result.scores.pose.pa_mpjpe_mm[men].max() < 10
    assert set(differing(done.result.card, neutral.result.card)) == {"true bodies"}
