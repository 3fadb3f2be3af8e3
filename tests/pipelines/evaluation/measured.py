"""What the tests of evaluation share: tiny networks, result files, data sets with known joints, stores of true fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipelines.evaluation.evaluate import EvaluationConfig
from pipelines.folders import DataFolder
from spin.network.hmr import HMR, MeanParameters
from store.annotations.table import Annotations
from store.fits.fingerprint import Fingerprint
from store.fits.records import Fits, Source
from store.fits.store import FitStore

CONFIG = EvaluationConfig(workers=1, batch=4)
IMG_RES = 32


def tiny_network(seed: int) -> HMR:
    torch.manual_seed(seed)
    return HMR("resnet18", mean=MeanParameters.from_body_pose(torch.zeros(69)))


def published_checkpoint(path: Path, seed: int = 0) -> Path:
    """A file with the keys of SPIN's checkpoints."""
    content = {"model": tiny_network(seed).state_dict(), "epoch": 0, "batch_idx": 0, "batch_size": 64, "dataset_perm": [0]}
    torch.save(content | {"total_step_count": 1}, path)
    return path


def save_result(path: Path, annotations: Annotations, **changes: np.ndarray) -> Path:
    """A result file of the published format: the truth, unless changed."""
    count = len(annotations)
    arrays = {
        "pred_joints": np.zeros((count, 17, 3)),
        "pose": annotations.pose,
        "betas": annotations.betas,
        "camera": np.tile([0.9, 0.0, 0.0], (count, 1)),
    }
    np.savez(path, **(arrays | changes))
    return path


def read(data: DataFolder, name: str) -> Annotations:
    return Annotations.read(data.annotations(name))


def with_joints(data: DataFolder, mesh, name: str) -> Annotations:
    """3DPW's people under another name, with joints that the data set itself knows: the true ones, a little off."""
    people = read(data, "3dpw")
    with torch.no_grad():
        joints = mesh(torch.from_numpy(people.pose), torch.from_numpy(people.betas)).joints17_m.numpy()
    joints = joints - joints[:, :1] + np.float32(0.01) * np.arange(17, dtype=np.float32)[:, None]
    known = np.ones(len(people), bool)
    renamed = replace(people, name=name, has_joints17=known, joints17_m=joints.astype(np.float32))
    renamed.write(data.annotations(name))
    return renamed


def true_fits(people: Annotations, rows: np.ndarray) -> Fits:
    fits = Fits.empty(len(rows))
    camera = np.tile(np.float32([0, 0, 40]), (len(rows), 1))
    ones, source = np.ones(len(rows), np.float32), np.full(len(rows), Source.STATIC, np.uint8)
    return replace(
        fits,
        pose=people.pose[rows],
        betas=people.betas[rows],
        camera=camera,
        loss=ones,
        score=ones,
        source=source,
    )


def fit_store(data: DataFolder, people: Annotations, fingerprint: str) -> FitStore:
    """Create the empty fit store of a data set; `fingerprint`: of the body."""
    parts = (fingerprint, "o", "s", f"{people.name}:{people.content_hash[:12]}")
    return FitStore.create(data.fits(people.name), samples=len(people), fingerprint=Fingerprint(*parts))
