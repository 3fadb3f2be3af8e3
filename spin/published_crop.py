"""The crop that the published network saw: what SPIN's training, evaluation and demo made of an image and a box.

Facts from nkolot/SPIN, `utils/imutils.py`, and from SciPy before 1.3, `misc/pilutil.py`:

1. The box's corners are taken back to the image, and truncated to whole pixels towards zero. What is outside the image is 0.
2. `imresize` is given floats, and stretches them (`bytescale`): the least value of all pixels and channels becomes 0, the
   largest 255, values between are rounded. A crop without contrast becomes black.
3. Pillow's bilinear filter, in whole grey levels, brings both sides to the network's resolution, each by its own ratio.

`spin.crop` cuts the box itself, at fractions of a pixel, and leaves grey levels alone: the "plain" crop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from spin.camera import CROP_PX
from spin.crop import crop_encoded
from spin.errors import KeypointError
from spin.images import Encoded, decode

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

CROP_RULES = ("published", "plain")


def crop_by_rule(
    rule: str, encoded: Encoded, center_px: Float[np.ndarray, "2"], scale: float, *, crop_px: int = CROP_PX
) -> UInt8[np.ndarray, "P P 3"]:
    """Return a person's crop by one of `CROP_RULES`. ImageError if it can't be decoded, KeypointError for an empty box."""
    if rule == "published":
        return published_crop(decode(encoded), center_px, scale, crop_px=crop_px)
    return crop_encoded(encoded, center_px, scale, crop_px=crop_px)


def published_crop(
    image: UInt8[np.ndarray, "H W 3"], center_px: Float[np.ndarray, "2"], scale: float, *, crop_px: int = CROP_PX
) -> UInt8[np.ndarray, "P P 3"]:
    """Return the published crop of an RGB image. KeypointError if the box has no whole pixel."""
    low, high = whole_corners(center_px, scale, crop_px)
    limit = np.array(image.shape[1::-1])
    inside_low, inside_high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    part = image[inside_low[1] : inside_high[1], inside_low[0] : inside_high[0]]
    if not part.size:
        return np.zeros((crop_px, crop_px, 3), np.uint8)
    part = stretch(part, with_black=bool((low < 0).any() or (high > limit).any()))
    (left, top), (right, bottom) = inside_low - low, high - inside_high
    padded = cv2.copyMakeBorder(part, int(top), int(bottom), int(left), int(right), cv2.BORDER_CONSTANT)
    return np.asarray(Image.fromarray(padded).resize((crop_px, crop_px), Image.Resampling.BILINEAR))


def whole_corners(
    center_px: Float[np.ndarray, "2"], scale: float, crop_px: int = CROP_PX
) -> tuple[Int[np.ndarray, "2"], Int[np.ndarray, "2"]]:
    """Return the box's corners in whole pixels; the second is not included. KeypointError if nothing is between them."""
    center = np.asarray(center_px, np.float64)
    side = 200.0 * float(scale)
    if not (np.isfinite(center).all() and np.isfinite(side) and side > 0):
        raise KeypointError(f"box with centre {center_px} and scale {scale} has no area; expected a finite scale above 0")
    # By the published operations: another order of them would truncate some corners to another pixel.
    to_crop = np.eye(3)
    to_crop[[0, 1], [0, 1]] = crop_px / side
    to_crop[:2, 2] = crop_px * (-center / side + 0.5)
    to_image = np.linalg.inv(to_crop)
    low, high = ((to_image @ [corner, corner, 1.0])[:2].astype(np.int64) for corner in (0.0, float(crop_px)))
    if not (high > low).all():
        raise KeypointError(f"box with centre {center_px} and scale {scale} holds no whole pixel; expected a larger box")
    return low, high


def whole_box(center_px: Float[np.ndarray, "2"], scale: float, crop_px: int = CROP_PX) -> tuple[Float[np.ndarray, "2"], float]:
    """Return centre and scale of the box that the published crop shows, of whole pixels. KeypointError if it is empty."""
    low, high = whole_corners(center_px, scale, crop_px)
    return ((low + high) / 2).astype(np.float32), float((high - low).mean()) / 200


def stretch(image: UInt8[np.ndarray, "H W 3"], *, with_black: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """Stretch all channels' grey levels together to 0..255. `with_black`: black is among them, though not in `image`."""
    least, most = (0 if with_black else int(image.min())), int(image.max())
    table = ((np.arange(256) - least) * (255.0 / ((most - least) or 1))).clip(0, 255) + 0.5
    return cv2.LUT(image, table.astype(np.uint8))
