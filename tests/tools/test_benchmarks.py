"""Small versions of the benchmarks: they run, and what they are to show holds with room to spare."""

from __future__ import annotations

import json
import sys

import cv2
import pytest
import torch

from spin.fitting.observations import Observations
from tools.bench import evaluate, fit, score_rules, store
from tools.bench import train as train_bench
from tools.bench.fit_accuracy import by_default, by_start
from tools.bench.held_out import DEFAULT_CLIPS, four_views, keypoints_of, open_lab, with_joints3d

needs_clips = pytest.mark.skipif(not DEFAULT_CLIPS.exists(), reason="CMU's clips are not part of the project")


@pytest.fixture(scope="module")
def lab():
    return open_lab(DEFAULT_CLIPS, 192)


@needs_clips
def test_default_fits_are_nearer_to_the_truth_than_all_others(lab) -> None:
    """On poses that neither prior nor lifter has seen."""
    observations = Observations.of(keypoints_of(lab.people, "coco17", 2.0))
    found = {name: errors.means() for name, errors in by_start(lab, observations, reference=False)}
    anchored = found["anchored"]
    assert anchored["pa_mpjpe_mm"] < 52
    assert anchored["pa_mpjpe_mm"] < min(found[n]["pa_mpjpe_mm"] for n in ("lifter", "published", "multistart"))
    assert anchored["error_2d_px"] < found["lifter"]["error_2d_px"]
    everything = by_default(lab, Observations.of(keypoints_of(lab.people, "all", 0.0))).means()
    assert everything["pa_mpjpe_mm"] < 46


@needs_clips
def test_more_observations_make_better_fits(lab) -> None:
    assert by_default(lab, with_joints3d(lab, 2.0, 0.0)).means()["pa_mpjpe_mm"] < 12
    assert by_default(lab, four_views(lab, 2.0)).means()["pa_mpjpe_mm"] < 20


@needs_clips
def test_the_expected_error_picks_the_better_fit(lab) -> None:
    with torch.no_grad():
        observations = Observations.of(keypoints_of(lab.people, "coco17", 2.0))
        fits = score_rules.kinds_of_fit(lab, observations)
        a, b = fits["multistart, published"], fits["lifter, anchored"]
        scores = [score_rules.scores_of(lab, observations, bodies) for bodies in (a, b)]
        errors = [score_rules.errors_of(lab, *bodies, observations).pa_mpjpe_mm for bodies in (a, b)]
    right = {
        rule: score_rules.judged(scores[0][rule], scores[1][rule], *errors)["right"]
        for rule in ("expected error", "published objective")
    }
    assert right["expected error"] > 0.8
    assert right["published objective"] < 0.4


def test_the_speed_benchmark_prints_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["fit", "--people", "128", "--runs", "1"])
    monkeypatch.setattr(fit, "REFERENCE_BATCH", 2)
    monkeypatch.setattr(fit, "REFERENCE_ITERATIONS", 3)
    monkeypatch.setattr(fit, "MANY", 200)
    fit.main()
    found = json.loads(capsys.readouterr().out)
    wanted = "reference_fits_per_s fits_per_s ratio multistart_ratio reference_objective objective peak_memory_mb floor_share"
    assert set(wanted.split()) <= set(found)
    assert 0 < found["floor_share"] < 1
    assert found["objective"] < found["reference_objective"]  # three iterations of Adam are not enough


def test_the_reference_mesh_has_the_same_points(compact, body) -> None:
    pose = 0.3 * torch.randn(4, 72, generator=torch.Generator().manual_seed(0))
    betas = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mesh = fit.MeshPoints(fit.with_vertices_of_smpl(body))
        assert mesh.mesh.smpl.v_template.shape[0] == fit.SMPL_VERTICES
        assert torch.allclose(mesh(pose, betas), compact(pose, betas), atol=1e-5)


@pytest.mark.parametrize("actor", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_store_benchmark_prints_one_line(actor: bool, monkeypatch, capsys) -> None:
    options = [] if actor else ["--no-actor"]
    monkeypatch.setattr(sys, "argv", ["store", "--samples", "5000", "--seconds", "0.1", *options])
    monkeypatch.setattr(store, "CLIENTS", (2,))
    store.main()
    found = json.loads(capsys.readouterr().out)
    wanted = {"inprocess_pairs_per_s", "write_amplification", "memory_ratio"}
    assert wanted | ({"actor_pairs_per_s_2_clients"} if actor else set()) <= set(found)
    assert found["write_amplification"] <= 1.2
    assert found["sizes"]["5000"]["floor_inprocess_pairs_per_s"] > 0 and found["inprocess_pairs_per_s"] > 0


def test_the_benchmark_of_evaluation_prints_one_line(monkeypatch, capsys) -> None:
    arguments = ["evaluate", "--images", "4", "--runs", "1", "--backbone", "resnet18"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(evaluate, "SIZES", {"1920": (540, 960)})
    monkeypatch.setattr(evaluate, "LSP_IMAGES", 3)
    threads = cv2.getNumThreads()
    try:
        evaluate.main()
    finally:
        cv2.setNumThreads(threads)
    found = json.loads(capsys.readouterr().out)
    wanted = "procrustes_ratio eval_ratio eval_ratio_besides_1920 mask_part_images_per_s network_share_1920"
    assert set(wanted.split()) <= set(found)
    assert found["procrustes_ratio"] > 10
    assert found["eval_ratio"] > 1
    assert found["mask_part_images_per_s_39264_faces"] > 2


@pytest.mark.slow
def test_the_training_benchmark_prints_one_line(monkeypatch, capsys) -> None:
    options = ["--steps", "4", "--backbone", "resnet18", "--img-res", "64", "--batch-size", "4"]
    monkeypatch.setattr(sys, "argv", ["train", *options])
    train_bench.main()
    found = json.loads(capsys.readouterr().out)
    assert {"fit_and_store_share", "load_wait_share", "scaling_2_workers", "images_per_s"} <= set(found)
    parts = sum(found[f"{part}_s"] for part in train_bench.PARTS)
    assert 0 < parts <= 1.05 * found["step_s"]
    assert found["floor_network_s"] < found["step_s"]
