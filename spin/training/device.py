"""Where the network is, and how exactly it computes there; moving what a train step takes to it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

PRECISIONS = ("float32", "bfloat16")


def best_precision(device: torch.device) -> str:
    """bfloat16 where the processor multiplies matrices of it: on such GPUs, and on CPUs with AMX (2.6 times as fast)."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    return "bfloat16" if device.type == "cpu" and _has_amx() else "float32"


def _has_amx() -> bool:
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


Record = TypeVar("Record")


def to_device(record: Record, device: torch.device | str) -> Record:
    """A copy of a dataclass (`Batch`, `StoredFits`, …), its tensors, nested ones too, on the device."""
    if not is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"to_device takes a dataclass, found a {type(record).__name__}")
    moved: Mapping[str, object] = {item.name: _moved(getattr(record, item.name), device) for item in fields(record)}
    return replace(record, **moved)


def _moved(value: object, device: torch.device | str) -> object:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        return to_device(value, device)
    return value
