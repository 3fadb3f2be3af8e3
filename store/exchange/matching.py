"""Matches rows of another program's file with samples of a data set: by COCO's annotation id, or by image and box."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from store.annotations.table import Annotations

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

    from store.exchange.bodies import SampleKeys

MAX_SHIFT, MAX_ZOOM = 0.25, 1.5
"""Boxes further apart than this share of the sample's box, or larger or smaller by more, are not of one person."""
_SAME_BOX = 1e-3  # of the box's side: what float32 and a file's text leave of one box
_COCO_SOURCE = re.compile(r"annotation (\d{1,18})")


def annotation_ids(annotations: Annotations) -> Int64[np.ndarray, "n"]:
    """Return COCO's annotation id of each row, 0 where it has none."""
    found = [_COCO_SOURCE.fullmatch(source) for source in annotations.source]
    return np.array([int(match[1]) if match else 0 for match in found], np.int64)


def match_samples(keys: SampleKeys, annotations: Annotations) -> tuple[Int64[np.ndarray, "k"], dict[int, str]]:
    """Return the sample of each row, -1 where there is none, with the reason. No two rows get the same sample.

    An id names a person of its image: many tools count anew in each image.
    """
    sample = np.full(len(keys.image), -1, np.int64)
    problems: dict[int, str] = {}
    images = _Images(annotations)
    ids = annotation_ids(annotations)
    free = set(range(len(annotations)))
    rows_of: dict[str, list[int]] = {}
    for row, key in enumerate(keys.annotation.tolist()):
        same = [s for image in images.of(keys.image[row]) for s in images.samples[image] if key and ids[s] == key]
        if len(same) == 1 and same[0] in free:
            sample[row] = same[0]
            free.discard(same[0])
        else:
            rows_of.setdefault(keys.image[row], []).append(row)
    for name, rows in rows_of.items():
        found = images.of(name)
        candidates = images.samples[found[0]] if len(found) == 1 else []
        _match_image(keys, annotations, rows, [c for c in candidates if c in free], sample)
        free.difference_update(sample[rows].tolist())
        problems |= {row: _reason(found) for row in rows if sample[row] < 0}
    return sample, problems


def _reason(images: list[str]) -> str:
    if len(images) > 1:
        return f"several images of the data set are called that: {', '.join(images[:3])}"
    return "no sample of its image has its box" if images else "the data set has no such image"


def same_boxes(keys: SampleKeys, annotations: Annotations, samples: Int64[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
    """Return which rows have the very box of their sample; False where they have none."""
    there = np.maximum(samples, 0)
    if not len(annotations):
        return np.zeros(len(samples), bool)
    scale = annotations.scale[there].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        shift = np.abs(keys.center_px - annotations.center_px[there]).max(1) / (200 * scale)
        zoom = np.abs(keys.scale - scale) / scale
    return (samples >= 0) & (shift <= _SAME_BOX) & (zoom <= _SAME_BOX)


class _Images:
    """Finds images of a data set by the names that another file gives them: `samples` are the rows of each."""

    def __init__(self, annotations: Annotations) -> None:
        self.samples: dict[str, list[int]] = {}
        for row, image in enumerate(annotations.image):
            self.samples.setdefault(image, []).append(row)
        self._by_file: dict[str, list[str]] = {}
        for image in self.samples:
            self._by_file.setdefault(PurePosixPath(image).name, []).append(image)

    def of(self, name: str) -> list[str]:
        """Return the image with the longest path that the name ends in, else all images whose paths end in the name."""
        alike = self._by_file.get(PurePosixPath(name).name, [])
        inside = [image for image in alike if f"/{name}".endswith(f"/{image}")]
        if inside:
            return [max(inside, key=len)]
        return [image for image in alike if f"/{image}".endswith(f"/{name}")]


def _match_image(keys: SampleKeys, annotations: Annotations, rows: list[int], samples: list[int], out: np.ndarray) -> None:
    """Pair the nearest boxes in one image, nearest first."""
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
