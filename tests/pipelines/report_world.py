"""People with fits, and a run with all its files, for a report: small, made by hand, and with names that are HTML."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.fitting.assets import FittingFiles
from pipelines.folders import DataFolder, RunFolder
from pipelines.report import ReportSummary, build_report
from pipelines.training.config import TrainConfig
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES
from store.annotations.table import Annotations
from store.fits.records import Fits, Source, Verdict
from store.fits.store import FitStore

EVIL = "<script>alert('x')</script>"
LOSSES = np.array([5.0, 1.0, 40.0, 300.0, 8.0, 2.0], np.float32)  # of the fits before training; the last sample has none
IMPROVED = 2
SAMPLES = len(LOSSES) + 1


def make_fits(losses: np.ndarray, source: Source = Source.STATIC) -> Fits:
    count = len(losses)
    pose = np.zeros((count, 72), np.float32)
    pose[:, 0] = np.pi  # upright, where y points down
    return replace(
        Fits.empty(count),
        pose=pose,
        camera=np.tile(np.array([0.05, 0.1, 50.0], np.float32), (count, 1)),
        loss=losses,
        score=losses,
        source=np.full(count, source, np.uint8),
        verdict=np.where(losses < 100, Verdict.VALID, Verdict.LOSS_TOO_HIGH).astype(np.uint8),
    )


@dataclass(frozen=True)
class World:
    data: DataFolder
    run: RunFolder

    def build(self, run: RunFolder | None, **options: Any) -> ReportSummary:
        """Writes the page; its summary."""
        output = self.data.root / "out" / "report.html"
        datasets = options.pop("datasets", None)
        return build_report(self.data, run, datasets=datasets, output=output, **options)


def make_world(tmp_path: Path) -> World:
    """Six people with fits, one of them improved in training, one without a fit, one rejected; a run with all its files."""
    data = make_people(tmp_path, LOSSES, improved=np.array([IMPROVED]))
    refused = [{"sample": SAMPLES - 1, "source": "p", "image": "a.jpg", "reason": "too few joints"}]
    data.rejected_fits("people").write_text(json.dumps({"fingerprint": "x", "rejected": refused}))
    aside = [{"source": "unknown", "image": f"{EVIL}.jpg", "reason": f"missing {EVIL}"}]
    data.rejected("people").write_text(json.dumps(aside))
    return World(data, make_run(tmp_path / "logs" / "first", data))


def make_people(tmp_path: Path, losses: np.ndarray, improved: np.ndarray) -> DataFolder:
    """One person more than there are losses, in one photograph; those who improved have a loss of 3 px² now."""
    root, data = tmp_path / "images", DataFolder(tmp_path / "data")
    root.mkdir()
    noise = np.random.default_rng(0).integers(90, 160, (300, 400, 3), np.uint8)
    cv2.imwrite(str(root / "a.jpg"), noise)
    count = len(losses) + 1
    keypoints = np.zeros((count, 49, 3), np.float32)
    keypoints[:, 25:, :2] = np.random.default_rng(1).uniform(80, 220, (count, 24, 2))
    keypoints[:, 25:, 2] = 1
    keypoints[0, 3] = (150, 150, 0.5)  # and one of OpenPose's
    annotations = Annotations(
        name="people",
        image_root=str(root),
        image=["a.jpg"] * count,
        center_px=np.full((count, 2), 150, np.float32),
        scale=np.full(count, 0.8, np.float32),
        keypoints_px=keypoints,
        source=[f"person {i} {EVIL}" for i in range(count)],
        openpose_match=[""] * count,
    )
    annotations.write(data.annotations("people"))
    store = open_store(data, annotations)
    store.merge(np.arange(len(losses)), make_fits(losses))
    store.tag("static")
    better = make_fits(np.full(len(improved), 3.0, np.float32), Source.LOOP)
    counts = np.full(len(improved), 2, np.uint32)
    store.merge(improved, replace(better, improvements=counts, step=np.full(len(improved), 17)))
    store.flush()
    return data


def open_store(data: DataFolder, annotations: Annotations) -> FitStore:
    config = FitConfig(objective=OBJECTIVES["published"], init=("multistart",))
    fingerprint = FittingFiles.of(data, config).fingerprint(config.objective, annotations)
    return FitStore.create(data.fits(annotations.name), samples=len(annotations), fingerprint=fingerprint)


def metrics(step: int) -> dict[str, float]:
    return {
        "step": step,
        "epoch": 0,
        "loss/total": 8.0 / step,
        "loss/keypoints": 0.02,
        "loss/shape": 0.0,
        "fits/improved": 0.25,
        "fits/valid": 1.0,
        "seconds/load": 0.1,
        "seconds/forward": 1.5,
        "images_per_s": 4.0,
        "gradient_norm": 100.0,
    }


def make_run(root: Path, data: DataFolder, extra_mm: float = 0.0) -> RunFolder:
    """`extra_mm` worse on world-test than the first one."""
    run = RunFolder(root)
    TrainConfig(datasets=("people",)).save(run.config)
    run.metrics.write_text("".join(json.dumps(metrics(s)) + "\n" for s in (10, 20, 30)) + '{"step": 4')
    evaluation = run.root / "evaluation"
    evaluation.mkdir()
    for dataset, step, error in (
        ("world-test", 30, 71.25 + extra_mm),
        ("other-test", 30, 88.5),
        ("world-test", 10, 99.75),
    ):
        content = {
            "format": "spin-pipe evaluation",
            "version": 1,
            "dataset": dataset,
            "metrics": {"mpjpe_mm": 2 * error, "pa_mpjpe_mm": error},
            "samples": 96,
            "card": {
                "protocol": "h36m-j14", "joints": ["neck", "head top"], "body": "open:1",
                "frames": {"count": 96, "sha256": "ab"},
            },
            "left_out": [],
            "subject": {"kind": "checkpoint", "file": str(run.checkpoint(step)), "step": step},
            "npz": f"{dataset}@{step}.npz",
        }  # fmt: skip
        (evaluation / f"{dataset}@{step}.json").write_text(json.dumps(content))
        errors = error + np.random.default_rng(5).normal(0, 3, (96, 2))
        np.savez(
            evaluation / f"{dataset}@{step}.npz", joint_error_mm=2 * errors, pa_joint_error_mm=errors,
            mpjpe_mm=2 * errors.mean(1), pa_mpjpe_mm=errors.mean(1), rows=np.arange(96), measured=np.ones(96, bool),
            frames_sha256="ab", images=[f"{EVIL}{i}.jpg" for i in range(96)],
        )  # fmt: skip
    stages = (
        {"stage": "preprocess", "dataset": "people", "people": 7, "seconds": 0.5},
        {"stage": "fit-static", "dataset": "people", "fitted": 6, "seconds": 75.0},
        {"stage": "train", "name": "first", "steps": 30, "seconds": 40.0},
        {"stage": "train", "name": "other-run", "steps": 99, "seconds": 1000.0},
        {"stage": "eval", "dataset": "world-test", "checkpoint": str(run.checkpoint(30)), "seconds": 4.5},
        {"stage": "eval", "dataset": "world-test", "checkpoint": "elsewhere/step.pt", "seconds": 1000.0},
        {"stage": "report", "name": "first", "seconds": 1000.0},
    )
    data.journal.write_text("".join(json.dumps({"started": "2026-01-02T03:04:05+00:00", **s}) + "\n" for s in stages))
    return run
