"""Packed crops of a data set: what training needs of each person's image, in one file that it reads instead of the images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipelines.cluster.ordered_map import ordered_map
from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder
from pipelines.progress import progress
from spin.camera import CROP_PX
from spin.crop import Cutout, crop_encoded, cut_surroundings
from spin.errors import ImageError
from spin.images import Encoded, decode, read_encoded
from spin.training.augment import reach, sample_augmentations
from spin.training.config import AugmentationConfig
from store.annotations.table import Annotations
from store.crops import CropRow, MadeFor, PackedCrops, PackingSummary, write_crops
from store.errors import CropsError

if TYPE_CHECKING:
    from jaxtyping import Float32

QUALITY = 90
_COMPARED = 128  # rows whose training crops are cut from the packed crop and from the image
_ROWS = 64  # a task's


@dataclass(frozen=True)
class PackConfig:
    """What the crops must be good for, and how well they are compressed."""

    crop_px: int = CROP_PX
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    quality: int = QUALITY

    @property
    def made_for(self) -> MadeFor:
        return made_for(self.crop_px, self.augmentation)


def made_for(crop_px: int, augmentation: AugmentationConfig) -> MadeFor:
    """Return what a training with these settings asks of packed crops."""
    return MadeFor(crop_px, augmentation.scale, min(180.0, 2 * augmentation.rotation_deg))


@dataclass(frozen=True)
class _Rows:
    """A task: some rows of the annotations."""

    first: int
    image: list[str]
    center_px: Float32[np.ndarray, "n 2"]
    scale: Float32[np.ndarray, " n"]
    compared: list[int]  # places in this task


@dataclass(frozen=True)
class _Packed:
    rows: list[CropRow]
    image_bytes: dict[str, int]
    absolute: list[float]  # mean absolute difference of each row compared
    squared: list[float]


@dataclass(frozen=True)
class _Packer:
    """Packs some rows. Runs in any process."""

    root: Path
    dataset: str
    config: PackConfig

    def __call__(self, task: _Rows) -> _Packed:
        out = _Packed([], {}, [], [])
        name, encoded, image = "", None, None
        for place, box in enumerate(zip(task.center_px, task.scale.tolist())):
            try:
                if task.image[place] != name or encoded is None or image is None:
                    name, encoded, image = task.image[place], None, None
                    encoded = read_encoded(self.root / name)
                    out.image_bytes[name] = encoded.data.size
                    image = decode(encoded)  # once for all people in it, if they follow each other
            except ImageError as error:
                out.rows.append(CropRow(None, np.zeros((2, 3)), str(error)))
                continue
            augmentation = self.config.augmentation
            cut = cut_surroundings(
                image, *box, reach=reach(augmentation), box_px=self.config.crop_px / (1 - augmentation.scale)
            )
            row = self._encoded(cut)
            out.rows.append(row)
            if place in task.compared:
                difference = self._difference(encoded, row, *box, task.first + place)
                out.absolute.append(float(np.abs(difference).mean()))
                out.squared.append(float((difference**2).mean()))
        return out

    def _encoded(self, cut: Cutout) -> CropRow:
        # Pixels that were not reduced are kept in full colour: that is nearly what they came from, at few bytes more.
        reduced = cut.from_image[0, 0] < 1
        colour = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if reduced else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, self.config.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, colour]
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(cut.image, cv2.COLOR_RGB2BGR), options)[1]
        return CropRow(jpeg.tobytes(), cut.from_image)

    def _difference(self, whole: Encoded, row: CropRow, center: np.ndarray, scale: float, at: int) -> np.ndarray:
        """Return how far this row's crop of the first epoch differs between packed crop and image, in grey levels."""
        a = sample_augmentations(0, 0, [f"{self.dataset}:{at}"], self.config.augmentation)
        packed = Encoded.of(row.jpeg or b"", "packed")
        box, turn = (center, scale * a.scale.item()), a.rotation_deg.item()
        crops = [
            crop_encoded(source, *box, rotation_deg=turn, crop_px=self.config.crop_px, from_image=affine)
            for source, affine in ((packed, row.from_image), (whole, None))
        ]
        return crops[0].astype(np.float32) - crops[1]


def pack(
    data: DataFolder,
    name: str,
    config: PackConfig,
    *,
    workers: int | None = None,
    address: str | None = None,
) -> PackingSummary:
    """Pack a preprocessed data set. Raise StageError if no image could be read; an earlier file then stays."""
    annotations = Annotations.read(data.annotations(name))
    packer = _Packer(Path(annotations.image_root), name, config)
    summary: dict[str, Any] = {}
    with progress(len(annotations), f"pack {name}", "person") as bar:

        def parts() -> Iterator[list[CropRow]]:
            sizes: dict[str, int] = {}
            totals = {"unreadable": 0, "bytes": 0}
            absolute, squared, problem = [], [], ""
            root = Path(annotations.image_root)
            for done in ordered_map(packer, _tasks(annotations), workers=workers, address=address, seen=[root]):
                yield done.rows
                bar.update(len(done.rows))
                sizes |= done.image_bytes
                absolute += done.absolute
                squared += done.squared
                totals["unreadable"] += sum(r.jpeg is None for r in done.rows)
                totals["bytes"] += sum(len(r.jpeg or b"") for r in done.rows)
                problem = problem or next((r.problem for r in done.rows if r.problem), "")
            if totals["unreadable"] == len(annotations):
                raise StageError(f"{name}: no image of its {len(annotations)} rows could be read; first: {problem}")
            error = float(np.mean(squared)) if squared else 0.0
            summary.update(
                totals,
                image_bytes=sum(sizes.values()),
                quality=config.quality,
                compared=len(absolute),
                mean_absolute_difference=float(np.mean(absolute)) if absolute else 0.0,
                psnr_db=10 * math.log10(255**2 / max(error, 1e-3)),
            )

        write_crops(
            data.crops(name),
            parts(),
            summary,
            dataset=name,
            annotations=annotations.content_hash,
            rows=len(annotations),
            made_for=config.made_for,
        )
    return PackedCrops(data.crops(name)).summary


def _tasks(annotations: Annotations) -> Iterator[_Rows]:
    every = max(1, len(annotations) // _COMPARED)
    for first in range(0, len(annotations), _ROWS):
        rows = slice(first, first + _ROWS)
        images = annotations.image[rows]
        compared = [p for p in range(len(images)) if (first + p) % every == 0]
        yield _Rows(first, images, annotations.center_px[rows], annotations.scale[rows], compared)


def open_crops(data: DataFolder, name: str, annotations: Annotations, needed: MadeFor) -> PackedCrops | None:
    """Return the data set's packed crops, or None if it has none.

    Raise CropsError if they are of other annotations, UsageError if they were made for less than is needed.
    """
    path = data.crops(name)
    if not path.is_file():
        return None
    crops = PackedCrops(path)
    crops.require(annotations.content_hash)
    made = crops.made_for
    for option, has, asked in (
        ("--img-res", made.crop_px, needed.crop_px),
        ("--scale-factor", made.scale, needed.scale),
        ("--rot-factor", made.rotation_deg / 2, needed.rotation_deg / 2),
    ):
        if asked > has:
            raise UsageError(
                f"{option} {asked:g}: {path} holds crops for at most {has:g}; run `spin-pipe pack {name} {option} "
                f"{asked:g}`, or remove the file to train from the images"
            )
    return crops


def outdated(data: DataFolder, name: str) -> bool:
    """Return whether training would reject the data set's packed crops, since they are of other annotations."""
    path = data.crops(name)
    if not path.is_file():
        return False
    try:
        PackedCrops(path).require(Annotations.read(data.annotations(name)).content_hash)
    except CropsError:
        return True
    return False
