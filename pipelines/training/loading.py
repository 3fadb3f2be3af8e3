"""Batches for the trainers: crops cut from images or from packed crops, keypoints in the canonical crop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.fitting.from_annotations import crops_of
from pipelines.training.batch_plan import Place, Plan
from spin.crop import beyond_reach, crop_encoded, keypoints_to_crop, normalise
from spin.errors import ImageError
from spin.fitting.observations import Views
from spin.images import Encoded, read_encoded
from spin.training.augment import Augmentations, sample_augmentations
from spin.training.step import Batch
from spin.training.targets import GroundTruth
from store.errors import CropsError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int

    from spin.training.config import AugmentationConfig
    from store.annotations.table import Annotations
    from store.crops import PackedCrops

_AHEAD = 2  # batches prepared while the trainer computes


@dataclass(frozen=True)
class LoadedBatch:
    """A batch, the data set and row each sample comes from, and the images that could not be read."""

    place: Place
    batch: Batch
    sample: Int[np.ndarray, " B"]  # places in the training data
    dataset: Int[np.ndarray, " B"]
    row: Int[np.ndarray, " B"]
    readable: Bool[np.ndarray, " B"]
    teaches: Bool[np.ndarray, " B"]  # readable, and its crop shows the person
    unreadable: tuple[str, ...]


class TrainingData:
    """Samples of several data sets as one."""

    def __init__(
        self,
        sets: list[Annotations],
        *,
        img_res: int,
        ignore_3d: bool,
        packed: Sequence[PackedCrops | None] = (),
        threads: int = 2,
    ) -> None:
        """`packed`: of each data set, its packed crops; its images are then not looked at."""
        self.sets, self.img_res = sets, img_res
        self.packed = list(packed) or [None] * len(sets)
        self.ignore_3d = ignore_3d
        self.dataset = np.concatenate([np.full(len(a), i) for i, a in enumerate(sets)])
        self.row = np.concatenate([np.arange(len(a)) for a in sets])
        self.keypoints = np.concatenate([keypoints_to_crop(a.keypoints_px, a.center_px, a.scale) for a in sets])
        beyond, seen = beyond_reach(self.keypoints), self.keypoints[..., 2] > 0
        self.keypoints[beyond] = 0
        self.usable = 2 * beyond.sum(1) <= seen.sum(1)  # where most are beyond, the crop shows something else
        crops = [crops_of(a) for a in sets]
        self.crops = Views(*(torch.cat([getattr(c, f.name) for c in crops]) for f in fields(Views)))
        self.threads = threads

    def __len__(self) -> int:
        return len(self.row)

    def load(
        self,
        pool: ThreadPoolExecutor,
        place: Place,
        indices: np.ndarray,
        seed: int,
        config: AugmentationConfig,
    ) -> LoadedBatch:
        """Reads, cuts and augments the samples.

        An unreadable image becomes a black one. It teaches nothing, and so does a crop that most keypoints are far outside.
        """
        ids = tuple(f"{self.sets[self.dataset[i]].name}:{self.row[i]}" for i in indices)
        augmentations = sample_augmentations(seed, place.epoch, ids, config)
        cuts = list(pool.map(self._cut, indices, *_per_sample(augmentations)))
        readable = np.array([not isinstance(c, str) for c in cuts])
        black = np.zeros((3, self.img_res, self.img_res), np.float32)
        images = np.stack([black if isinstance(c, str) else c for c in cuts])
        keypoints = self.keypoints[indices].copy()
        teaches = readable & self.usable[indices]
        keypoints[~teaches, :, 2] = 0
        truth, joints, joints_known = self._truth(indices, teaches)
        batch = Batch(
            sample_ids=ids,
            images=torch.from_numpy(images),
            keypoints_crop_px=torch.from_numpy(keypoints),
            augmentations=augmentations,
            truth=truth,
            joints_m=torch.from_numpy(joints),
            joints_known=torch.from_numpy(joints_known),
        )
        unreadable = tuple(c for c in cuts if isinstance(c, str))
        return LoadedBatch(place, batch, indices, self.dataset[indices], self.row[indices], readable, teaches, unreadable)

    def crop(self, sample: int) -> Float32[np.ndarray, "3 H W"]:
        """A sample's crop as the network sees it, not augmented; black if its image can't be read."""
        cut = self._cut(sample, False, 0.0, 1.0, np.ones(3, np.float32))
        return np.zeros((3, self.img_res, self.img_res), np.float32) if isinstance(cut, str) else cut

    def _cut(self, index: int, flip: bool, rotation_deg: float, scale: float, gain: np.ndarray) -> np.ndarray | str:
        annotations, row = self.sets[self.dataset[index]], int(self.row[index])
        packed, from_image = self.packed[self.dataset[index]], None
        try:
            if packed is None:
                encoded = read_encoded(annotations.image_path(row))
            else:
                found = packed.get(row)
                if isinstance(found, str):
                    return found
                encoded = Encoded.of(found.jpeg, f"{packed.path}, row {row}")
                from_image = found.from_image
            crop = crop_encoded(
                encoded,
                annotations.center_px[row],
                float(annotations.scale[row]) * scale,
                rotation_deg=rotation_deg,
                flip=flip,
                crop_px=self.img_res,
                from_image=from_image,
            )
        except (ImageError, CropsError) as error:
            return str(error)
        return normalise(crop, gain)

    def _truth(self, indices: np.ndarray, teaches: np.ndarray) -> tuple[GroundTruth, np.ndarray, np.ndarray]:
        def gather(name: str) -> np.ndarray:
            return np.stack([getattr(self.sets[self.dataset[i]], name)[self.row[i]] for i in indices])

        allowed = teaches & (not self.ignore_3d)
        truth = GroundTruth(
            torch.from_numpy(gather("pose")),
            torch.from_numpy(gather("betas")),
            torch.from_numpy(gather("has_smpl") & allowed),
        )
        return truth, gather("joints3d_m"), gather("has_joints3d") & allowed


def _per_sample(
    augmentations: Augmentations,
) -> tuple[list[bool], list[float], list[float], list[np.ndarray]]:
    a = augmentations
    return a.flip.tolist(), a.rotation_deg.tolist(), a.scale.tolist(), list(a.channel_gain.numpy())


def batches(
    data: TrainingData,
    plan: Plan,
    config: AugmentationConfig,
    *,
    first: int,
    last: int,
    pin_memory: bool = False,
) -> Iterator[LoadedBatch]:
    """The worker's batches of steps `first` (inclusive) to `last` (exclusive), prepared ahead in the background.

    `pin_memory`: images lie where a GPU can fetch them by itself.
    """

    def load(step: int) -> LoadedBatch:
        place = plan.place(step)
        loaded = data.load(decoders, place, plan.indices(place), plan.seed, config)
        if not pin_memory:
            return loaded
        return replace(loaded, batch=replace(loaded.batch, images=loaded.batch.images.pin_memory()))

    with ThreadPoolExecutor(data.threads) as decoders, ThreadPoolExecutor(1) as assembler:
        ready: deque[Future[LoadedBatch]] = deque()
        try:
            for step in range(first, last):
                while len(ready) <= _AHEAD and step + len(ready) < last:
                    ready.append(assembler.submit(load, step + len(ready)))
                yield ready.popleft().result()
        finally:
            for future in ready:
                future.cancel()
