"""The published network's crop, against the rule written out by hand, and against what is different in the plain crop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spin.crop import crop_image
from spin.errors import KeypointError
from spin.images import Encoded
from spin.published_crop import crop_by_rule, published_crop, stretch, whole_box, whole_corners
from tests.spin.natural import natural_image
from tests.spin.published_crop import bytescale, corners, padded_box, resized
from tests.spin.test_images import jpeg


def by_hand(image: np.ndarray, center_px: tuple[float, float], scale: float, crop_px: int) -> np.ndarray:
    return resized(bytescale(padded_box(image, *corners(center_px, scale, crop_px))), crop_px)


@pytest.fixture(scope="module")
def flat() -> np.ndarray:
    """A photograph in fog: grey levels from 90 to 150, none of them at the ends."""
    return (90 + natural_image(120, 160, seed=2) * (60 / 255)).astype(np.uint8)


@pytest.mark.parametrize("crop_px", [32, 64])
@pytest.mark.parametrize(
    ("center_px", "scale"),
    [
        ((70.0, 60.0), 0.5),  # inside
        ((80.5, 60.25), 0.25),  # enlarged, at fractions of a pixel
        ((10.5, 100.0), 0.5),  # over two edges
        ((-20.0, 60.0), 0.5),  # its middle outside
        ((80.0, 60.0), 1.5),  # larger than the image
        ((400.0, 400.0), 0.5),  # next to it
    ],
)
def test_it_is_the_rule_written_out(flat: np.ndarray, center_px: tuple[float, float], scale: float, crop_px: int) -> None:
    found = published_crop(flat, np.array(center_px), scale, crop_px=crop_px)
    expected = by_hand(flat, center_px, scale, crop_px)
    # Pillow's weights are whole numbers of 2**-22: a sum that is a half by a hair may be rounded to the other side.
    off = np.abs(found.astype(int) - expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 5e-3


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_stretching_is_scipys(low: int, high: int, seed: int, with_black: bool) -> None:
    low, high = sorted((low, high))
    image = np.random.default_rng(seed).integers(low, high + 1, (5, 7, 3)).astype(np.uint8)
    black = np.zeros((5, 1, 3), np.uint8)
    seen = np.concatenate([image, black], 1) if with_black else image
    assert np.array_equal(stretch(image, with_black=with_black), bytescale(seen.astype(np.float64))[:, :7])


def test_a_crop_without_contrast_is_black() -> None:
    grey = np.full((50, 50, 3), 128, np.uint8)
    assert not published_crop(grey, np.array([25.0, 25.0]), 0.2).any()


def test_a_flat_crop_is_stretched_and_one_of_black_and_white_is_not(flat: np.ndarray) -> None:
    box = np.array([70.0, 60.0]), 0.5
    plain, published = (cut(flat, *box, crop_px=50).astype(int) for cut in (crop_image, published_crop))
    assert np.abs(plain - published).max() > 50
    full = flat.copy()
    full[30, 60], full[31, 60] = 0, 255
    inside = np.s_[25:, :]  # away from those two pixels
    plain, published = (cut(full, *box, crop_px=50).astype(int)[inside] for cut in (crop_image, published_crop))
    assert np.abs(plain - published).mean() < 2


@given(
    st.floats(-500, 3000), st.floats(-500, 3000), st.floats(0.05, 20), st.sampled_from([64, 224])
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_corners_are_truncated_towards_zero(x: float, y: float, scale: float, crop_px: int) -> None:
    low, high = whole_corners(np.array([x, y]), scale, crop_px)
    for found, sign in ((low, -1), (high, 1)):
        exact = np.array([x, y]) + sign * 100 * scale
        assert (np.abs(found) <= np.abs(exact) + 1e-6).all()
        assert (np.abs(found - exact) < 1 + 1e-6).all()


def test_the_whole_box_is_that_of_the_corners() -> None:
    center, scale = whole_box(np.array([10.3, 60.7]), 0.2)  # from (-9, 40) up to (30, 80)
    assert (center.tolist(), scale) == ([10.5, 60.0], pytest.approx(39.5 / 200))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-4])
def test_a_box_without_pixels_is_refused(flat: np.ndarray, scale: float) -> None:
    with pytest.raises(KeypointError, match=r"has no area|holds no whole pixel"):
        published_crop(flat, np.array([70.5, 60.5]), scale)


def test_the_rule_chooses(flat: np.ndarray) -> None:
    encoded = Encoded.of(jpeg(flat, quality=100, subsampling=0), "flat")
    box = np.array([70.0, 60.0]), 0.5
    published, plain = (crop_by_rule(rule, encoded, *box, crop_px=50) for rule in ("published", "plain"))
    assert np.ptp(published) > 3 * np.ptp(plain)
