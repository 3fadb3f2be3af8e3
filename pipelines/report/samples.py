"""What the page shows of a data set: its fits before training and now, and which of its people are pictured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.fit_static import STATIC_TAG
from pipelines.fitting import open_fits
from pipelines.layout import DataFolder
from pipelines.refusals import NOT_FITTED, read_refusals, reasons_without_fit
from store.annotations import Annotations
from store.errors import FitStoreNotFoundError
from store.records import Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from spin.body import BodyData


@dataclass(frozen=True)
class SetAside:
    """A person that preprocess refused."""

    source: str
    image: str
    reason: str


@dataclass(frozen=True)
class DatasetFits:
    """A data set with its fits: `now`, and `before` training (None where the store has no such state).

    `refused` holds why samples have no fit; `problems` what could not be read, a line each.
    """

    annotations: Annotations
    now: Fits | None
    before: Fits | None
    refused: dict[int, str]
    set_aside: list[SetAside]
    problems: list[str]

    @property
    def name(self) -> str:
        return self.annotations.name

    def reason_without_fit(self, row: int) -> str:
        return self.refused.get(row, NOT_FITTED)


def has_fit(fits: Fits) -> Bool[np.ndarray, " n"]:
    return fits.source != Source.NONE


def load_dataset(data: DataFolder, dataset: str, body: BodyData) -> DatasetFits:
    """A data set and what the store knows of it; a store that does not exist yet is no error.

    Raises AnnotationsNotFoundError, and FingerprintMismatchError if the fits belong to another body or other annotations,
    for their pictures would be wrong.
    """
    annotations = Annotations.read(data.annotations(dataset))
    problems: list[str] = []
    refused = reasons_without_fit(data, dataset, problems)
    set_aside = read_refusals(data.set_aside(dataset), None, problems)
    now = before = None
    try:
        # Whatever the fits minimised, they can be drawn; but only on the body and the boxes they were made for.
        store = open_fits(data.fits(dataset), body, annotations)
    except FitStoreNotFoundError:
        pass
    else:
        everyone = np.arange(len(annotations))
        now = store.get(everyone)
        before = store.at(STATIC_TAG).get(everyone) if STATIC_TAG in store.tags() else None
    return DatasetFits(
        annotations,
        now,
        before,
        refused,
        [SetAside(str(e["source"]), str(e["image"]), str(e["reason"])) for e in set_aside],
        problems,
    )


@dataclass(frozen=True)
class Chosen:
    """Rows to be pictured, of each data set."""

    typical: list[Int[np.ndarray, " a"]]
    worst: list[Int[np.ndarray, " b"]]
    without_fit: list[Int[np.ndarray, " c"]]
    set_aside: list[list[SetAside]]

    @property
    def count(self) -> int:
        return sum(
            len(rows)
            for kind in (self.typical, self.worst, self.without_fit, self.set_aside)
            for rows in kind
        )


def choose(sets: list[DatasetFits], samples: int) -> Chosen:
    """At most `samples` people of each kind, shared evenly by the data sets; the same for the same fits."""
    chosen = Chosen([], [], [], [])
    for index, item in enumerate(sets):
        share = samples // len(sets) + (index < samples % len(sets))
        rows = np.zeros(0, np.int64)
        chosen.typical.append(rows if item.now is None else typical_rows(item.now.loss, share))
        chosen.worst.append(
            rows if item.now is None else worst_rows(item.now.loss, share, besides=chosen.typical[-1])
        )
        missing = rows if item.now is None else np.flatnonzero(~has_fit(item.now))
        reasons = [item.reason_without_fit(int(row)) for row in missing]
        chosen.without_fit.append(missing[one_of_each(reasons, share)])
        aside = one_of_each([person.reason for person in item.set_aside], share)
        chosen.set_aside.append([item.set_aside[i] for i in aside])
    return chosen


def typical_rows(loss_px2: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " k"]:
    """Evenly spread over the better half, best to median; samples without a fit have an infinite loss."""
    order = _ranking(loss_px2)
    better = order[: (len(order) + 1) // 2]
    places = np.linspace(0, max(len(better) - 1, 0), min(count, len(better)))
    return better[np.rint(places).astype(int)]


def worst_rows(
    loss_px2: Float[np.ndarray, " n"], count: int, besides: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " k"]:
    """The highest losses, highest first, without the rows of `besides`."""
    order = _ranking(loss_px2)[::-1]
    return order[~np.isin(order, besides)][:count]


def _ranking(loss_px2: np.ndarray) -> np.ndarray:
    order = np.argsort(loss_px2, kind="stable")
    return order[np.isfinite(loss_px2[order])]


def one_of_each(reasons: list[str], count: int) -> list[int]:
    """Places of at most `count` entries: one of every reason first, the most frequent reason first, then a second one."""
    turns: dict[str, list[int]] = {}
    for place, reason in enumerate(reasons):
        turns.setdefault(reason, []).append(place)
    groups = sorted(turns.values(), key=len, reverse=True)
    rounds = [
        (turn, rank, place) for rank, group in enumerate(groups) for turn, place in enumerate(group[:count])
    ]
    return [place for _, _, place in sorted(rounds)[:count]]
