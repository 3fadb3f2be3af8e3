"""Evaluation: bodies of a checkpoint, of a fit store or of a result file, measured against the truth.

`evaluate` is the whole stage, on Ray; `measure_network` measures a network in this process. docs/protocols.md has the
definitions.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.cluster.nodes import require_seen
from pipelines.cluster.session import cpu_count, ray_session
from pipelines.cluster.waiting import in_order
from pipelines.errors import StageError
from pipelines.evaluation.bodies import NetworkBodies, Source, StoredBodies
from pipelines.evaluation.measure import Measured, Measurer, joined
from pipelines.evaluation.protocol_card import protocol_card, software
from pipelines.evaluation.result import Result, result_of, write_result
from pipelines.evaluation.subjects import Subject
from pipelines.evaluation.truth import Truth, known, true_body_files
from pipelines.folders import DataFolder
from pipelines.progress import progress, say
from spin.body import BodyMesh, load_body
from spin.body.model_file import OPEN_BODY
from spin.camera import CROP_PX
from spin.evaluation.body_parts import SurfaceParts, surface_parts
from spin.evaluation.protocols import Protocol, protocol_of
from spin.evaluation.scores import METRICS, concatenate
from spin.network.checkpoints import load_checkpoint, network_from_checkpoint
from spin.network.hmr import HMR
from spin.network.inference import precision_of
from store.annotations.table import Annotations

if TYPE_CHECKING:
    from jaxtyping import Int

_DECODERS = 2  # minimum of threads that read images: one waits for the disk while another computes
_SHARD = 8  # batches that a worker gets at once, so that it can decode ahead


@dataclass(frozen=True)
class EvaluationConfig:
    """How an evaluation runs, and by which protocol.

    `limit`: the largest number of rows, evenly spread; the card holds their hash. `decoders`: threads of each worker that read
    images (None: one for each core that it may use, at least two).
    """

    protocol: Protocol | None = None  # None: the data set's own
    workers: int | None = None
    batch: int = 32
    decoders: int | None = None
    limit: int | None = None
    neutral_truth: bool = False
    log_every: int | None = None  # batches between lines of progress


@dataclass(frozen=True)
class EvaluationSummary:
    """`metrics`: the numbers, by the names in `spin.evaluation.scores.METRICS`."""

    result: Result
    json_path: Path
    npz_path: Path

    @property
    def metrics(self) -> dict[str, float]:
        return self.result.scores.metrics()


@dataclass(frozen=True)
class Task:
    """What a worker needs to measure."""

    annotations: Path
    body: Path
    true_bodies: dict[str, Path]
    parts: SurfaceParts
    protocol: Protocol
    bodies: Path | StoredBodies  # a checkpoint's file, or the bodies themselves
    seen: dict[str, str]  # a network's crop rule and precision, for the protocol card
    decoders: int | None

    def measurer_of(self, source: Source, annotations: Annotations, device: torch.device) -> Measurer:
        files = {self.body, *self.true_bodies.values()}
        meshes = {file: BodyMesh(load_body(file)).to(device) for file in files}
        true = {gender: meshes[file] for gender, file in self.true_bodies.items()}
        truth = Truth(annotations, true, device)
        return Measurer(source, truth, meshes[self.body], self.parts, self.protocol)

    def measurer(self, threads: int) -> Measurer:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        annotations = Annotations.read(self.annotations)
        if isinstance(self.bodies, StoredBodies):
            source: Source = self.bodies.on(device)
        else:
            loaded = load_checkpoint(self.bodies)
            network = network_from_checkpoint(loaded, str(self.bodies))
            crop_px = int(loaded.config.get("img_res", CROP_PX))
            decoders = self.decoders or max(_DECODERS, threads)
            source = NetworkBodies(network, crop_px, annotations, device, decoders, self.seen["crop"])
        return self.measurer_of(source, annotations, device)


_measurers: dict[str, Measurer] = {}  # of this process, by the run that it is for


def measure_shard(task: Task, run: str, threads: int, batches: list[np.ndarray]) -> Measured:
    """Measure a shard as a Ray task; the process keeps the measurer for the next shard.

    Tasks are used instead of actors because they can run on any node: a lost node costs only its shards, and a new one is used.
    """
    if run not in _measurers:
        torch.set_num_threads(threads)
        _measurers.clear()
        _measurers[run] = task.measurer(threads)
    return _measurers[run].measure(batches)


def default_output(checkpoint: Path, dataset: str) -> Path:
    """Return a path in the run's folder if the checkpoint is in one, else next to the checkpoint."""
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return folder / "evaluation" / f"{dataset}@{checkpoint.stem}.json"


def evaluate(
    data: DataFolder,
    dataset: str,
    subject: Subject,
    output: Path,
    *,
    npz: Path | None = None,
    config: EvaluationConfig | None = None,
    address: str | None = None,
) -> EvaluationSummary:
    """Measure a subject on all rows of a data set whose truth is known; write a JSON and an .npz (default: next to the JSON).

    StageError if no row has a known truth, or if none can be measured.
    """
    config = config or EvaluationConfig()
    annotations = Annotations.read(data.annotations(dataset))
    task = _task(data, annotations, subject.bodies, subject.seen, config)
    rows = rows_to_measure(annotations, subject.rows, config.limit)
    measured = _measure_all(task, rows, config, address)
    result = _result(task, annotations, measured, subject.about)
    npz = npz or output.with_suffix(".npz")
    write_result(result, measured, output, npz)
    return EvaluationSummary(result, output, npz)


def measure_network(
    data: DataFolder, dataset: str, network: HMR, img_res: int, *, config: EvaluationConfig | None = None
) -> Result:
    """Measure a network that is in memory, in this process and on its device, for validation during a training.

    A copy is measured, so the network's mode does not change. Raise StageError like `evaluate`.
    """
    config = config or EvaluationConfig()
    annotations = Annotations.read(data.annotations(dataset))
    seen = {"crop": "plain", "precision": precision_of(network)}
    task = _task(data, annotations, Path(), seen, config)
    device = next(network.parameters()).device
    source = NetworkBodies(network, img_res, annotations, device, config.decoders or _DECODERS)
    rows = rows_to_measure(annotations, None, config.limit)
    measured = task.measurer_of(source, annotations, device).measure(_batches(rows, config.batch))
    return _result(task, annotations, measured, {"kind": "network", "crop_px": img_res})


def rows_to_measure(
    annotations: Annotations, available: Int[np.ndarray, " n"] | None, limit: int | None = None
) -> Int[np.ndarray, " k"]:
    """Return the rows that have a body and a known truth. StageError if there are none."""
    rows = np.flatnonzero(known(annotations).any)
    if not len(rows):
        raise StageError(
            f"data set {annotations.name}: no truth is known of its samples (3D joints, bodies, masks); "
            "name a data set that has it (a test split). SMPL bodies, 3DPW's truth, are known only if SMPL's files were in the "
            "data folder when it was preprocessed"
        )
    if available is not None:
        rows = np.intersect1d(rows, available)
        if not len(rows):
            raise StageError(f"data set {annotations.name}: no sample has both a body and a known truth")
    if limit is not None and limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]
    return rows


def _task(
    data: DataFolder,
    annotations: Annotations,
    bodies: Path | StoredBodies,
    seen: dict[str, str],
    config: EvaluationConfig,
) -> Task:
    body = load_body(data.body)
    return Task(
        data.annotations(annotations.name).resolve(),
        data.body,
        true_body_files(data, annotations, neutral=config.neutral_truth),
        surface_parts(body, None if data.body == OPEN_BODY else data.root),
        config.protocol or protocol_of(annotations.name),
        bodies,
        seen,
        config.decoders,
    )


def _result(task: Task, annotations: Annotations, measured: Measured, about: dict[str, Any]) -> Result:
    fine = np.array([not why for why in measured.problem])
    if not fine.any():
        raise StageError(
            f"data set {annotations.name}: none of its {len(fine)} samples could be measured; the first: {measured.problem[0]}"
        )
    card = protocol_card(
        annotations, measured.rows[fine], [p for p, ok in zip(measured.pictures, fine) if ok], task.protocol,
        load_body(task.body), task.true_bodies, task.parts.source, task.seen,
    )  # fmt: skip
    return result_of(annotations, measured, card, {**about, "software": software()})


def _batches(rows: Int[np.ndarray, " n"], size: int) -> list[Int[np.ndarray, " b"]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _measure_all(task: Task, rows: Int[np.ndarray, " n"], config: EvaluationConfig, address: str | None) -> Measured:
    batches = _batches(rows, config.batch)
    workers = min(config.workers or cpu_count(), len(batches))
    at_once = min(_SHARD, -(-len(batches) // workers), config.log_every or _SHARD)
    shards = [batches[i : i + at_once] for i in range(0, len(batches), at_once)]
    parts: list[Measured] = []
    name = task.annotations.stem
    with progress(len(rows), f"eval {name}", "img") as bar:
        for part in _run(task, shards, workers, address):
            parts.append(part)
            before, after = (n // config.batch // (config.log_every or len(rows)) for n in (bar.n, bar.n + len(part.rows)))
            bar.update(len(part.rows))
            if config.log_every and after > before:
                say(f"{name}, {bar.n} of {len(rows)}: {_so_far(parts)}")
    return joined(parts)


def _so_far(parts: list[Measured]) -> str:
    metrics = concatenate([part.scores for part in parts]).metrics()
    return ", ".join(f"{METRICS[n].label} {v:.{METRICS[n].digits}f} {METRICS[n].unit}".strip() for n, v in metrics.items())


def _run(task: Task, shards: list[list[np.ndarray]], workers: int, address: str | None) -> Iterator[Measured]:
    """Yield the shards' measurements in order. As many Ray tasks run at once as there are workers, or GPUs if there are any.

    A single worker does not need Ray: it is this process.
    """
    if workers == 1 and address is None:
        measurer = task.measurer(cpu_count())
        yield from map(measurer.measure, shards)
        return
    with ray_session(address):
        import ray

        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        count = min(workers, gpus or max(1, int(there.get("CPU", 1))))
        if address is not None:
            require_seen(task.annotations, task.body, *([task.bodies] if isinstance(task.bodies, Path) else []))
        # max_calls=0: by default Ray starts a new process for each task that uses a GPU.
        remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_calls=0, max_retries=-1)
        measure, shared = remote(measure_shard), ray.put(task)
        run, threads = uuid.uuid4().hex, max(1, cpu_count() // count)
        asked = {"CPU": 1.0} | ({"GPU": 1.0} if gpus else {})
        yield from in_order(
            lambda shard: measure.remote(shared, run, threads, shard),
            shards,
            count,
            f"eval {task.annotations.stem}",
            asked,
        )
