"""A data set as the page shows it: its fits before training and now, and the choice of pictured people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.fits.doubt import status_in_words
from pipelines.fits.open import STATIC_TAG, open_fits
from pipelines.folders import DataFolder
from pipelines.rejections import NOT_FITTED, read_rejections, reasons_without_fit
from spin.fitting.verdicts import VERDICTS
from store.annotations.table import Annotations
from store.errors import FitStoreNotFoundError
from store.fits.records import Fits, Source, Verdict

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from spin.body import BodyData

_PICTURE_SEED = 0  # of the random choice of pictured people, so that two reports of the same fits agree


@dataclass(frozen=True)
class RejectedPerson:
    """A person that preprocess rejected."""

    source: str
    image: str
    reason: str


@dataclass(frozen=True)
class DatasetFits:
    """A data set with its fits: `now`, and `before` training (None where the store has no such state).

    `score_rule` is the rule in the store's fingerprint, `runs` the names of the runs by their codes. `without_fit`
    holds why samples have no fit; `problems` what could not be read, a line each.
    """

    annotations: Annotations
    now: Fits | None
    before: Fits | None
    score_rule: str
    runs: Mapping[int, str]
    without_fit: dict[int, str]
    rejected: list[RejectedPerson]
    problems: list[str]

    @property
    def name(self) -> str:
        return self.annotations.name

    def reason_without_fit(self, row: int) -> str:
        return self.without_fit.get(row, NOT_FITTED)

    def reasons(self) -> list[str]:
        """Return each sample's verdict in words, or the reason for which it has no fit."""
        if self.now is None:
            return [NOT_FITTED] * len(self.annotations)
        known = zip(status_in_words(self.now, self.score_rule), has_fit(self.now).tolist())
        return [status if fitted else f"no fit: {self.reason_without_fit(row)}" for row, (status, fitted) in enumerate(known)]


def has_fit(fits: Fits) -> Bool[np.ndarray, " n"]:
    return fits.source != Source.NONE


def load_dataset(data: DataFolder, dataset: str, body: BodyData, before: str = STATIC_TAG) -> DatasetFits:
    """Load a data set and its fits, now and as of tag `before`; a store that does not exist yet is no error.

    Raise AnnotationsNotFoundError, and FingerprintMismatchError if the fits belong to another body or other annotations,
    for their pictures would be wrong.
    """
    annotations = Annotations.read(data.annotations(dataset))
    problems: list[str] = []
    without_fit = reasons_without_fit(data, dataset, problems)
    rejected = read_rejections(data.rejected(dataset), None, problems)
    now = earlier = None
    score_rule, runs = "", dict[int, str]()
    try:
        # Fits of any objective can be drawn, but only on the body and the boxes they were made for.
        store = open_fits(data.fits(dataset), body, annotations)
    except FitStoreNotFoundError:
        pass
    else:
        everyone = np.arange(len(annotations))
        now = store.get(everyone)
        earlier = store.at(before).get(everyone) if before in store.tags() else None
        score_rule, runs = store.fingerprint.score_rule, dict(store.runs)
    return DatasetFits(
        annotations,
        now,
        earlier,
        score_rule,
        runs,
        without_fit,
        [RejectedPerson(str(e["source"]), str(e["image"]), str(e["reason"])) for e in rejected],
        problems,
    )


KINDS = ("best", "random", "worst", "most improved", "most worsened", "one of each reason")
"""Why a sample is pictured, in the order in which the page offers them."""


@dataclass(frozen=True)
class Chosen:
    """People to picture, by data set: rows with all their kinds, and rejected people."""

    rows: list[dict[int, list[str]]]
    rejected: list[list[RejectedPerson]]

    @property
    def count(self) -> int:
        return sum(map(len, self.rows)) + sum(map(len, self.rejected))


def choose(sets: list[DatasetFits], samples: int) -> Chosen:
    """Choose at most `samples` people of each kind, evenly from the data sets; the same for the same fits."""
    shares = [samples // len(sets) + (i < samples % len(sets)) for i in range(len(sets))]
    rows = [_chosen_rows(item, share) for item, share in zip(sets, shares)]
    aside = [one_of_each([p.reason for p in item.rejected], share) for item, share in zip(sets, shares)]
    return Chosen(rows, [[item.rejected[i] for i in places] for item, places in zip(sets, aside)])


def _chosen_rows(item: DatasetFits, share: int) -> dict[int, list[str]]:
    if item.now is None:
        return {}
    order = ranking(item.now.score)
    changed = ranking(score_change(item))
    change = score_change(item)[changed]
    shuffled = np.random.default_rng(_PICTURE_SEED).permutation(len(item.annotations))
    reasons = item.reasons()
    invalid = [row for row in range(len(reasons)) if reasons[row] != VERDICTS[Verdict.VALID]]
    found = {
        "best": order[:share],
        "random": shuffled[:share],
        "worst": order[::-1][:share],
        "most improved": changed[change < 0][:share],
        "most worsened": changed[change > 0][::-1][:share],
        "one of each reason": [invalid[i] for i in one_of_each([reasons[row] for row in invalid], share)],
    }
    kinds: dict[int, list[str]] = {}
    for kind in KINDS:
        for row in found[kind]:
            kinds.setdefault(int(row), []).append(kind)
    return kinds


def score_change(item: DatasetFits) -> Float[np.ndarray, " n"]:
    """Return the score now minus before: below 0 is better. NaN for samples without both fits."""
    change = np.full(len(item.annotations), np.nan, np.float32)
    if item.now is not None and item.before is not None:
        both = has_fit(item.now) & has_fit(item.before)
        change[both] = item.now.score[both] - item.before.score[both]
    return change


def ranking(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Return the rows of the finite values, the lowest first."""
    order = np.argsort(values, kind="stable")
    return order[np.isfinite(values[order])]


def one_of_each(reasons: list[str], count: int) -> list[int]:
    """Return indices of at most `count` entries: one per reason, the most frequent first, then a second of each."""
    turns: dict[str, list[int]] = {}
    for place, reason in enumerate(reasons):
        turns.setdefault(reason, []).append(place)
    groups = sorted(turns.values(), key=len, reverse=True)
    rounds = [(turn, rank, place) for rank, group in enumerate(groups) for turn, place in enumerate(group[:count])]
    return [place for _, _, place in sorted(rounds)[:count]]
