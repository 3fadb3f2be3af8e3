"""Whether bodies of a file fit the people they are assigned to, where nothing in the file names those people.

A body is placed where it meets a person's keypoints best, its pose and shape held. Its distance to them is the median over the
keypoints, as a share of their extent: 0.01 to 0.04 of a fit of the same person, 0.06 to 0.25 of another person's. A distance
alone can't tell a poor fit from another person's, so that a body beyond ALIKE is compared with other bodies of the file, placed
in the same way: it is a misfit if one of them fits the person clearly better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.fitting.from_annotations import observations_of
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES
from spin.fitting.placement import place_body

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from pipelines.fitting.assets import FittingFiles
    from spin.fitting.fitter import BatchFitter
    from store.annotations.table import Annotations

ALIKE = 0.04
"""A body whose keypoints are, in the median, nearer than this share of their extent fits its person."""
FAR = 0.2
"""And one that is further than this doesn't, if there is no other body to compare it with."""
CONFIRMED = 0.75
"""Share of other bodies, on average, that must fit a person worse than the assigned one. It is 1/2 where bodies are in any
order, or all alike, and nearly 1 where they are with their own people."""
_CLEARLY = 0.8  # of a body's distance: another that is nearer than this fits clearly better
_OTHERS = 64  # bodies that each is compared with: with so many, 99 of 100 bodies of other people are found
_FEWEST = 6  # keypoints that say whether a body fits
_BATCH = 256
_FIRST = 1000  # people, at most, by whom a whole file is judged
PLACING = FitConfig("adam", 0, OBJECTIVES["published"], ())
"""Of a fitter that only places bodies: it solves nothing and needs no lifter."""


@dataclass(frozen=True)
class Agreement:
    """Of each body: whether it could be judged, whether it doesn't fit its person, and the share of others that fit worse.

    A file that is refuted by some of its bodies was judged by these alone.
    """

    judged: Bool[np.ndarray, " k"]
    misfit: Bool[np.ndarray, " k"]
    better_than: Float[np.ndarray, " k"]  # 1 where nothing is compared, since the body fits

    @property
    def refuted(self) -> bool:
        """Whether most bodies that could be judged don't fit, and fit no better than others do."""
        most = 2 * int(self.misfit.sum()) > int(self.judged.sum())
        return most and float(self.better_than[self.judged].mean()) < CONFIRMED

    def take(self, rows: Int[np.ndarray, " n"]) -> Agreement:
        return Agreement(self.judged[rows], self.misfit[rows], self.better_than[rows])


class Bodies:
    """Bodies of a file, each assigned to a sample of the data set."""

    def __init__(
        self,
        files: FittingFiles,
        annotations: Annotations,
        samples: Int[np.ndarray, " k"],
        pose: Float[np.ndarray, "k 72"],
        betas: Float[np.ndarray, "k 10"],
    ) -> None:
        self._fitter: BatchFitter = files.fitter(PLACING)
        self._annotations, self._samples = annotations, samples
        self._pose = torch.from_numpy(np.ascontiguousarray(pose, np.float32))
        self._betas = torch.from_numpy(np.ascontiguousarray(betas, np.float32))

    def agreement(self) -> Agreement:
        """Return which bodies fit their people."""
        every = np.arange(len(self._samples))
        own = self._distances(every, every)
        judged = np.flatnonzero(np.isfinite(own))
        some = judged[:: max(1, len(judged) // _FIRST)]
        first = self._compared(own, some[own[some] > ALIKE]).take(some)
        return first if first.refuted else self._compared(own, np.flatnonzero(own > ALIKE))

    def confirmed(self) -> bool:
        """Return whether bodies fit their own people better than most others do; False, too, if they are all alike."""
        every = np.arange(len(self._samples))
        own = self._distances(every, every)
        judged = np.flatnonzero(np.isfinite(own))
        some = judged[:: max(1, len(judged) // _FIRST)]
        found = self._compared(own, some).better_than[some]
        return len(found) > 1 and float(found.mean()) >= CONFIRMED

    def _compared(self, own: Float[np.ndarray, " k"], rows: Int[np.ndarray, " n"]) -> Agreement:
        """Compare the bodies of `rows` with others; `own`: the distance of each body."""
        judged, misfit, better_than = np.isfinite(own), np.zeros(len(own), bool), np.ones(len(own))
        others = self._others(rows)
        if not others.shape[1]:
            return Agreement(judged, own > FAR, better_than)
        people = np.repeat(rows, others.shape[1])
        distances = self._distances(others.ravel(), people).reshape(others.shape)
        misfit[rows] = (distances < _CLEARLY * own[rows, None]).any(1)
        better_than[rows] = (distances > own[rows, None]).mean(1)
        return Agreement(judged, misfit, better_than)

    def _others(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n m"]:
        """Return other bodies for each of some: all of a small file, else some of them, by a fixed seed."""
        count = len(self._samples)
        if count - 1 <= _OTHERS:
            return (rows[:, None] + np.arange(1, max(count, 1))) % max(count, 1)
        random = np.random.default_rng(0)
        return (rows[:, None] + random.integers(1, count, (len(rows), _OTHERS))) % count

    def _distances(self, bodies: Int[np.ndarray, " n"], people: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return each body's distance to the keypoints of a person; not a number where too few keypoints are seen."""
        parts = [
            self._some(bodies[first : first + _BATCH], people[first : first + _BATCH])
            for first in range(0, len(bodies), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _some(self, bodies: np.ndarray, people: np.ndarray) -> np.ndarray:
        observations = observations_of(self._annotations, self._samples[people][:, None], ignore_3d=True)
        prepared = self._fitter.prepare(observations)
        observations = prepared.observations
        with torch.no_grad():
            start = self._fitter.given(self._pose[bodies], self._betas[bodies], prepared, kind="file")
            points = self._fitter.body.keypoints(self._fitter.body(start.pose_aa, start.betas))
            camera = place_body(points, start.camera_m, observations, PLACING.objective)
            pixels = observations.views.project(points + camera[:, None])[:, 0]
            keypoints = observations.keypoints_px[:, 0]
            seen = keypoints[..., 2] > 0
            away = torch.where(seen, (pixels - keypoints[..., :2]).norm(dim=-1), torch.nan).nanmedian(1).values
            low = torch.where(seen[..., None], keypoints[..., :2], torch.inf).amin(1)
            high = torch.where(seen[..., None], keypoints[..., :2], -torch.inf).amax(1)
            extent = (high - low).amax(1)
            known = (seen.sum(1) >= _FEWEST) & (extent > 0)
            return torch.where(known, away / extent.clamp_min(1e-6), torch.nan).numpy()
