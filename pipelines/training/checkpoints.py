"""The checkpoints of a run, each with the state of the fits that it belongs to, a tag in every data set's store."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines import journal
from pipelines.errors import StageError
from spin.evaluation.scores import METRICS
from spin.network.checkpoints import Checkpoint, save_checkpoint
from store.files.atomic import write_file

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.folders import RunFolder


def new_tag(run: RunFolder, step: int) -> str:
    """A name never used before: an attempt that was killed may have left one for this step."""
    return f"{run.root.name}.step{step}.{_place(run)}{uuid.uuid4().hex[:8]}"


def _place(run: RunFolder) -> str:
    """Tells runs of one name in several log folders apart: they may share a data set's store."""
    return hashlib.sha256(str(run.root.resolve()).encode()).hexdigest()[:8]


def keep_checkpoint(run: RunFolder, checkpoint: Checkpoint) -> None:
    """Writes it. StageError if the disk refuses; what was there before stays."""
    try:
        save_checkpoint(run.checkpoint(checkpoint.step), checkpoint)
    except OSError as error:
        last = run.latest_checkpoint()
        raise StageError(
            f"{run.checkpoints}: the checkpoint of step {checkpoint.step} can't be written, {error.strerror or error}; "
            f"the last good one is {last.name if last else 'none'}; make room, then go on with --resume"
        ) from error


def note_best(run: RunFolder, datasets: Sequence[str]) -> Path | None:
    """The checkpoint that validation on these data sets found best so far, of those that are there; best.json names it.

    By the mean over the data sets of PA-MPJPE, or, where one of them doesn't know it, of the first metric that all know.
    """
    lines = {int(line["step"]): line for line in journal.read(run.validation)}  # the last of a step counts
    there = {_step_of(path): path for path in run.all_checkpoints()}
    for metric in ("pa_mpjpe_mm", *METRICS):
        values = {
            step: sum(line[f"{name}/{metric}"] for name in datasets) / len(datasets)
            for step, line in lines.items()
            if step in there and datasets and all(f"{name}/{metric}" in line for name in datasets)
        }
        if values:
            sign = 1 if METRICS[metric].lower_is_better else -1
            best = min(values, key=lambda step: (sign * values[step], step))
            noted = {
                "checkpoint": there[best].name, "step": best, "metric": metric, "datasets": list(datasets),
                "value": round(values[best], 6),
            }  # fmt: skip
            write_file(run.best, (json.dumps(noted) + "\n").encode())
            return there[best]
    run.best.unlink(missing_ok=True)  # of other data sets, or of a checkpoint that has gone
    return None


def prune(run: RunFolder, services: Mapping[str, Any], keep: int, measured_on: Sequence[str] = ()) -> None:
    """Removes all but the newest `keep` checkpoints (0: removes none), the best one, and those whose weights wait to be
    measured; then this run's tags that belong to no checkpoint."""
    import ray

    # In this order: what ceases to wait has its line by then.
    spared: set[Path | None] = {run.checkpoints / path.name for path in run.waiting_weights()}
    spared.add(note_best(run, measured_on))
    for path in run.all_checkpoints()[:-keep] if keep else []:
        if path not in spared:
            path.unlink(missing_ok=True)
    kept = {_step_of(path) for path in run.checkpoints.rglob("step_*.pt")}
    ours = re.compile(re.escape(run.root.name) + rf"\.step(\d+)\.{_place(run)}[0-9a-f]{{8}}")
    for service in services.values():
        tags = [(tag, ours.fullmatch(tag)) for tag in ray.get(service.tags.remote())]
        ray.get(service.untag.remote([tag for tag, match in tags if match and int(match[1]) not in kept]))


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))
