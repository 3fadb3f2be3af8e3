"""Matches rows of another program's file with samples of a data set: by COCO's annotation id, or by image and box."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from store.annotations.table import Annotations

if TYPE_CHECKING:
    from jaxtyping import Int64

    from store.exchange.bodies import SampleKeys

MAX_SHIFT, MAX_ZOOM = 0.25, 1.5
"""Boxes further apart than this share of the sample's box, or larger or smaller by more, are not of one person."""
_COCO_SOURCE = re.compile(r"annotation (\d{1,18})")


def annotation_ids(annotations: Annotations) -> Int64[np.ndarray, "n"]:
    """Return COCO's annotation id of each row, 0 where it has none."""
    found = [_COCO_SOURCE.fullmatch(source) for source in annotations.source]
    return np.array([int(match[1]) if match else 0 for match in found], np.int64)


def match_samples(keys: SampleKeys, annotations: Annotations) -> tuple[Int64[np.ndarray, "k"], dict[int, str]]:
    """Return the sample of each row, -1 where there is none, with the reason. No two rows get the same sample."""
    sample = np.full(len(keys.image), -1, np.int64)
    problems: dict[int, str] = {}
    by_id = {int(key): row for row, key in enumerate(annotation_ids(annotations)) if key}
    free = set(range(len(annotations)))
    for row, key in enumerate(keys.annotation.tolist()):
        found = by_id.get(key, -1)
        if found in free and _name(keys.image[row]) == _name(annotations.image[found]):
            sample[row] = found
            free.discard(found)
    whole, short = _places(annotations)
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(sample < 0).tolist():
        rows_of.setdefault(keys.image[row], []).append(row)
    for image, rows in rows_of.items():
        candidates = whole.get(image) or short.get(_name(image)) or []
        _match_image(keys, annotations, rows, [c for c in candidates if c in free], sample)
        free.difference_update(sample[rows].tolist())
        reason = "no sample of its image has its box" if candidates else "the data set has no such image"
        problems |= {row: reason for row in rows if sample[row] < 0}
    return sample, problems


def _name(image: str) -> str:
    return PurePosixPath(image).name


def _places(annotations: Annotations) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return samples by whole path, and by the name of the file; formats hold one or the other."""
    whole: dict[str, list[int]] = {}
    short: dict[str, list[int]] = {}
    for row, image in enumerate(annotations.image):
        whole.setdefault(image, []).append(row)
        short.setdefault(_name(image), []).append(row)
    return whole, short


def _match_image(keys: SampleKeys, annotations: Annotations, rows: list[int], samples: list[int], out: np.ndarray) -> None:
    """Return pairs of the nearest boxes in one image, nearest first."""
    if not samples:
        return
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        side = 200.0 * annotations.scale[samples].astype(np.float64)
        gap = np.linalg.norm(keys.center_px[rows][:, None] - annotations.center_px[samples], axis=-1) / side
        zoom = np.abs(np.log(keys.scale[rows][:, None] / annotations.scale[samples]))
        distance = np.where(zoom <= np.log(MAX_ZOOM), gap + zoom, np.inf)
        distance = np.where(gap <= MAX_SHIFT, distance, np.inf)
    taken: set[int] = set()
    for flat in np.argsort(distance, axis=None, kind="stable").tolist():
        row, sample = divmod(flat, len(samples))
        if not np.isfinite(distance[row, sample]):
            break
        if out[rows[row]] < 0 and sample not in taken:
            out[rows[row]] = samples[sample]
            taken.add(sample)
