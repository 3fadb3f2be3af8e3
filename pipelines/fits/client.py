"""A trainer's way to the fit services of its data sets: look-ups requested ahead, offers that are not waited for.

What a look-up sees doesn't depend on timing. Calls of one worker reach a service in the order they were made, and within an
epoch a sample belongs to one worker; at an epoch's start every worker settles its offers before anybody looks up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from pipelines.cluster.incarnation import incarnation
from store.fits.records import Fits

if TYPE_CHECKING:
    from jaxtyping import Int

UNDER_WAY = 2  # steps whose offers may be unanswered; the step after waits


@dataclass(frozen=True)
class LookUp:
    """Records that were asked for and may still be on their way."""

    count: int
    parts: list[tuple[np.ndarray, Any]]  # places in the batch, and the answer to come

    def wait(self) -> Fits:
        """The records, in the batch's order."""
        answers = ray.get([answer for _, answer in self.parts])
        columns = {f.name: getattr(Fits.empty(self.count), f.name).copy() for f in fields(Fits)}
        for (places, _), found in zip(self.parts, answers):
            for name, column in columns.items():
                column[places] = getattr(found, name)
        return Fits(**columns)


class FitsClient:
    """`services` are the handles by data set, in the order that the batches count data sets."""

    def __init__(self, services: list[Any]) -> None:
        self.services = services
        self._unanswered: deque[list[Any]] = deque()

    def look_up(self, dataset: Int[np.ndarray, " B"], row: Int[np.ndarray, " B"]) -> LookUp:
        """Asks for the best known fits of a batch."""
        parts = []
        for d in np.unique(dataset):
            places = np.flatnonzero(dataset == d)
            parts.append((places, self.services[d].get.remote(row[places])))
        return LookUp(len(row), parts)

    def offer(self, dataset: Int[np.ndarray, " n"], row: Int[np.ndarray, " n"], fits: Fits) -> None:
        """Sends the fits of a step. The store decides again, and writes in its own time."""
        while len(self._unanswered) >= UNDER_WAY:
            ray.get(self._unanswered.popleft())
        sent = []
        for d in np.unique(dataset):
            mine = np.flatnonzero(dataset == d)
            sent.append(self.services[d].offer.remote(row[mine], fits.take(mine), incarnation()))
        self._unanswered.append(sent)

    def settle(self) -> None:
        """Waits until every offer is answered."""
        while self._unanswered:
            ray.get(self._unanswered.popleft())
