"""From the image to the 224 px crop that everything is fitted and learnt in, and back.

A person's box is a square of side 200 × scale px around `center` (SPIN's convention). Crop coordinates are continuous: the
box's edges are 0 and 224, sub-pixel positions are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spin.camera import CROP_PX, FOCAL_PX, REACH_PX
from spin.errors import KeypointError
from spin.images import Encoded, decode_part

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

IMAGE_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet's, RGB
IMAGE_STD = np.array([0.229, 0.224, 0.225], np.float32)
BOX_MARGIN = 1.2  # published enlargement of an annotated box
KEYPOINTS_TO_BOX = 1.15
"""A person's box by their keypoints' extent: joints end at the eyes and ankles. Of people annotated with both, the median is
1.13 in the embedded world and 1.2 in COCO. The box is then enlarged by the published 1.2, as every box is."""
SURE = 0.2  # of a detection: the published demo's threshold for a keypoint that shapes the box
SHARP = 1.1
"""Pixels across, at least, that are decoded for one of the crop: at exactly one, what a JPEG's scaled decoding leaves out
begins to show."""
_TO_CENTRES, _FROM_CENTRES = np.array([[1, 0, -0.5], [0, 1, -0.5]]), np.array([[1, 0, 0.5], [0, 1, 0.5]])
_BLOCK_PX = 16  # of a JPEG, where colours are stored at half resolution
_MARGIN_PX = 3  # of the image around what is seen, for blurring and sampling


def box_to_center_scale(box_xywh: Float[np.ndarray, "4"], margin: float = BOX_MARGIN) -> tuple[np.ndarray, float]:
    """Centre (px) and scale (side / 200 px) of the square around an [x, y, width, height] box, enlarged by `margin`."""
    x, y, width, height = (float(v) for v in box_xywh)
    return np.array([x + width / 2, y + height / 2], np.float32), margin * max(width, height) / 200


def box_around_keypoints(keypoints_px: Float[np.ndarray, "49 3"]) -> Float[np.ndarray, "4"]:
    """Return [x, y, width, height] around the certain keypoints, around all if fewer than three are; see KEYPOINTS_TO_BOX."""
    sure = keypoints_px[:, 2] > SURE
    points = keypoints_px[sure if sure.sum() >= 3 else keypoints_px[:, 2] > 0, :2]
    low, high = points.min(0), points.max(0)
    size = KEYPOINTS_TO_BOX * (high - low)
    return np.concatenate([(low + high - size) / 2, size])


def crop_affine(
    center_px: Float[np.ndarray, "2"], scale: float, rotation_deg: float = 0.0, crop_px: int = CROP_PX
) -> Float[np.ndarray, "2 3"]:
    """Affine (float64) from image pixels to crop pixels; the image is turned by `rotation_deg` (p -> R p, y down)."""
    if not (np.isfinite(scale) and scale > 0 and np.all(np.isfinite(center_px))):
        raise KeypointError(f"box with centre {center_px} and scale {scale} has no area; expected a finite scale above 0")
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


def beyond_reach(keypoints_crop_px: Float[np.ndarray, "N J 3"]) -> Bool[np.ndarray, "N J"]:
    """Return which keypoints are seen, but further outside their crop than REACH_PX."""
    xy = keypoints_crop_px[..., :2]
    with np.errstate(invalid="ignore"):
        return (keypoints_crop_px[..., 2] > 0) & ~((xy >= -REACH_PX) & (xy <= CROP_PX + REACH_PX)).all(-1)


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


def crop_image(
    image: UInt8[np.ndarray, "H W 3"],
    center_px: Float[np.ndarray, "2"],
    scale: float,
    *,
    rotation_deg: float = 0.0,
    flip: bool = False,
    crop_px: int = CROP_PX,
) -> UInt8[np.ndarray, "P P 3"]:
    """The person's box, turned, resampled to crop_px² and then mirrored; black outside the image."""
    affine = crop_affine(center_px, scale, rotation_deg, crop_px)
    out = resample(image, affine, (crop_px, crop_px))
    return cv2.flip(out, 1) if flip else out


def crop_encoded(
    encoded: Encoded,
    center_px: Float[np.ndarray, "2"],
    scale: float,
    *,
    rotation_deg: float = 0.0,
    flip: bool = False,
    crop_px: int = CROP_PX,
    from_image: Float[np.ndarray, "2 3"] | None = None,
) -> UInt8[np.ndarray, "P P 3"]:
    """As `crop_image`, of an RGB image that is decoded only as far as the crop needs. ImageError if it can't be.

    `from_image`: where `encoded` is but a part of the image that `center_px` and `scale` speak of, the affine from that
    image's pixels to the part's.
    """
    affine = crop_affine(center_px, scale, rotation_deg, crop_px)
    if from_image is not None:
        affine = compose(affine, inverted(from_image))
    out = resample_encoded(encoded, affine, (crop_px, crop_px))
    return cv2.flip(out, 1) if flip else out


@dataclass(frozen=True)
class Cutout:
    """Part of an image (RGB), and the affine to its pixels from the image's (continuous, px)."""

    image: UInt8[np.ndarray, "h w 3"]
    from_image: Float[np.ndarray, "2 3"]


def cut_surroundings(
    image: UInt8[np.ndarray, "H W 3"],
    center_px: Float[np.ndarray, "2"],
    scale: float,
    *,
    reach: float,
    box_px: float,
) -> Cutout:
    """The part of the image within `reach` box sides around the person, reduced so that the box is `box_px` wide.

    Never enlarged: a smaller box keeps its pixels as they are.
    """
    side = 200.0 * scale
    half = side * reach / 2 + _MARGIN_PX * max(1.0, side / box_px)
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(center_px - half), 0, limit - 1).astype(int)
    high = np.maximum(np.clip(np.ceil(center_px + half), 0, limit).astype(int), low + 1)
    if side <= box_px:
        # On the grid of the blocks it came in, a JPEG can be compressed again at less loss.
        low -= low % _BLOCK_PX
    part = image[low[1] : high[1], low[0] : high[0]]
    if side > box_px:
        width, height = np.ceil((high - low) * box_px / side).astype(int).tolist()
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    zoom = np.array(part.shape[1::-1]) / (high - low)
    return Cutout(part, np.concatenate([np.diag(zoom), (-zoom * low)[:, None]], 1))


def resample_encoded(encoded: Encoded, affine: Float[np.ndarray, "2 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """`resample` of an image that is decoded only as far as needed. ImageError if it can't be decoded."""
    pixels = decode_part(encoded, _seen_corners(affine, size), _shrink(affine) / SHARP)
    return resample(pixels.image, compose(affine, inverted(pixels.from_upright)), size)


def resample(
    image: UInt8[np.ndarray, "H W 3"], affine: Float[np.ndarray, "2 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image as the affine maps it (image px to those of the result, continuous) onto `size` (width, height).

    Where it shrinks it is blurred as much as the published resize does, whose triangular filter grows with the shrinkage
    (Pillow's bilinear): reduced by area averaging first, if far too large, then a Gaussian and one bilinear sampling.
    """
    corners = _seen_corners(affine, size)
    low = np.maximum(np.floor(corners.min(0)).astype(int) - _MARGIN_PX, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + _MARGIN_PX, image.shape[1::-1])
    if (low >= high).any():
        return np.zeros((size[1], size[0], 3), np.uint8)
    image = image[low[1] : high[1], low[0] : high[0]]
    affine = compose(affine, np.array([[1, 0, low[0]], [0, 1, low[1]]]))
    reduce = int(_shrink(affine) / SHARP)
    if reduce >= 2:
        small_size = tuple(max(1, side // reduce) for side in image.shape[1::-1])
        ratio = np.array(image.shape[1::-1]) / small_size
        image = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
        affine = affine * [*ratio, 1]
    shrink = _shrink(affine)
    if shrink > 1:
        # Best agreement with the published filter on photographs, found by trial, for shrinkages of 1 to 2.2.
        image = cv2.GaussianBlur(image, (5, 5), float(np.sqrt(0.1 + 0.4 * (shrink - 1))))
    # warpAffine's pixel centres are whole numbers, ours are halves.
    affine = compose(_TO_CENTRES, compose(affine, _FROM_CENTRES))
    return cv2.warpAffine(image, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def compose(second: Float[np.ndarray, "2 3"], first: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    """The affine that does `first`, then `second`."""
    # By hand: for six numbers a call of numpy costs ten times what it computes, and loading makes dozens.
    (a, b, c), (d, e, f) = second.tolist()
    (p, q, r), (s, t, u) = first.tolist()
    return np.array([[a * p + b * s, a * q + b * t, a * r + b * u + c], [d * p + e * s, d * q + e * t, d * r + e * u + f]])


def inverted(affine: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    """The affine back."""
    (a, b, c), (d, e, f) = affine.tolist()
    area = a * e - b * d
    return np.array([[e / area, -b / area, (b * f - c * e) / area], [-d / area, a / area, (c * d - a * f) / area]])


def _shrink(affine: Float[np.ndarray, "2 3"]) -> float:
    """How many pixels across become one."""
    (a, b, _), (d, e, _) = affine.tolist()
    return abs(a * e - b * d) ** -0.5


def _seen_corners(affine: Float[np.ndarray, "2 3"], size: tuple[int, int]) -> Float[np.ndarray, "4 2"]:
    """Corners of the result in the image, px; a little more, for what blurring and sampling draw on."""
    back = inverted(affine)
    edge = 2.0
    xs, ys = (-edge, size[0] + edge), (-edge, size[1] + edge)
    return np.array([[x, y] for x in xs for y in ys]) @ back[:, :2].T + back[:, 2]


def normalise(crop: UInt8[np.ndarray, "P P 3"], channel_gain: Float[np.ndarray, "3"] | None = None) -> np.ndarray:
    """Network input (3, P, P), float32: RGB in [0, 1], scaled by gains and clipped, then ImageNet's statistics."""
    # A table of what becomes of each of the 256 values: seven times faster than computing it for each pixel.
    values = (np.arange(256, dtype=np.float32) / 255.0)[:, None]
    if channel_gain is not None:
        values = np.clip(values * np.asarray(channel_gain, np.float32), 0.0, 1.0)
    table = np.ascontiguousarray(((values - IMAGE_MEAN) / IMAGE_STD).T)
    out = np.empty((3, *crop.shape[:2]), np.float32)
    for channel, plane in enumerate(cv2.split(crop)):
        cv2.LUT(plane, table[channel], out[channel])
    return out
