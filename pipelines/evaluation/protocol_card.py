"""The protocol card: everything that a number depends on except the subject; and the software that measured it."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.evaluation.truth import Known
from spin.body import BodyData, load_body
from spin.evaluation.protocols import Protocol
from spin.evaluation.silhouettes import RASTER
from store.annotations.table import Annotations

if TYPE_CHECKING:
    from jaxtyping import Int

Card = dict[str, Any]
"""Holds JSON values only. Two numbers are comparable if their cards are equal."""


def protocol_card(
    annotations: Annotations,
    rows: Int[np.ndarray, " n"],
    known: Known,
    protocol: Protocol,
    body: BodyData,
    true_bodies: dict[str, Path],
    parts: str,
) -> Card:
    """Return the card of the measured rows. It names masks and parts only where the data set has them."""
    out: Card = {
        "data set": annotations.name,
        "protocol": protocol.name,
        "frames": {"count": len(rows), "sha256": frames_hash(annotations, rows)},
        "body": body.fingerprint,
    }
    if known.pose[rows].any():
        stated = protocol.card()
        out |= {
            "joints": stated["joints"],
            "regressor": f"J_regressor_h36m, sha256 {_hash(body.h36m_regressor)}",
            "pelvis": stated["pelvis"],
            "alignment": stated["alignment"],
            "mean": stated["mean"],
            "true joints": {
                "of the data set": int(known.joints[rows].sum()),
                "regressed from the true body": int((known.body & ~known.joints)[rows].sum()),
            },
        }
    if known.body[rows].any():
        out["true bodies"] = {gender or "unknown": load_body(path).fingerprint for gender, path in sorted(true_bodies.items())}
    if known.mask[rows].any() or known.part[rows].any():
        out["raster"] = RASTER
        out["masks"] = {"masks": int(known.mask[rows].sum()), "parts": int(known.part[rows].sum())}
        out["parts"] = parts
    return out


def software() -> dict[str, str]:
    """Return the versions and the device that measured."""
    try:
        ours = version("spin-pipe")
    except PackageNotFoundError:
        ours = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"spin-pipe": ours, "torch": torch.__version__, "device": device}


def frames_hash(annotations: Annotations, rows: Int[np.ndarray, " n"]) -> str:
    """Return a hash of the images' names in their order, an image once for each person; it is the same on every machine."""
    return hashlib.sha256("\n".join(annotations.image[row] for row in rows).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing(first: Card, second: Card) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two cards differ, with both values; 'nothing' where a card lacks the field."""
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name, "nothing"), second.get(name, "nothing")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]
