"""How fast training's crops are loaded, against the published way in the same run, and raw annotations are read. One JSON line.

    python -m tools.bench.data [--images 24] [--annotations 20000] [--plain]

Images have photographs' spectrum (1/f^1.2) and are JPEGs of quality 90 (bits_per_pixel says how much that is; COCO's
photographs have 2 to 3.5). Their people are half as tall as they are, give or take a fifth. Both sides load the same
samples with the same augmentations (--plain: none) on two threads, in turns; figures are medians. The published way is
SPIN's: cv2.imread of everything, a float32 copy, scipy.misc.imrotate and imresize of the padded box (with their stretch
to 0..255), colour gains, normalisation; done with Pillow and numpy, as theirs is.

floor_decode_ms, floor_resample_ms, floor_normalise_ms: what a crop of a 2048² image in place takes, in CPU time of one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from pipelines.folders import DataFolder
from pipelines.preprocessing.pack import PackConfig, made_for, open_crops, pack
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.training.batch_plan import Place
from pipelines.training.loading import TrainingData
from spin.crop import IMAGE_MEAN, IMAGE_STD, SHARP, crop_affine, normalise, resample, resample_encoded
from spin.images import decode_part, read_encoded
from spin.joints import COCO_NAMES, JOINTS
from spin.training.augment import sample_augmentations
from spin.training.config import AugmentationConfig
from store.annotations.table import Annotations

SIZES = {"640": (480, 640), "1000": (1000, 1000), "2048": (2048, 2048)}
THREADS = 2
_PEOPLE_PER_IMAGE = 2  # in the annotations that are read: COCO has 1.7


def natural_image(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with the spectrum of photographs, BGR."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def channel() -> np.ndarray:
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.2
        values = np.fft.irfft2(spectrum, (height, width))
        return 25 * values / values.std()

    light, red, blue = channel(), channel() / 4, channel() / 4
    bgr = np.stack([light + blue, light - red / 2 - blue / 2, light + red], -1) + 118
    return np.clip(np.round(bgr), 0, 255).astype(np.uint8)


# ---- the published way ------------------------------------------------------------------------------------------------


def stretched(image: np.ndarray) -> np.ndarray:
    """As scipy.misc did before it resized or turned what is not uint8: the values' range becomes 0..255."""
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    return (((image - low) * (255.0 / ((high - low) or 1.0))).clip(0, 255) + 0.5).astype(np.uint8)


def published_sample(
    path: Path, center_px: np.ndarray, scale: float, rotation_deg: float, flip: bool, gains: np.ndarray
) -> torch.Tensor:
    """A training image, (3, 224, 224), by the operations of SPIN's BaseDataset."""
    bgr = cv2.imread(str(path))
    assert bgr is not None
    image = bgr[:, :, ::-1].copy().astype(np.float32)
    low, high = (np.array([int(c + sign * 100 * scale) for c in center_px]) for sign in (-1, 1))
    padding = int(np.linalg.norm(high - low) / 2 - float(high[1] - low[1]) / 2) if rotation_deg else 0
    low, high = low - padding, high + padding
    box = np.zeros((high[1] - low[1], high[0] - low[0], 3))
    first, last = np.maximum(low, 0), np.minimum(high, image.shape[1::-1])
    seen, place = (
        (slice(a, b) for a, b in zip(first, last)),
        (slice(a, b) for a, b in zip(first - low, last - low)),
    )
    (columns, rows), (into_columns, into_rows) = seen, place
    box[into_rows, into_columns] = image[rows, columns]
    if rotation_deg:
        box = np.asarray(Image.fromarray(stretched(box)).rotate(-rotation_deg, Image.Resampling.BILINEAR))
        box = box[padding:-padding, padding:-padding] if padding else box
    crop = np.array(Image.fromarray(stretched(box)).resize((224, 224), Image.Resampling.BILINEAR))
    crop = np.fliplr(crop) if flip else crop
    coloured = np.empty(crop.shape, np.uint8)
    for c in range(3):
        coloured[:, :, c] = np.minimum(255.0, np.maximum(0.0, crop[:, :, c] * gains[c]))
    x = torch.from_numpy(np.transpose(coloured.astype(np.float32), (2, 0, 1)) / 255.0)
    return (x - torch.from_numpy(IMAGE_MEAN)[:, None, None]) / torch.from_numpy(IMAGE_STD)[:, None, None]


# ---- loading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """Images on disk, a person in each, as annotations."""

    data: DataFolder
    annotations: Annotations
    bits_per_pixel: float


def scenes(folder: Path, name: str, count: int) -> Scenes:
    """`count` rows over a quarter as many images, so that drawing them doesn't take longer than measuring."""
    height, width = SIZES[name]
    rng = np.random.default_rng(0)
    root = folder / f"images-{name}"
    root.mkdir(parents=True)
    drawn = [f"{i}.jpg" for i in range(max(1, count // 4))]
    for image in drawn:
        cv2.imwrite(str(root / image), natural_image(height, width, rng), [cv2.IMWRITE_JPEG_QUALITY, 90])
    bits = 8 * np.mean([(root / image).stat().st_size for image in drawn]) / (height * width)
    side = height * rng.uniform(0.4, 0.6, count)
    center = rng.uniform(0.4, 0.6, (count, 2)) * (width, height)
    annotations = Annotations(
        name=name,
        image_root=str(root),
        image=[drawn[i % len(drawn)] for i in range(count)],
        center_px=center.astype(np.float32),
        scale=(side / 200).astype(np.float32),
        keypoints_px=np.zeros((count, JOINTS.count, 3), np.float32),
        source=[str(i) for i in range(count)],
        openpose_match=[""] * count,
    )
    data = DataFolder(folder / "data")
    annotations.write(data.annotations(name))
    return Scenes(data, annotations, float(bits))


def loading(folder: Path, name: str, count: int, runs: int, augmentation: AugmentationConfig) -> dict[str, float]:
    """Samples a second of one image size: the published way, in place, packed; and the ratios."""
    made = scenes(folder, name, count)
    with redirect_stderr(StringIO()):
        pack(made.data, name, PackConfig(), workers=1)
    crops = open_crops(made.data, name, made.annotations, made_for(224, augmentation))
    ids = tuple(f"{name}:{row}" for row in range(count))
    a = sample_augmentations(0, 0, ids, augmentation)
    ann = made.annotations

    def published(row: int) -> torch.Tensor:
        scale = float(ann.scale[row]) * a.scale[row].item()
        turn, flip = a.rotation_deg[row].item(), bool(a.flip[row])
        return published_sample(ann.image_path(row), ann.center_px[row], scale, turn, flip, a.channel_gain[row].numpy())

    with ThreadPoolExecutor(THREADS) as pool:

        def theirs() -> object:
            return torch.stack(list(pool.map(published, range(count))))

        def ours(data: TrainingData) -> Callable[[], object]:
            return lambda: data.load(pool, Place(0, 0), np.arange(count), 0, augmentation).batch.images

        def of(packed: bool) -> TrainingData:
            return TrainingData([ann], img_res=224, ignore_3d=False, packed=[crops if packed else None])

        seconds = in_turns([theirs, ours(of(False)), ours(of(True))], runs)
    rates = [count / s for s in seconds]
    return {
        f"published_per_s_{name}": rates[0],
        f"samples_per_s_{name}": rates[1],
        f"packed_samples_per_s_{name}": rates[2],
        f"load_ratio_{name}": rates[1] / rates[0],
        f"packed_ratio_{name}": rates[2] / rates[0],
        f"bits_per_pixel_{name}": made.bits_per_pixel,
    }


def in_turns(works: list[Callable[[], object]], runs: int) -> list[float]:
    """Median seconds of each, measured in turns so that a busy moment of the machine hits all; a first turn doesn't count."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(runs + 1):
        for work, measured in zip(works, times):
            begin = time.perf_counter()
            work()
            if turn:
                measured.append(time.perf_counter() - begin)
    return [statistics.median(measured) for measured in times]


def floor(folder: Path, runs: int) -> dict[str, float]:
    """CPU milliseconds of the parts of one crop in place, of a 2048² image."""
    root = folder / "images-2048"
    encoded = read_encoded(next(iter(sorted(root.glob("*.jpg")))))
    affine = crop_affine(np.array([1024.0, 1024.0]), 1024 / 200)
    corners = np.array([[500.0, 500.0], [1548.0, 1548.0]])
    pixels = decode_part(encoded, corners, 1024 / 224 / SHARP)
    reduced = crop_affine(np.array([256.0, 256.0]), 256 / 200)
    crop = resample_encoded(encoded, affine, (224, 224))
    parts: dict[str, Callable[[], object]] = {
        "decode": lambda: decode_part(encoded, corners, 1024 / 224 / SHARP),
        "resample": lambda: resample(pixels.image, reduced, (224, 224)),
        "normalise": lambda: normalise(crop, np.ones(3, np.float32)),
    }
    out = {}
    for name, work in parts.items():
        times = []
        for _ in range(3 * runs):
            begin = time.thread_time()
            work()
            times.append(time.thread_time() - begin)
        out[f"floor_{name}_ms"] = 1e3 * statistics.median(times)
    return out


# ---- annotations --------------------------------------------------------------------------------------------------------


# Someone who stands before the camera, in COCO's order: readers look at whether keypoints are a person's.
_STANDING_PX = np.array(
    [(32, 6), (34, 5), (30, 5), (36, 6), (28, 6), (39, 12), (25, 12), (42, 19), (22, 19), (43, 25), (21, 25), (36, 25),
     (28, 25), (36, 34), (28, 34), (36, 42), (28, 42)]
)  # fmt: skip


def raw_coco(folder: Path, people: int, *, openpose: bool) -> Path:
    """A COCO tree of people in small images; with OpenPose, a file of detections an image."""
    rng = np.random.default_rng(0)
    root = folder / f"coco-{'openpose' if openpose else 'plain'}"
    pictures = root / "train2014"
    (root / "annotations").mkdir(parents=True)
    pictures.mkdir()
    jpeg = cv2.imencode(".jpg", natural_image(48, 64, rng))[1].tobytes()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(-(-people // _PEOPLE_PER_IMAGE)):
        name = f"COCO_train2014_{image_id:012d}.jpg"
        (pictures / name).write_bytes(jpeg)
        images.append({"id": image_id, "file_name": name, "width": 64, "height": 48})
        seen = []
        for _ in range(_PEOPLE_PER_IMAGE):
            xy = (_STANDING_PX + rng.uniform(-1, 1, _STANDING_PX.shape)).round(1)
            seen.append(xy)
            keypoints = np.concatenate([xy, np.full((len(xy), 1), 2)], 1).ravel().tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0,
                    "bbox": [18, 3, 28, 41], "num_keypoints": len(xy), "keypoints": keypoints,
                }
            )  # fmt: skip
        if openpose:
            write_openpose(root / "openpose" / "train2014" / f"{Path(name).stem}_keypoints.json", seen)
    document = {"images": images, "annotations": annotations[:people]}
    (root / "annotations" / "person_keypoints_train2014.json").write_text(json.dumps(document))
    return root


def write_openpose(path: Path, people: list[np.ndarray]) -> None:
    """BODY_25, with each of COCO's joints where it is annotated."""
    detected = np.zeros((len(people), 25, 3))
    for index, name in enumerate(COCO_NAMES):
        joint = JOINTS.index[f"OpenPose {name}"]
        detected[:, joint, :2] = [xy[index] for xy in people]
        detected[:, joint, 2] = 0.9
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{"pose_keypoints_2d": d.ravel().round(3).tolist()} for d in detected]
    path.write_text(json.dumps({"version": 1.3, "people": found}))


def rows_per_s(folder: Path, people: int, *, openpose: bool) -> float:
    root = raw_coco(folder, people, openpose=openpose)
    options = ReaderOptions("train2014", min_body_joints=12)
    with redirect_stderr(StringIO()):
        begin = time.perf_counter()
        done = preprocess(DataFolder(folder / "data"), DATASETS["coco"], root, root.name, options)
        seconds = time.perf_counter() - begin
    assert done.people == people
    assert done.with_openpose == (people if openpose else 0)
    return people / seconds


def measure(images: int, annotations: int, runs: int, augmentation: AugmentationConfig) -> dict[str, float]:
    out: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in SIZES:
            out |= loading(folder, name, images, runs, augmentation)
        out["samples_per_s"] = out["samples_per_s_1000"]
        out |= floor(folder, runs)
        out["annotation_rows_per_s"] = rows_per_s(folder, annotations, openpose=False)
        out["annotation_rows_per_s_openpose"] = rows_per_s(folder, annotations, openpose=True)
    return out


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="samples of each size")
    parser.add_argument("--annotations", type=int, default=20_000, help="people in the raw annotations")
    parser.add_argument("--runs", type=int, default=5, help="of which the median counts")
    parser.add_argument("--plain", action="store_true", help="without turns, mirrors, scaling and colours")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # the loader's threads are the parallel part, on both sides
    augmentation = AugmentationConfig(0.0, 0.0, 0.0, 0.0) if arguments.plain else AugmentationConfig()
    found = measure(arguments.images, arguments.annotations, arguments.runs, augmentation)
    print(json.dumps({"threads": THREADS, "plain": arguments.plain, **{k: round(v, 3) for k, v in found.items()}}))


if __name__ == "__main__":
    main()
