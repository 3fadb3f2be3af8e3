"""What a training starts from, looked at before anything is started: what doesn't fit is said in a line, and at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.download.imagenet import CHOICE, imagenet_weights
from pipelines.errors import StageError, UsageError
from pipelines.progress import say
from spin.errors import ModelFileError
from spin.network.backbone import identify_backbone
from spin.network.checkpoints import Checkpoint, load_backbone_weights, load_checkpoint
from store.fits.fingerprint import Fingerprint

if TYPE_CHECKING:
    from pipelines.folders import DataFolder, RunFolder
    from pipelines.training.config import TrainConfig

_PARTS = {
    "body": "the body model",
    "objective": "the objective of the fits",
    "score_rule": "the rule that compares fits",
    "annotations": "the annotations",
}


@contextmanager
def run_lock(run: RunFolder) -> Iterator[None]:
    """The run's folder, for one training at a time; the system lets go of it if the process dies. UsageError if it is taken."""
    run.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run.root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"run {run.root}: another training is running; wait for its end, or give another --run") from error
        except OSError:
            pass  # a file system that locks no folders
        yield
    finally:
        with suppress(OSError):
            run.root.rmdir()  # if nothing came of it
        os.close(descriptor)


def with_starting_weights(data: DataFolder, run: RunFolder, config: TrainConfig) -> TrainConfig:
    """The configuration with a file that is there, and fits the network, for any weights it names.

    Raises UsageError, ModelFileError, and DownloadError for ImageNet weights that can't be had.
    """
    if run.latest_checkpoint() is not None:
        return config
    if config.pretrained_checkpoint is not None:
        path = _required("--pretrained-checkpoint", config.pretrained_checkpoint)
        _require_backbone("--pretrained-checkpoint", path, load_checkpoint(path).backbone, config.backbone)
    elif config.backbone_weights is not None:
        if config.backbone_weights == CHOICE:
            path = str(imagenet_weights(data, config.backbone))
        else:
            path = _required("--backbone-weights", config.backbone_weights)
        found = identify_backbone(load_backbone_weights(path))
        _require_backbone("--backbone-weights", path, found, config.backbone)
        return replace(config, backbone_weights=path)
    else:
        say("the network starts from random weights; as published it starts from --backbone-weights imagenet")
    return config


def require_same_fingerprints(run: RunFolder, fingerprints: Mapping[str, Fingerprint]) -> None:
    """Refuses to go on with other data, or another body, than the run's newest checkpoint was made with. StageError."""
    newest = run.latest_checkpoint()
    if newest is None:
        return
    checkpoint = _readable(run, newest)
    for name, value in checkpoint.config.get("fingerprints", {}).items():
        before = Fingerprint.from_json(value, where=str(newest))
        changed = before.differences(fingerprints[name]) if name in fingerprints else {}
        for part, (then, now) in changed.items():
            raise StageError(
                f"run {run.root}: {_PARTS[part]} of {name} changed since step {checkpoint.step}, {then!r} then, {now!r} now; "
                "a run goes on with what it began with: put that back, or start a new run from its network, "
                f"--pretrained-checkpoint {newest}"
            )


def require_tags(run: RunFolder, services: Mapping[str, Any]) -> None:
    """Refuses to go on if the fits that belong to the run's newest checkpoint are gone. StageError."""
    import ray

    newest = run.latest_checkpoint()
    for name, tag in ({} if newest is None else load_checkpoint(newest).tag).items():
        if tag not in ray.get(services[name].tags.remote()):
            raise StageError(
                f"run {run.root}: the fits of {name} have no tag {tag!r}, the state that {newest} belongs to; "
                f"were they made anew? Put them back, or start a new run from its network, --pretrained-checkpoint {newest}"
            )


def _readable(run: RunFolder, newest: Path) -> Checkpoint:
    try:
        return load_checkpoint(newest)
    except ModelFileError as error:
        before = run.all_checkpoints()[:-1]
        remedy = (
            f"go back to the one before with --resume --checkpoint {before[-1]}"
            if before
            else "there is none before it; start a new run"
        )
        raise StageError(f"{error}; {remedy}") from error


def _required(option: str, path: str) -> str:
    if not Path(path).is_file():
        raise UsageError(f"{option} {path}: no such file")
    return path


def _require_backbone(option: str, path: str, found: str | None, wanted: str) -> None:
    if found is None:
        raise UsageError(f"{option} {path}: its parameters are of no ResNet that is known here")
    if found != wanted:
        raise UsageError(f"{option} {path}: of a {found}, the network is a {wanted}; give --backbone {found}")
