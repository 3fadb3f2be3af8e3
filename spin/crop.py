"""From the image to the 224 px crop that everything is fitted and learnt in, and back.

A person's box is a square of side 200 × scale px around `center` (SPIN's convention). Crop coordinates are continuous: the
box's edges are 0 and 224, sub-pixel positions are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spin.camera import CROP_PX, FOCAL_PX
from spin.errors import ImageError, KeypointError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

IMAGE_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet's, RGB
IMAGE_STD = np.array([0.229, 0.224, 0.225], np.float32)
BOX_MARGIN = 1.2  # published enlargement of an annotated box


def box_to_center_scale(
    box_xywh: Float[np.ndarray, "4"], margin: float = BOX_MARGIN
) -> tuple[np.ndarray, float]:
    """Centre (px) and scale (side / 200 px) of the square around an [x, y, width, height] box, enlarged by `margin`."""
    x, y, width, height = (float(v) for v in box_xywh)
    return np.array([x + width / 2, y + height / 2], np.float32), margin * max(width, height) / 200


def crop_affine(
    center_px: Float[np.ndarray, "2"], scale: float, rotation_deg: float = 0.0, crop_px: int = CROP_PX
) -> Float[np.ndarray, "2 3"]:
    """Affine (float64) from image pixels to crop pixels; the image is turned by `rotation_deg` (p -> R p, y down)."""
    if not (np.isfinite(scale) and scale > 0 and np.all(np.isfinite(center_px))):
        raise KeypointError(
            f"box with centre {center_px} and scale {scale} has no area; expected a finite scale above 0"
        )
    zoom = crop_px / (200.0 * scale)
    angle = np.deg2rad(rotation_deg)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = crop_px / 2 - turn @ np.asarray(center_px, np.float64)
    return np.concatenate([turn, offset[:, None]], 1)


def keypoints_to_crop(
    keypoints_px: Float[np.ndarray, "N J 3"],
    center_px: Float[np.ndarray, "N 2"],
    scale: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "N J 3"]:
    """Keypoints of the images in the pixels of each person's 224 px crop; confidences are kept.

    A box without area gives coordinates that are no numbers.
    """
    out = np.array(keypoints_px, np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        zoom = CROP_PX / (200.0 * np.asarray(scale, np.float64))
        out[..., :2] = (out[..., :2] - center_px[:, None]) * zoom[:, None, None] + CROP_PX / 2
    return out


def crop_camera(
    center_px: Float[np.ndarray, "N 2"],
    scale: Float[np.ndarray, " N"],
    focal_px: Float[np.ndarray, " N"],
    principal_px: Float[np.ndarray, "N 2"],
    known: Bool[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N 2"]]:
    """Focal length and principal point of each person's crop, px: the image's own where known, else SPIN's constants.

    Cutting and zooming an image changes its camera's numbers in the same way as its pixels; rays and depths stay.
    """
    zoom = CROP_PX / (200.0 * np.asarray(scale, np.float64))
    focal = np.where(known, focal_px * zoom, FOCAL_PX)
    principal = (principal_px - center_px) * zoom[:, None] + CROP_PX / 2
    return focal.astype(np.float32), np.where(known[:, None], principal, CROP_PX / 2).astype(np.float32)


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """An 8-bit RGB image, upright as its EXIF tag says. ImageError if there is none or it can't be decoded."""
    file = Path(path)
    if not file.is_file():
        raise ImageError(f"image {file}: no such file; check the data set's image root (--root)")
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise ImageError(f"image {file}: {error.strerror}") from error
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # more pixels than OpenCV allows
        image = None
    if image is None:
        raise ImageError(
            f"image {file}: can't be decoded ({data.size} bytes); expected a JPEG or PNG, replace the file"
        )
    return np.ascontiguousarray(image[..., ::-1])


def crop_image(
    image: UInt8[np.ndarray, "H W 3"],
    center_px: Float[np.ndarray, "2"],
    scale: float,
    *,
    rotation_deg: float = 0.0,
    flip: bool = False,
    crop_px: int = CROP_PX,
) -> UInt8[np.ndarray, "P P 3"]:
    """The person's box, turned, resampled to crop_px² and then mirrored; black outside the image.

    Where the box shrinks to half or less, the image is first reduced by area averaging, against aliasing.
    """
    affine = crop_affine(center_px, scale, rotation_deg, crop_px)
    shrink = int(200.0 * scale / crop_px)
    if shrink >= 2:
        small_size = (max(1, image.shape[1] // shrink), max(1, image.shape[0] // shrink))
        ratio = np.array([small_size[0] / image.shape[1], small_size[1] / image.shape[0]])
        image = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
        affine = affine @ np.array([[1 / ratio[0], 0, 0], [0, 1 / ratio[1], 0], [0, 0, 1]])
    # warpAffine's pixel centres are whole numbers, ours are halves.
    affine[:, 2] += affine[:, :2] @ [0.5, 0.5] - 0.5
    out = cv2.warpAffine(
        image, affine, (crop_px, crop_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return np.ascontiguousarray(out[:, ::-1]) if flip else out


def normalise(
    crop: UInt8[np.ndarray, "P P 3"], channel_gain: Float[np.ndarray, "3"] | None = None
) -> np.ndarray:
    """Network input (3, P, P), float32: RGB in [0, 1], scaled by gains and clipped, then ImageNet's statistics."""
    x = crop.astype(np.float32) / 255.0
    if channel_gain is not None:
        x = np.clip(x * np.asarray(channel_gain, np.float32), 0.0, 1.0)
    return np.ascontiguousarray(((x - IMAGE_MEAN) / IMAGE_STD).transpose(2, 0, 1))
