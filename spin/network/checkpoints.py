"""Checkpoints: written completely or not at all, and read without running any code in them.

A file is a dict that `torch.load(weights_only=True)` opens: the fields of `Checkpoint`. Files of the
published code ({'model': state dict, …}) open as well; missing fields take their defaults.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spin.errors import ModelFileError
from spin.network.backbone import BACKBONES, identify_backbone
from spin.network.hmr import HMR, MeanParameters

if TYPE_CHECKING:
    from torch import Tensor, nn

    StateDict = Mapping[str, Tensor]

_OWN_KEYS = {"step", "seed", "config"}  # of this project's files; SPIN's have none of them
_BACKBONE_PARTS = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resumed run needs to continue without a difference."""

    model: StateDict
    optimizer: Mapping[str, Any] | None = None
    epoch: int = 0  # epochs completed
    step: int = 0  # optimiser steps taken
    batch_idx: int = 0  # batches of the current epoch that are done
    seed: int = 0
    tag: Mapping[str, str] = field(default_factory=dict)  # fit store of each data set -> the state it was in
    config: Mapping[str, Any] = field(default_factory=dict)  # JSON values only
    loop: Mapping[str, Tensor] = field(default_factory=dict)  # what the loop has measured of the network
    published: bool = field(default=False, metadata={"written": False})  # of SPIN's code, by the file's keys

    @property
    def crop_rule(self) -> str:
        """Return the crop that the network was trained with, of `spin.published_crop.CROP_RULES`."""
        return "published" if self.published else "plain"

    @property
    def backbone(self) -> str | None:
        """Return the backbone that the weights belong to; None if it is not one of `BACKBONES`."""
        return identify_backbone(self.model)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write under a temporary name, sync, rename: a reader sees the old file or the new one, never a part."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = [item.name for item in fields(Checkpoint) if item.metadata.get("written", True)]
    content = {name: _plain(getattr(checkpoint, name)) for name in written}
    content["model"] = {_without_wrapper(name): tensor for name, tensor in content["model"].items()}
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of this project or of the published code, with tensors on the CPU.

    ModelFileError if there is no such file, if it would run code, or if it holds no network.
    """
    content = _read(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise ModelFileError(
            f"checkpoint {path}: expected a dict with 'model', found {_describe(content)}; is it a file of weights alone?"
        )
    known = {item.name: content[item.name] for item in fields(Checkpoint) if item.name in content}
    if "step" not in known and "total_step_count" in content:
        known["step"] = int(content["total_step_count"])  # the published code's name
    known["model"] = _state_dict(path, content["model"])
    known["published"] = not _OWN_KEYS & set(content)
    return Checkpoint(**known)


def load_backbone_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the feature extractor's weights from a torchvision ImageNet file, or from any checkpoint of an HMR.

    Heads (fc, fc1, decpose, …) are not included; `apply_weights(network, …, only_backbone=True)` accepts the result.
    """
    content = _read(path)
    if isinstance(content, Mapping):
        for name in ("model", "state_dict"):
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    if not isinstance(content, Mapping):
        raise ModelFileError(f"weights {path}: expected a state dict, found {_describe(content)}")
    return {name: t for name, t in _state_dict(path, content).items() if name.startswith(_BACKBONE_PARTS)}


def apply_weights(network: nn.Module, state: StateDict, source: str, *, only_backbone: bool = False) -> None:
    """Load all of `state` into the network, or raise ModelFileError and load nothing.

    BatchNorm's batch counters may be missing (files older than torch 0.4.1 lack them). `source`: the file.
    """
    own = network.state_dict()
    if only_backbone:
        own = {name: tensor for name, tensor in own.items() if name.startswith(_BACKBONE_PARTS)}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in counters]
    unexpected = [name for name in state if name not in own]
    misshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or misshaped:
        problems = [
            f"{len(names)} {kind} (first: {names[0]}{_shapes(own, state, names[0])})"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
            if names
        ]
        raise ModelFileError(f"weights {source}: {'; '.join(problems)}{_backbone_hint(own, state)}")
    network.load_state_dict(state, strict=False)


def network_from_checkpoint(checkpoint: Checkpoint, source: str) -> HMR:
    """Return the network that a checkpoint describes, with its weights loaded."""
    if checkpoint.backbone is None:
        raise ModelFileError(f"checkpoint {source}: its parameters are of no known backbone ({', '.join(BACKBONES)})")
    # The mean is a buffer that the weights replace, so any value will do here.
    network = HMR(checkpoint.backbone, mean=MeanParameters.from_body_pose(torch.zeros(69)))
    apply_weights(network, checkpoint.model, source)
    return network


def _read(path: str | Path) -> Any:
    file = Path(path)
    if not file.is_file():
        raise ModelFileError(f"checkpoint {file}: no such file")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly any exception, with one meaning
        message = str(error).strip().splitlines()
        # Other exceptions describe the format's internals, for example a KeyError of a byte.
        reason = message[0] if message and isinstance(error, OSError | RuntimeError) else "it is no torch file"
        if message and "Weights only load failed" in message[0]:
            reason = "it asks for code to be run, or is no torch file"
        raise ModelFileError(f"checkpoint {file}: refused, {reason}; expected a file of tensors") from error


def _state_dict(path: str | Path, raw: Mapping[Any, Any]) -> dict[str, Tensor]:
    wrong = [k for k, v in raw.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))]
    if wrong or not raw:
        found = f"'{wrong[0]}' is {_describe(raw[wrong[0]])}" if wrong else "it is empty"
        raise ModelFileError(f"checkpoint {path}: expected a dict of named tensors, {found}")
    return {_without_wrapper(name): tensor for name, tensor in raw.items()}


def _without_wrapper(name: str) -> str:
    """Return a parameter's name without the prefix of DataParallel and DistributedDataParallel."""
    return name.removeprefix("module.")


def _plain(value: Any) -> Any:
    """Return mappings as dicts: weights_only reads no other mapping."""
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(repr(k) for k in list(value)[:4]) or 'nothing'}"
    return f"a {type(value).__name__}"


def _shapes(own: StateDict, state: StateDict, name: str) -> str:
    if name in own and name in state:
        return f" is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
    return ""


def _backbone_hint(own: StateDict, state: StateDict) -> str:
    expected, found = identify_backbone(own), identify_backbone(state)
    if found == expected:
        return ""
    return f"; they look like those of a {found or 'network that is no ResNet'}, the network is a {expected}"


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
