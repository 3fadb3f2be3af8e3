"""Moving what a train step takes to where the network is."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

Record = TypeVar("Record")


def to_device(record: Record, device: torch.device | str) -> Record:
    """A copy of a dataclass (`Batch`, `StoredFits`, …), its tensors, nested ones too, on the device."""
    if not is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"to_device takes a dataclass, found a {type(record).__name__}")
    moved: Mapping[str, object] = {
        item.name: _moved(getattr(record, item.name), device) for item in fields(record)
    }
    return replace(record, **moved)


def _moved(value: object, device: torch.device | str) -> object:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        return to_device(value, device)
    return value
