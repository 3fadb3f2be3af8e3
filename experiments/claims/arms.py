"""The arms of `claims`: one training each, through the real train step, target selection, fitter, lifter and fit store."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experiments.claims.people import (
    VARIANTS,
    Looks,
    People,
    Size,
    augmentations_of,
    batch_rows,
    joints14_of,
    set_rate,
)
from spin.body import CompactBody, load_body
from spin.evaluation.metrics import mpjpe_mm, pa_mpjpe_mm
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.lifter import OPEN_LIFTER, load_lifter
from spin.fitting.objective import OBJECTIVES
from spin.fitting.observations import Observations
from spin.fitting.prior import load_pose_prior
from spin.rotations import matrix_to_axis_angle
from spin.training.config import LossWeights, StepConfig
from spin.training.device import to_device
from spin.training.loop import LoopFitter
from spin.training.step import Batch, train_step
from spin.training.targets import GroundTruth, StoredFits
from spin.training.trust import BodyParameters, held_out
from store.fits.fingerprint import Fingerprint
from store.fits.records import Fits, Source
from store.fits.store import FitStore

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from spin.fitting.fitter import FitResult
    from spin.network.hmr import HMR
    from spin.training.step import StepResult

SETTINGS = {"mixed": 0.25, "only2d": 0.0}
TRUE_SHARES = SETTINGS | {"all true": 1.0}  # of the samples that carry true 3D
WEIGHTS = LossWeights()
CLIP_NORM = 2.0  # a small network trained this fast is otherwise thrown back by single batches
LOOP_ITERATIONS = 10


@dataclass(frozen=True)
class Arm:
    """`static`: where the fits begin; `loop`: what improves them."""

    static: str | None
    loop: str | None


ARMS = {
    "a": Arm(None, None),
    "b": Arm("mean poses", None),
    "c": Arm("mean poses", "published"),
    "d": Arm("mean poses", "earned"),
    "e": Arm("lifter", None),
    "f": Arm("lifter", "earned"),
}


class Fitting:
    """Fitters of every kind, and what they make before training."""

    def __init__(self, people: People, size: Size) -> None:
        data = load_body()
        self.body, self.prior = CompactBody(data), load_pose_prior()
        lifter = load_lifter(OPEN_LIFTER, data.fingerprint)
        published = OBJECTIVES["published"]
        self.anchored = BatchFitter(self.body, self.prior, FitConfig(iterations=LOOP_ITERATIONS), lifter)
        self.adam = BatchFitter(self.body, self.prior, FitConfig("adam", 100, published, init=("network",)))
        self._several = BatchFitter(self.body, self.prior, FitConfig(objective=published, init=("multistart",)))
        self._lifted = BatchFitter(self.body, self.prior, FitConfig(), lifter)
        self._observations = Observations.of(people.keypoints_px[: size.train])

    @cached_property
    def from_mean_poses(self) -> FitResult:
        return self._several.fit(self._observations)

    @cached_property
    def from_the_lifter(self) -> FitResult:
        return self._lifted.fit(self._observations)

    @cached_property
    def judged(self) -> FitResult:
        """The bodies from mean poses, scored by the scorer."""
        fits, observations = self.from_mean_poses, self._observations
        start = self.anchored.given(fits.pose_aa, fits.betas, observations, kind="file", camera_m=fits.camera_m)
        return self.anchored.as_given(start, observations, torch.ones(len(observations), dtype=torch.bool))

    def start_of(self, arm: Arm) -> FitResult | None:
        if arm.static is None:
            return None
        if arm.static == "lifter":
            return self.from_the_lifter
        return self.judged if arm.loop == "earned" else self.from_mean_poses

    def loop_of(self, arm: Arm) -> LoopFitter | None:
        if arm.loop is None:
            return None
        return LoopFitter(self.anchored if arm.loop == "earned" else self.adam)


def records_of(fits: FitResult, rows: Int[np.ndarray, " n"], source: Source, step: int, improvements: np.ndarray) -> Fits:
    """What the store keeps of some of a batch's fits."""
    count = len(rows)
    column = lambda name, dtype: getattr(fits, name).cpu().numpy()[rows].astype(dtype)  # noqa: E731
    return Fits(
        pose=column("pose_aa", np.float32),
        betas=column("betas", np.float32),
        camera=column("camera_m", np.float32),
        loss=column("loss", np.float32),
        score=column("score", np.float32),
        source=np.full(count, source, np.uint8),
        step=np.full(count, step, np.int64),
        improvements=improvements.astype(np.uint32),
        start=column("start", np.uint8),
        verdict=column("verdict", np.uint8),
        iterations=column("iterations", np.uint16),
        coverage=column("coverage", np.float32),
        prior_cost=column("prior_cost", np.float32),
    )


def new_store(path: Path, size: Size, start: FitResult | None) -> FitStore:
    store = FitStore.create(path, samples=size.train, fingerprint=Fingerprint("open", "claims", "claims", "claims"))
    if start is not None:
        rows = np.flatnonzero(start.storable.numpy())
        store.merge(rows, records_of(start, rows, Source.STATIC, 0, np.zeros(len(rows))))
    return store


def stored_fits(store: FitStore, rows: np.ndarray) -> StoredFits:
    records = store.get(rows)
    names = {"pose_aa": "pose", "camera_m": "camera"}
    numbers = {f.name: torch.from_numpy(getattr(records, names.get(f.name, f.name)).copy())
               for f in fields(StoredFits) if f.name != "valid"}  # fmt: skip
    return StoredFits(**numbers, valid=torch.from_numpy(records.source != Source.NONE))


class Experiment:
    """One arm in one setting, with one seed."""

    def __init__(
        self,
        people: People,
        size: Size,
        fitting: Fitting,
        network: HMR,
        *,
        setting: str,
        arm: str,
        seed: int,
        folder: Path,
        looks: Looks | None = None,
        learns: bool = True,
    ) -> None:
        self.people, self.size, self.fitting, self.seed = people, size, fitting, seed
        self.looks = looks
        self.network, self.arm = copy.deepcopy(network), ARMS[arm]
        self.device = next(network.parameters()).device
        self.body = CompactBody(load_body()).to(self.device)
        self.rate = size.learning_rate if learns else 0.0
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=self.rate)
        chosen = np.random.default_rng([seed, 7]).permutation(size.train)
        self.given = torch.zeros(size.train, dtype=torch.bool)
        self.given[chosen[: round(TRUE_SHARES[setting] * size.train)]] = True
        self.loop = fitting.loop_of(self.arm)
        self.held_out = torch.zeros_like(self.given)
        if self.loop is not None and self.loop.weighs:
            self.held_out = self.given & held_out([self.name(row) for row in range(size.train)])
        self.store = new_store(folder, size, fitting.start_of(self.arm))
        self.config = StepConfig(weights=WEIGHTS, clip_norm=CLIP_NORM)

    @staticmethod
    def name(row: int) -> str:
        return f"world:{row}"

    def train(self, steps: int) -> list[float]:
        """For so many steps; the share of fits that each improved."""
        improved = []
        for step in range(steps):
            set_rate(self.optimiser, self.rate, step, steps)
            improved.append(self.step(step).share_improved)
        return improved

    def run(self, steps: int) -> dict[str, Any]:
        """Trains for so many steps. Fits' errors are None where there are no fits."""
        begin, spent = self.fits_error_mm(), time.process_time()
        improved = self.train(steps)
        pa_mm, mm = self.network_errors_mm()
        return {
            "network_pa_mpjpe_mm": pa_mm,
            "network_mpjpe_mm": mm,
            "fits_start_pa_mpjpe_mm": begin,
            "fits_end_pa_mpjpe_mm": self.fits_error_mm(),
            "improved_share": float(np.mean(improved)),
            "cpu_s": time.process_time() - spent,
        }

    def step(self, step: int) -> StepResult:
        epoch, rows = batch_rows(self.size.train, self.size.batch, self.seed, step)
        stored = stored_fits(self.store, rows)
        measured = []

        def fit(pose_aa: Tensor, betas: Tensor, camera_m: Tensor, keypoints_px: Tensor) -> FitResult:
            assert self.loop is not None
            guesses = BodyParameters(pose_aa.cpu(), betas.cpu())
            result, sums = self.loop.fit(
                guesses,
                Observations.of(keypoints_px.cpu()),
                self.truth(rows, self.held_out[rows]),
                camera_m.cpu(),
            )
            measured.append(sums)
            return result.to(self.device)

        result = train_step(
            self.network, self.optimiser, self.body, to_device(self.batch(rows, epoch), self.device),
            None if self.loop is None else fit, to_device(stored, self.device), self.config, step=step,
        )  # fmt: skip
        if self.loop is not None:
            self.loop.trust = self.loop.trust.after(measured[0])
            new = result.new_fits.to(torch.device("cpu"))  # type: ignore[union-attr]
            better = np.flatnonzero((result.improved.cpu() & new.storable).numpy())
            before = self.store.get(rows[better]).improvements
            self.store.merge(rows[better], records_of(new, better, Source.LOOP, step, before + 1))
        return result

    def batch(self, rows: np.ndarray, epoch: int) -> Batch:
        names = tuple(self.name(row) for row in rows)
        augmentations = augmentations_of(rows, epoch % VARIANTS)
        known = (self.given & ~self.held_out)[rows]
        return Batch(
            sample_ids=names,
            images=self.people.augmented(rows, augmentations)
            if self.looks is None
            else self.looks.features[epoch % VARIANTS, rows],
            keypoints_crop_px=self.people.keypoints_px[rows],
            augmentations=augmentations,
            truth=self.truth(rows, known),
            joints_m=self.people.joints_m[rows],
            joints_known=known,
        )

    def truth(self, rows: np.ndarray, known: Bool[Tensor, " B"]) -> GroundTruth:
        return GroundTruth(self.people.pose_aa[rows], self.people.betas[rows], known)

    # ---- what came of it ------------------------------------------------------------------------------------------------

    def expected_and_true_mm(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Score and PA-MPJPE of the stored fits of the samples without truth."""
        rows = np.flatnonzero(~self.given.numpy())
        fits = self.store.get(rows)
        there = fits.source != Source.NONE
        joints = joints14_of(*(torch.from_numpy(a[there]) for a in (fits.pose, fits.betas)))
        return fits.score[there], pa_mpjpe_mm(joints.numpy(), self.people.joints14_m[rows[there]].numpy())

    def fits_error_mm(self) -> float | None:
        return None if self.arm.static is None else float(self.expected_and_true_mm()[1].mean())

    def network_errors_mm(self) -> tuple[float, float]:
        """PA-MPJPE and MPJPE on people that were not trained on."""
        rows = np.arange(self.size.train, self.size.train + self.size.test)
        self.network.eval()
        with torch.no_grad():
            answers = [
                self.network(self.people.plain(part).to(self.device)) for part in np.array_split(rows, max(1, len(rows) // 100))
            ]
        pose = torch.cat([matrix_to_axis_angle(a.rotations).flatten(1) for a in answers]).cpu()
        betas = torch.cat([a.betas for a in answers]).cpu()
        joints, true = joints14_of(pose, betas).numpy(), self.people.joints14_m[rows].numpy()
        hips = [2, 3]
        centred = (a - a[:, hips].mean(1, keepdims=True) for a in (joints, true))
        return float(pa_mpjpe_mm(joints, true).mean()), float(mpjpe_mm(*centred).mean())
