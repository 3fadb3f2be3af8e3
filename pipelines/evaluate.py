"""Measures a checkpoint on the samples of a data set whose 3D joints are known, as a Ray job of its own."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.failures import StageError
from pipelines.layout import DataFolder
from pipelines.progress import progress
from pipelines.ray_session import cpu_count, ray_session
from spin.body import BodyMesh, load_body
from spin.crop import crop_image, normalise
from spin.errors import ImageError
from spin.evaluation.protocols import H36M_J14, Scores, evaluate_joints
from spin.images import read_image
from spin.network.checkpoints import load_checkpoint, network_from_checkpoint
from spin.rotations import matrix_to_axis_angle
from store.annotations import Annotations
from store.durable import write_file

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Predicted:
    """Bodies predicted for rows of a data set: the arrays of the published result file, and which images were readable."""

    rows: Int[np.ndarray, " n"]
    joints17_m: Float[np.ndarray, "n 17 3"]
    pose: Float[np.ndarray, "n 72"]
    betas: Float[np.ndarray, "n 10"]
    camera: Float[np.ndarray, "n 3"]  # weak perspective [s, tx, ty]
    readable: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class EvaluationSummary:
    dataset: str
    scores: Scores
    json_path: Path
    npz_path: Path
    unreadable: int
    body: str


class Evaluator:
    """Predicts bodies with one checkpoint. Runs as a Ray actor, or in the process."""

    def __init__(self, checkpoint: Path, body: Path, annotations: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = load_checkpoint(checkpoint)
        self.network = network_from_checkpoint(loaded, str(checkpoint)).to(self.device).eval()
        self.img_res = int(loaded.config.get("img_res", 224))
        self.mesh = BodyMesh(load_body(body)).to(self.device)
        self.annotations = Annotations.read(annotations)
        self.decoders = ThreadPoolExecutor(2)

    def predict(self, rows: Int[np.ndarray, " n"]) -> Predicted:
        """Bodies of these rows; a row whose image can't be read gets numbers that mean nothing."""
        crops = list(self.decoders.map(self._crop, rows.tolist()))
        black = np.zeros((3, self.img_res, self.img_res), np.float32)
        images = torch.from_numpy(np.stack([black if c is None else c for c in crops]))
        with torch.no_grad():
            prediction = self.network(images.to(self.device))
            posed = self.mesh.forward_rotations(prediction.rotations, prediction.betas)
        return Predicted(
            rows,
            posed.joints17_m.cpu().numpy(),
            matrix_to_axis_angle(prediction.rotations).flatten(1).cpu().numpy(),
            prediction.betas.cpu().numpy(),
            prediction.weak_camera.cpu().numpy(),
            np.array([c is not None for c in crops]),
        )

    def _crop(self, row: int) -> np.ndarray | None:
        try:
            image = read_image(self.annotations.image_path(row))
        except ImageError:
            return None
        a = self.annotations
        return normalise(crop_image(image, a.center_px[row], float(a.scale[row]), crop_px=self.img_res))


def default_output(checkpoint: Path, dataset: str) -> Path:
    """In the run's folder, if the checkpoint lies in one; else beside the checkpoint."""
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return folder / "evaluation" / f"{dataset}@{checkpoint.stem}.json"


def evaluate(
    data: DataFolder,
    dataset: str,
    checkpoint: Path,
    output: Path,
    *,
    workers: int | None = None,
    batch: int = 32,
    address: str | None = None,
) -> EvaluationSummary:
    """MPJPE and PA-MPJPE on the rows with known joints, written as JSON and .npz. StageError if there are none."""
    annotations = Annotations.read(data.annotations(dataset))
    rows = np.flatnonzero(annotations.has_joints17)
    if not len(rows):
        raise StageError(
            f"data set {dataset}: no sample has known 3D joints; name one that does (a test split)"
        )
    loaded = load_checkpoint(checkpoint)
    network_from_checkpoint(
        loaded, str(checkpoint)
    )  # what is wrong with it is better said here than by every worker
    predicted = _predict_all(data, dataset, checkpoint, rows, workers or cpu_count(), batch, address)
    seen = predicted.readable
    if not seen.any():
        raise StageError(
            f"data set {dataset}: none of its {len(rows)} images could be read; see --root of preprocess"
        )
    scores = evaluate_joints(predicted.joints17_m[seen], annotations.joints17_m[rows[seen]], H36M_J14)
    body = load_body(data.body)
    npz = output.with_suffix(".npz")
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        npz,
        rows=rows,
        readable=seen,
        pred_joints=predicted.joints17_m,
        pose=predicted.pose,
        betas=predicted.betas,
        camera=predicted.camera,
        mpjpe_mm=scores.mpjpe_mm,
        pa_mpjpe_mm=scores.pa_mpjpe_mm,
    )
    content = {
        "dataset": dataset,
        "checkpoint": str(checkpoint),
        "step": loaded.step,
        "body": body.fingerprint,
        "samples": len(scores.mpjpe_mm),
        "unreadable": [annotations.image[r] for r in rows[~seen]],
        "mean_mpjpe_mm": scores.mean_mpjpe_mm,
        "mean_pa_mpjpe_mm": scores.mean_pa_mpjpe_mm,
        "protocol": scores.protocol.card(),
        "npz": npz.name,
    }
    write_file(output, (json.dumps(content, indent=1) + "\n").encode())
    return EvaluationSummary(dataset, scores, output, npz, int((~seen).sum()), body.fingerprint)


def _predict_all(
    data: DataFolder,
    dataset: str,
    checkpoint: Path,
    rows: np.ndarray,
    workers: int,
    batch: int,
    address: str | None,
) -> Predicted:
    shards = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    count = min(workers, len(shards))
    with ray_session(address):
        import ray
        from ray.util import ActorPool

        paths = (p.resolve() for p in (checkpoint, data.body, data.annotations(dataset)))
        gpus = torch.cuda.device_count()
        count = min(count, gpus) if gpus else count
        actor = ray.remote(Evaluator).options(
            num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=-1
        )
        arguments = (*paths, max(1, cpu_count() // count))
        pool = ActorPool([actor.remote(*arguments) for _ in range(count)])
        parts: list[Predicted] = []
        with progress(len(rows), f"eval {dataset}", "img") as bar:
            for part in pool.map(lambda a, shard: a.predict.remote(shard), shards):
                parts.append(part)
                bar.update(len(part.rows))
    return Predicted(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in Predicted.__annotations__)
    )
