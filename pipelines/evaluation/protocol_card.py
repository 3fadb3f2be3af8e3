"""The protocol card: everything that a number depends on except the subject; and the software that measured it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.evaluation.truth import known, short_hash, truth_hashes
from spin.body import BodyData, load_body
from spin.evaluation.protocols import Protocol
from spin.evaluation.silhouettes import RASTER
from store.annotations.table import Annotations

if TYPE_CHECKING:
    from jaxtyping import Int

Card = dict[str, Any]
"""Holds JSON values only. Two numbers are comparable if their cards are equal."""
SEEN = ("crop", "precision")
"""Fields that only those cards have whose bodies a network predicted from images."""


def protocol_card(
    annotations: Annotations,
    rows: Int[np.ndarray, " n"],
    pictures: Sequence[tuple[str, str]],
    protocol: Protocol,
    body: BodyData,
    true_bodies: dict[str, Path],
    parts: str,
    seen: dict[str, str],
) -> Card:
    """Return the card of the measured rows. It names masks and parts only where the data set has them.

    `pictures`: hashes of the rows' true masks and parts. `seen`: crop rule and precision of a network.
    """
    has = known(annotations)
    out: Card = {
        "data set": annotations.name,
        "protocol": protocol.name,
        "frames": {"count": len(rows), "sha256": frames_hash(annotations, rows)},
        "boxes": boxes_hash(annotations, rows),
        "truth": truth_hashes(annotations, rows, pictures),
        "body": body.fingerprint,
    }
    if has.pose[rows].any():
        stated = protocol.card()
        out |= {
            "joints": stated["joints"],
            "regressor": f"J_regressor_h36m, sha256 {_hash(body.h36m_regressor)}",
            "pelvis": stated["pelvis"],
            "alignment": stated["alignment"],
            "mean": stated["mean"],
            "true joints": {
                "of the data set": int(has.joints[rows].sum()),
                "regressed from the true body": int((has.body & ~has.joints)[rows].sum()),
            },
        }
    if has.body[rows].any():
        out["true bodies"] = {gender or "unknown": load_body(path).fingerprint for gender, path in sorted(true_bodies.items())}
    if has.mask[rows].any() or has.part[rows].any():
        out["raster"] = RASTER
        out["masks"] = {"masks": int(has.mask[rows].sum()), "parts": int(has.part[rows].sum())}
        out["parts"] = parts
    return out | seen


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


def boxes_hash(annotations: Annotations, rows: Int[np.ndarray, " n"]) -> str:
    """Return a hash of the people's boxes, which crops and masks are cut by."""
    boxes = np.column_stack([annotations.center_px[rows], annotations.scale[rows]])
    return short_hash(np.ascontiguousarray(boxes, "<f4").tobytes())


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing(first: Card, second: Card) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two cards differ, with both values; 'nothing' where a card lacks the field.

    Bodies that no network predicted saw no crop: this is no difference to a network.
    """
    names = [*first, *(name for name in second if name not in first)]
    if holds_truth(first) and holds_truth(second):
        names = [name for name in names if name not in SEEN or (name in first and name in second)]
    pairs = {name: (first.get(name, "nothing"), second.get(name, "nothing")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def holds_truth(card: Card) -> bool:
    """Return False for a card that was written before cards held a hash of the truth."""
    return "truth" in card


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]
