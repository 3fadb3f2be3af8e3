"""The page's data on every fit: columns of numbers and words, and its joints, small enough for many fits."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.fitting.from_annotations import crops_of
from pipelines.panels import detected_twin, side_of_body
from pipelines.report.samples import KINDS, Chosen, DatasetFits, has_fit, score_change
from spin.body import CompactBody
from spin.camera import CROP_PX
from spin.crop import keypoints_to_crop
from spin.joints import SKELETON
from store.fits.records import Source, StartKind

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Int16

    from spin.body import BodyData
    from store.fits.records import Fits

MISSING = -32768  # of a coordinate
STEPS_PER_PX = 8  # coordinates are whole eighths of a crop pixel
_FURTHEST = 4000  # px
_LIST_SEED = 0
_BATCH = 4096

_DRAWN = tuple(sorted({joint for bone in SKELETON for joint in bone}))
_CHANGES = ("no earlier fit", "improved", "as before", "worsened")
_NUMBERS = ("loss", "score", "coverage", "prior_cost")
_COUNTS = ("improvements", "step", "iterations")


def listed_rows(sets: list[DatasetFits], chosen: Chosen, most: int) -> list[Int[np.ndarray, " k"]]:
    """Return each data set's listed rows: all, or the pictured ones and a random choice of the others."""
    total = sum(len(item.annotations) for item in sets)
    out = []
    for item, pictured in zip(sets, chosen.rows):
        count = len(item.annotations)
        if total > most:
            order = np.random.default_rng(_LIST_SEED).permutation(count)
            others = order[~np.isin(order, list(pictured))]
            kept = others[: max(most * count // total - len(pictured), 0)]
            out.append(np.sort(np.concatenate([np.array(list(pictured), np.int64), kept])))
        else:
            out.append(np.arange(count))
    return out


def page_data(
    sets: list[DatasetFits], rows: list[Int[np.ndarray, " k"]], chosen: Chosen, body: BodyData, before: str
) -> dict[str, Any]:
    """Return the page's data, ready for JSON; `columns` hold one entry per listed sample, data set after data set."""
    compact = CompactBody(body)
    words = Words()
    parts = [
        _columns(index, item, listed, pictured, words)
        for index, (item, listed, pictured) in enumerate(zip(sets, rows, chosen.rows))
    ]
    joints = [_joints(item, listed, compact) for item, listed in zip(sets, rows)]
    return {
        "before": before,
        "datasets": [item.name for item in sets],
        "samples": [len(item.annotations) for item in sets],
        "score": sorted({item.score_rule.partition(":")[0] for item in sets} - {""}),
        "sources": [source.name.lower() for source in Source],
        "starts": [kind.name.lower() for kind in StartKind],
        "changes": list(_CHANGES),
        "kinds": list(KINDS),
        "reasons": words.reasons,
        "runs": words.runs,
        "columns": {name: [v for part in parts for v in part[name]] for name in parts[0]},
        "bones": [[_DRAWN.index(a), _DRAWN.index(b), side_of_body(a, b)] for a, b in SKELETON],
        "joints": {
            "crop_px": CROP_PX,
            "count": len(_DRAWN),
            "sides": [side_of_body(joint, joint) for joint in _DRAWN],
            "steps_per_px": STEPS_PER_PX,
            "missing": MISSING,
            # Of each sample: the keypoints (x, y), the fit now (x, y, depth from its middle), the fit before (x, y).
            "base64": base64.b64encode(np.concatenate(joints).astype("<i2").tobytes()).decode(),
        },
    }


def as_json(data: dict[str, Any]) -> str:
    """Return JSON that is safe inside a script element: no text in it can start or end a tag."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


class Words:
    """Texts that many samples share, each stored once; samples hold its number."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.runs: list[str] = []

    @staticmethod
    def numbers(known: list[str], texts: list[str]) -> list[int]:
        places = {text: i for i, text in enumerate(known)}
        for text in texts:
            if text not in places:
                places[text] = len(known)
                known.append(text)
        return [places[text] for text in texts]


def _columns(
    index: int, item: DatasetFits, rows: np.ndarray, pictured: dict[int, list[str]], words: Words
) -> dict[str, list[Any]]:
    annotations, count = item.annotations, len(rows)
    reasons = item.reasons()
    out: dict[str, list[Any]] = {
        "dataset": [index] * count,
        "sample": rows.tolist(),
        "image": [annotations.image[row] for row in rows],
        "name": [annotations.source[row] for row in rows],
        "reason": words.numbers(words.reasons, [reasons[row] for row in rows]),
        "kinds": [sum(1 << KINDS.index(kind) for kind in pictured.get(row, ())) for row in rows.tolist()],
    }
    now = None if item.now is None else item.now.take(rows)
    before = None if item.before is None else item.before.take(rows)
    change = score_change(item)[rows]
    for name in _NUMBERS:
        out[name] = _rounded(now, name, count)
        if name in ("loss", "score"):
            out[f"{name}_before"] = _rounded(before, name, count)
    out["change"] = [None if np.isnan(v) else _four_digits(v) for v in change.tolist()]
    out["changed"] = np.where(np.isnan(change), 0, 2 + np.sign(np.nan_to_num(change))).astype(int).tolist()
    for name in (*_COUNTS, "source", "start"):
        out[name] = [0] * count if now is None else getattr(now, name).tolist()
    codes = [] if now is None else now.run.tolist()
    out["run"] = words.numbers(words.runs, [item.runs.get(code, "") for code in codes] or [""] * count)
    return out


def _rounded(fits: Fits | None, name: str, count: int) -> list[float | None]:
    """Round to four digits; None without a fit."""
    if fits is None:
        return [None] * count
    known = has_fit(fits).tolist()
    return [_four_digits(v) if k else None for v, k in zip(getattr(fits, name).tolist(), known)]


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def _joints(item: DatasetFits, rows: np.ndarray, compact: CompactBody) -> Int16[np.ndarray, " n*7J"]:
    """Return the skeleton's joints on the sample's crop: seven numbers per joint, see `page_data`."""
    parts = [_joints_of(item, rows[first : first + _BATCH], compact) for first in range(0, len(rows), _BATCH)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def _joints_of(item: DatasetFits, rows: np.ndarray, compact: CompactBody) -> Int16[np.ndarray, " n*7J"]:
    part = item.annotations.take(rows)
    keypoints = keypoints_to_crop(part.keypoints_px, part.center_px, part.scale)
    seen = keypoints[..., 2] > 0
    twins = [detected_twin(joint) for joint in _DRAWN]
    chosen = np.where(seen[:, _DRAWN], _DRAWN, twins)
    picked = np.take_along_axis(keypoints, chosen[..., None], 1)
    given_px = np.where(picked[..., 2:] > 0, picked[..., :2], np.nan)
    crops = crops_of(part)
    camera = crops.focal_px[:, 0].numpy(), crops.principal_px[:, 0].numpy()
    now = _projected(item.now, rows, compact, *camera)
    before = _projected(item.before, rows, compact, *camera)[..., :2]
    blocks = [array.reshape(len(rows), -1) for array in (given_px, now, before)]
    return _as_steps(np.concatenate(blocks, 1)).ravel()


def _projected(
    fits: Fits | None, rows: np.ndarray, compact: CompactBody, focal_px: np.ndarray, principal_px: np.ndarray
) -> Float[np.ndarray, "n J 3"]:
    """Return x and y on the crop, and the depth behind the body's root, in crop px; NaN without a fit."""
    out = np.full((len(rows), len(_DRAWN), 3), np.nan, np.float32)
    if fits is None:
        return out
    part = fits.take(rows)
    with torch.no_grad():
        points = compact.keypoints(compact(torch.from_numpy(part.pose), torch.from_numpy(part.betas)))
    joints_m = points[:, list(_DRAWN)].numpy() + part.camera[:, None]
    known = has_fit(part)
    zoom = focal_px[known, None, None] / joints_m[known, :, 2:]
    out[known, :, :2] = joints_m[known, :, :2] * zoom + principal_px[known, None]
    out[known, :, 2:] = (joints_m[known, :, 2:] - joints_m[known, :, 2:].mean(1, keepdims=True)) * zoom
    return out


def _as_steps(px: Float[np.ndarray, "n k"]) -> Int16[np.ndarray, "n k"]:
    steps = np.rint(np.clip(np.nan_to_num(px), -_FURTHEST, _FURTHEST) * STEPS_PER_PX)
    return np.where(np.isfinite(px), steps, MISSING).astype(np.int16)
