"""Crops from files that are decoded only as far as needed, against whole ones and against the published cut and filter.

The published crop also stretches grey levels, which these do not: tests/spin/test_published_crop.py.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from spin import images
from spin.crop import IMAGE_MEAN, IMAGE_STD, crop_encoded, crop_image, normalise
from spin.errors import ImageError
from spin.images import Encoded, decode, decode_part, jpeg_header, read_encoded, read_image
from spin.world import World
from tests.spin.natural import natural_image
from tests.spin.published_crop import Box, unstretched_crop

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "coco_sample"
LIMIT = 2.0  # grey levels, mean absolute difference


def jpeg(image: np.ndarray, **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", **{"quality": 90, **options})
    return content.getvalue()


def difference(encoded: Encoded, box: Box, crop_px: int = 224) -> float:
    """Mean absolute difference of our crop of the box to one that is cut and resized as published, from the whole image."""
    ours = crop_encoded(encoded, box.center_px, box.scale, crop_px=crop_px)
    return float(np.abs(ours - unstretched_crop(decode(encoded), box, crop_px)).mean())


@pytest.fixture(scope="module")
def noise() -> Encoded:
    return Encoded.of(jpeg(natural_image(1500, 1800, seed=1)), "noise")


@pytest.mark.parametrize("shrink", [0.8, 1.0, 1.15, 1.3, 1.6, 2.0, 2.25, 3.1, 4.5, 6.0])
def test_the_crop_of_a_natural_spectrum_is_cut_and_resized_as_published(noise: Encoded, shrink: float) -> None:
    """1/f noise, at all scales that a JPEG can be decoded at."""
    box = Box.of(np.array([901.3, 740.8]), shrink * 224.5 / 200)
    assert difference(noise, box) <= LIMIT


def test_a_crop_over_the_images_edge_is_cut_and_resized_as_published(noise: Encoded) -> None:
    for center_px, scale in (((150.5, 300.2), 4.0), ((1700.0, 1480.0), 3.0), ((905.0, 750.0), 12.0)):
        assert difference(noise, Box.of(np.array(center_px), scale)) <= LIMIT


def test_crops_of_the_world_are_cut_and_resized_as_published(body, mesh, prior) -> None:
    world = World(body, mesh, prior)
    for index in range(4):
        picture = world.picture(3, index)
        encoded = Encoded.of(picture.jpeg(), f"picture {index}")
        for person in picture.people:
            low, high = person.keypoints_px.min(0), person.keypoints_px.max(0)
            box = Box.of((low + high) / 2, 1.2 * float((high - low).max()) / 200)
            for crop_px in (224, 96):
                assert difference(encoded, box, crop_px) <= LIMIT


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs are not part of the project")
def test_crops_of_photographs_are_cut_and_resized_as_published() -> None:
    content = json.loads((PHOTOGRAPHS / "annotations/person_keypoints_train2014.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    differences = []
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        box = Box.of(np.array([x + width / 2, y + height / 2]), 1.2 * max(width, height) / 200)
        encoded = read_encoded(PHOTOGRAPHS / "train2014" / names[annotation["image_id"]])
        differences.append(difference(encoded, box))
    assert len(differences) > 10
    assert max(differences) <= LIMIT


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_cut_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = Encoded.of(jpeg(natural_image(403, 517, seed=2), exif=exif), "turned")
    upright = decode(encoded)
    assert upright.shape[:2] == ((403, 517) if orientation < 5 else (517, 403))
    for center_px, scale, rotation_deg in (((100.3, 90.2), 0.9, 0.0), ((250.0, 200.0), 0.6, 25.0)):
        box, how = (np.array(center_px), scale), {"rotation_deg": rotation_deg, "flip": True}
        whole = crop_image(upright, *box, **how).astype(int)
        assert np.abs(crop_encoded(encoded, *box, **how) - whole).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_and_reduced_photograph_is_in_its_place(orientation: int) -> None:
    """Reduced by 4, sizes of 403 and 517 leave part of a block at one edge, and the tag says which."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = np.zeros((403, 517, 3), np.uint8)
    cv2.circle(image, (211, 187), 60, (255, 255, 255), -1, cv2.LINE_AA)
    encoded = Encoded.of(jpeg(image, exif=exif), "turned")
    assert decode_part(encoded, np.array([[0.0, 0], [517, 517]]), 5.0).image.shape == (101, 130, 3)
    box, places = (np.array([200.0, 210.0]), 1.8), []
    for crop in (crop_encoded(encoded, *box, crop_px=64), crop_image(decode(encoded), *box, crop_px=64)):
        weight = crop[..., 0].astype(float)
        rows, columns = np.indices(weight.shape)
        places.append(np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum())
    assert np.abs(places[0] - places[1]).max() < 0.03  # of the crop's pixels: 0.17 of the image's


def test_stopping_at_the_last_row_needed_changes_nothing(noise: Encoded, monkeypatch, capfd) -> None:
    crops = {}
    for stop in (True, False):
        if not stop:
            whole = images.jpeg_header(noise.data)
            monkeypatch.setattr(images, "jpeg_header", lambda _, w=whole: type(w)(**{**vars(w), "rows_in_order": False}))
        crops[stop] = [
            crop_encoded(noise, np.array([700.2, at]), scale, rotation_deg=rotation_deg)
            for at in (100.0, 533.3, 900.0)
            for scale in (0.7, 2.0, 4.1)
            for rotation_deg in (0.0, 33.0)
        ]
        rows = decode_part(noise, np.array([[0.0, 0], [100, 500]]), 1.0).image.shape[0]
        assert rows == (528 if stop else 1500)
    assert all(np.array_equal(a, b) for a, b in zip(crops[True], crops[False]))
    assert capfd.readouterr() == ("", "")  # decoders like to complain about what they were not to read


def test_other_kinds_of_files_give_the_same_crop(tmp_path: Path) -> None:
    image = natural_image(300, 400, seed=3)
    box = (np.array([180.5, 160.0]), 1.1)
    for name, options in (("progressive", {"progressive": True}), ("restarts", {"restart_marker_rows": 1})):
        encoded = Encoded.of(jpeg(image, **options), name)
        assert np.array_equal(crop_encoded(encoded, *box), crop_image(decode(encoded), *box)), name
    for name in ("a.png", "a.webp", "a.bmp"):
        Image.fromarray(image).save(tmp_path / name)
        crop = crop_encoded(read_encoded(tmp_path / name), *box)
        assert np.array_equal(crop, crop_image(read_image(tmp_path / name), *box)), name
    for mode in ("L", "CMYK"):
        content = io.BytesIO()
        Image.fromarray(image).convert(mode).save(content, "JPEG", quality=95)
        encoded = Encoded.of(content.getvalue(), mode)
        assert np.array_equal(crop_encoded(encoded, *box), crop_image(decode(encoded), *box)), mode


def test_a_box_beside_the_image_is_black() -> None:
    encoded = Encoded.of(jpeg(natural_image(100, 100, seed=4)), "small")
    for at in ((-500.0, 50.0), (50.0, 900.0), (1e6, 1e6)):
        assert not crop_encoded(encoded, np.array(at), 1.0).any()


def test_damaged_files_are_an_image_or_one_line() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    good = jpeg(natural_image(64, 80, seed=5), exif=exif)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        data = bytearray(good)
        for at in rng.integers(0, min(len(data), 700), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        if rng.random() < 0.3:
            del data[rng.integers(len(data)) :]
        encoded = Encoded.of(bytes(data), "damaged.jpg")
        header = jpeg_header(encoded.data)
        if header is not None and header.width * header.height > 1 << 22:
            continue  # a huge size is no damage, it only takes long
        try:
            crop = crop_encoded(encoded, np.array([40.0, 30.0]), 0.3, crop_px=32)
            assert crop.shape == (32, 32, 3)
        except ImageError as error:
            refused += 1
            assert str(error).startswith("image damaged.jpg: can't be decoded")
    assert refused > 100


def test_normalising_by_table_is_the_formula() -> None:
    crop = natural_image(40, 40, seed=6)
    for gain in (None, np.array([0.6, 1.0, 1.4])):
        x = crop.astype(np.float32) / 255.0
        if gain is not None:
            x = np.clip(x * gain.astype(np.float32), 0.0, 1.0)
        expected = ((x - IMAGE_MEAN) / IMAGE_STD).transpose(2, 0, 1)
        assert np.array_equal(normalise(crop, gain), expected)


def test_mirrored_is_the_crop_from_right_to_left(noise: Encoded) -> None:
    box = (np.array([600.0, 600.0]), 2.2)
    plain, mirrored = (crop_encoded(noise, *box, rotation_deg=10.0, flip=f) for f in (False, True))
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert cv2.mean(plain)[0] > 50
