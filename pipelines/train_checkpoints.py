"""The checkpoints of a run, each with the state of the fits that it belongs to, a tag in every data set's store."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.failures import StageError
from spin.network.checkpoints import Checkpoint, save_checkpoint

if TYPE_CHECKING:
    from pipelines.layout import RunFolder


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


def prune(run: RunFolder, services: Mapping[str, Any], keep: int) -> None:
    """Removes all but the newest `keep` checkpoints (0: removes none), then this run's tags that belong to no checkpoint."""
    import ray

    for path in run.all_checkpoints()[:-keep] if keep else []:
        path.unlink(missing_ok=True)
    kept = {int(path.stem.removeprefix("step_")) for path in run.checkpoints.rglob("step_*.pt")}
    ours = re.compile(re.escape(run.root.name) + rf"\.step(\d+)\.{_place(run)}[0-9a-f]{{8}}")
    for service in services.values():
        tags = [(tag, ours.fullmatch(tag)) for tag in ray.get(service.tags.remote())]
        ray.get(service.untag.remote([tag for tag, match in tags if match and int(match[1]) not in kept]))
