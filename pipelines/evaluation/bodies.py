"""The measured bodies: predicted by a network from images, or stored in a file or a fit store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from spin.camera import CROP_PX, FOCAL_PX, weak_to_translation
from spin.crop import normalise
from spin.errors import ImageError, KeypointError
from spin.images import read_encoded
from spin.network.hmr import HMR
from spin.network.inference import exact_float32, for_inference
from spin.published_crop import crop_by_rule
from spin.rotations import axis_angle_to_matrix
from store.annotations.table import Annotations

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_AHEAD = 2  # batches whose images are decoded while the network computes


@dataclass(frozen=True)
class Bodies:
    """Bodies of n rows, each seen by its crop's camera. Where `problem` is not empty, the numbers are invalid.

    `joints17_m`: Human3.6M's joints where they are given rather than regressed from the mesh.
    """

    rotations: Float[Tensor, "n 24 3 3"]
    betas: Float[Tensor, "n 10"]
    weak_camera: Float[Tensor, "n 3"]  # s (crop half-widths per metre), tx, ty (m)
    translation_m: Float[Tensor, "n 3"]
    focal_px: Float[np.ndarray, " n"]
    principal_px: Float[np.ndarray, "n 2"]
    problem: list[str]
    joints17_m: Float[Tensor, "n 17 3"] | None = None


class Source(Protocol):
    """Where bodies come from."""

    def each(self, batches: Sequence[Int[np.ndarray, " n"]]) -> Iterator[Bodies]:
        """Yield the bodies of these rows of the annotations, batch by batch."""
        ...


class NetworkBodies:
    """Predicts bodies; the next images are decoded while the network computes.

    `crop`: by which rule the network's input is cut.
    """

    def __init__(
        self, network: HMR, img_res: int, annotations: Annotations, device: torch.device, threads: int, crop: str = "plain"
    ) -> None:
        self.network = for_inference(network).to(device)
        self.img_res, self.annotations, self.device, self.crop = img_res, annotations, device, crop
        self.decoders = ThreadPoolExecutor(threads)

    def each(self, batches: Sequence[Int[np.ndarray, " n"]]) -> Iterator[Bodies]:
        waiting: deque[list[Future[np.ndarray | str]]] = deque()
        for rows in batches:
            waiting.append([self.decoders.submit(self._crop, row) for row in rows.tolist()])
            if len(waiting) > _AHEAD:
                yield self._predict([crop.result() for crop in waiting.popleft()])
        while waiting:
            yield self._predict([crop.result() for crop in waiting.popleft()])

    def _crop(self, row: int) -> np.ndarray | str:
        """Return the network's input (3, P, P), or the reason why it is missing.

        Packed crops are not used: their JPEGs differ from the images.
        """
        a = self.annotations
        try:
            encoded = read_encoded(a.image_path(row))
            crop = crop_by_rule(self.crop, encoded, a.center_px[row], float(a.scale[row]), crop_px=self.img_res)
        except (ImageError, KeypointError) as error:
            return str(error)
        return normalise(crop)

    def _predict(self, crops: list[np.ndarray | str]) -> Bodies:
        black = np.zeros((3, self.img_res, self.img_res), np.float32)
        images = torch.from_numpy(np.stack([black if isinstance(c, str) else c for c in crops]))
        images = images.to(device=self.device, memory_format=torch.channels_last)
        with torch.inference_mode(), exact_float32():
            prediction = self.network(images)
        weak = prediction.weak_camera
        return Bodies(
            prediction.rotations,
            prediction.betas,
            weak,
            weak_to_translation(weak),
            *_standard_camera(len(crops)),
            [c if isinstance(c, str) else "" for c in crops],
        )


@dataclass(frozen=True)
class StoredBodies:
    """Bodies that need no network. If `joints17_m` is None, joints are regressed from the mesh."""

    rows: Int[np.ndarray, " n"]  # ascending
    pose: Float[np.ndarray, "n 72"]
    betas: Float[np.ndarray, "n 10"]
    weak_camera: Float[np.ndarray, "n 3"]
    translation_m: Float[np.ndarray, "n 3"]
    focal_px: Float[np.ndarray, " n"]
    principal_px: Float[np.ndarray, "n 2"]
    joints17_m: Float[np.ndarray, "n 17 3"] | None = None

    @classmethod
    def with_weak_cameras(
        cls,
        rows: Int[np.ndarray, " n"],
        pose: Float[np.ndarray, "n 72"],
        betas: Float[np.ndarray, "n 10"],
        weak_camera: Float[np.ndarray, "n 3"],
        joints17_m: Float[np.ndarray, "n 17 3"] | None,
    ) -> StoredBodies:
        translation = weak_to_translation(torch.from_numpy(weak_camera)).numpy()
        return cls(rows, pose, betas, weak_camera, translation, *_standard_camera(len(rows)), joints17_m)

    def on(self, device: torch.device) -> Source:
        return _Stored(self, device)


class _Stored:
    def __init__(self, stored: StoredBodies, device: torch.device) -> None:
        self.stored, self.device = stored, device

    def each(self, batches: Sequence[Int[np.ndarray, " n"]]) -> Iterator[Bodies]:
        s = self.stored
        for rows in batches:
            at = np.searchsorted(s.rows, rows)

            def some(array: np.ndarray, at: np.ndarray = at) -> Tensor:
                return torch.from_numpy(array[at].astype(np.float32)).to(self.device)

            yield Bodies(
                axis_angle_to_matrix(some(s.pose).view(-1, 24, 3)),
                some(s.betas),
                some(s.weak_camera),
                some(s.translation_m),
                s.focal_px[at],
                s.principal_px[at],
                [""] * len(rows),
                None if s.joints17_m is None else some(s.joints17_m),
            )


def _standard_camera(count: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 2"]]:
    """Return focal length and principal point (px) of the crop's camera that networks predict for."""
    return np.full(count, FOCAL_PX), np.full((count, 2), CROP_PX / 2)
