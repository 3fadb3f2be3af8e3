"""The demo: bodies of the people in a photograph, by a network, by fitting detections, or by both; pictures and parameters.

A body is estimated in the crop of its person, in the crop's camera: 5000 px over 224 px. Each crop's camera is equal to one of
the whole image whose principal point is the middle of the box. Pictures are drawn with that camera, at the image's
resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.errors import StageError, UsageError
from pipelines.fitting.assets import FittingFiles
from pipelines.readers.formats.json_file import load_json
from pipelines.readers.formats.openpose_file import NO_BODY, SMALLEST_PX, read_openpose
from spin.body import BodyMesh, load_body
from spin.camera import CROP_PX, FOCAL_PX, weak_to_translation
from spin.crop import BOX_MARGIN, box_to_center_scale, crop_image, keypoints_to_crop, normalise
from spin.errors import ImageError
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.observations import Observations
from spin.fitting.verdicts import VERDICTS, is_doubtful
from spin.images import read_image
from spin.joints import JOINTS
from spin.network.checkpoints import load_checkpoint, network_from_checkpoint
from spin.network.inference import exact_float32, for_inference
from spin.published_crop import published_crop, whole_box
from spin.rotations import matrix_to_axis_angle

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    from pipelines.folders import DataFolder

CONFIDENT = 0.2  # joints above this confidence shape the box (published)
MIN_JOINTS = 4  # confident ones that a person needs
MIN_SIDE_PX = 8  # of an image
OUTPUTS = ("_shape", "_shape_side")  # how the demo's own pictures' names end
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Person:
    """A person in the image: box (centre in px, scale = side / 200 px), and detected joints, if there are any."""

    number: int  # counted from 1, in the file's order
    center_px: Float[np.ndarray, "2"]
    scale: float
    keypoints_px: Float[np.ndarray, "49 3"] | None = None


@dataclass(frozen=True)
class PersonBody:
    """A person's body, in the frame of its crop's camera (metres, y down, z away)."""

    person: Person
    pose: Float[np.ndarray, "72"]
    betas: Float[np.ndarray, "10"]
    camera_m: Float[np.ndarray, "3"]
    vertices_m: Float[np.ndarray, "V 3"]
    loss_px2: float = float("nan")  # of a fit
    verdict: str = ""  # of a fit, as VERDICTS has it; empty: predicted, not fitted
    expected_error_mm: float = float("nan")  # of a fit
    doubtful: bool = False  # a valid fit, but of a high expected error

    @property
    def focal_px(self) -> float:
        """Return the focal length of the whole image's camera that is equal to the crop's camera."""
        return FOCAL_PX * 200 * self.person.scale / CROP_PX

    @property
    def weak_camera(self) -> Float[np.ndarray, "3"]:
        """Return [s, tx, ty] of the crop, in the network's form: s in crop half-widths per metre."""
        x, y, z = self.camera_m
        return np.array([2 * FOCAL_PX / (CROP_PX * z), x, y], np.float32)

    def seen_from(self, focal_px: float, principal_px: Float[np.ndarray, "2"]) -> Float[np.ndarray, "3"]:
        """Return the body's translation in another camera of the image, with its origin at the same pixel and the same size."""
        z = self.camera_m[2] * focal_px / self.focal_px
        pixel = self.focal_px * self.camera_m[:2] / self.camera_m[2] + self.person.center_px
        return np.array([*((pixel - principal_px) * z / focal_px), z])


@dataclass(frozen=True)
class DemoResult:
    """The bodies in an image, and the rejected people, each with the reason."""

    image: UInt8[np.ndarray, "H W 3"]
    bodies: list[PersonBody]
    rejected: list[str]


# ---- who is in the picture ----------------------------------------------------------------------------------------------


def whole_image(image: UInt8[np.ndarray, "H W 3"], *, published: bool = False) -> list[Person]:
    """Return one person for an image that is already cropped. The larger side is the box's side (published).

    `published`: the box's middle is a whole pixel.
    """
    height, width = image.shape[:2]
    middle = (width // 2, height // 2) if published else (width / 2, height / 2)
    return [Person(1, np.array(middle, np.float32), max(height, width) / 200)]


def person_of_box(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> list[Person]:
    """Read the box of a file {"bbox": [x, y, width, height]}, or of the four numbers alone. StageError."""
    try:
        content = load_json(path)
        numbers = content["bbox"] if isinstance(content, dict) else content
        box = np.array(numbers, float).reshape(4)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StageError(f'{path}: no box ({error}); expected {{"bbox": [x, y, width, height]}}, px') from error
    height, width = image.shape[:2]
    x, y, w, h = box.tolist()
    if not (np.isfinite(box).all() and w > 0 and h > 0):
        raise StageError(f"{path}: the box {box.tolist()} has no area; expected [x, y, width, height], px")
    if max(w, h) < SMALLEST_PX:
        raise StageError(
            f"{path}: the box {box.tolist()} is smaller than {SMALLEST_PX:g} px, expected pixels; multiply x and width of 0 to "
            f"1 by the image's width, {width} px, y and height by its height, {height} px"
        )
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise StageError(f"{path}: the box {box.tolist()} is outside the image, which is {width} x {height} px")
    center, scale = box_to_center_scale(box, margin=1.0)  # without a margin (published)
    return [Person(1, center, scale)]


def people_detected(path: Path, image: UInt8[np.ndarray, "H W 3"], which: str) -> list[Person]:
    """Return people of an OpenPose file: the largest, the K-th, or all. StageError, UsageError.

    The box holds the person's confident joints and a fifth more, as in the published demo. Its middle is used, as in training,
    not the joints' mean.
    """
    try:
        found = read_openpose(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(f"{path}: no such OpenPose file") from error
    people = []
    for number, joints in enumerate(found, 1):
        if isinstance(joints, str):
            if joints != NO_BODY:
                raise StageError(f"{path}: person {number} {joints}")
            continue
        joints = joints.astype(np.float32)
        sure = joints[joints[:, 2] > CONFIDENT, :2]
        if len(sure) < MIN_JOINTS or not np.ptp(sure, axis=0).max() >= SMALLEST_PX:
            continue
        low, high = sure.min(0), sure.max(0)
        center, scale = box_to_center_scale(np.concatenate([low, high - low]), margin=BOX_MARGIN)
        keypoints = np.zeros((JOINTS.count, 3), np.float32)
        keypoints[JOINTS.openpose] = joints
        people.append(Person(number, center, scale, keypoints))
    if not people:
        raise StageError(
            f"{path}: no person in the detections; expected at least {MIN_JOINTS} joints with confidence above {CONFIDENT}, "
            f"{SMALLEST_PX:g} px apart"
        )
    height, width = image.shape[:2]
    # A person at the edge is in the image; one whose box has its middle a quarter of its side outside is of another image.
    half = np.array([width / 2, height / 2])
    inside = [p for p in people if (np.abs(p.center_px - half) < half + 50 * p.scale).all()]
    if not inside:
        raise StageError(
            f"{path}: the detections are outside the image, which is {width} x {height} px; give this image's file"
        )
    if which == "all":
        return inside
    if which == "largest":
        return [max(inside, key=lambda person: person.scale)]
    chosen = [person for person in inside if str(person.number) == which]
    if not chosen:
        numbers = ", ".join(str(person.number) for person in inside)
        raise UsageError(f"--person {which}: {path} has {numbers}; expected one of them, 'all' or 'largest'")
    return chosen


# ---- bodies -------------------------------------------------------------------------------------------------------------


class BodyEstimator:
    """Estimates bodies: with a network, with a fitter, or with a fitter that starts at the network's prediction."""

    def __init__(self, data: DataFolder, checkpoint: Path | None, fit: bool, crop: str | None = None) -> None:
        """`crop`: the rule by which the network's input is cut; None: the one that it was trained with."""
        self.network, self.img_res = None, CROP_PX
        self.crop, self.published = crop or "plain", False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if checkpoint is not None:
            loaded = load_checkpoint(checkpoint)
            self.network = for_inference(network_from_checkpoint(loaded, str(checkpoint))).to(self.device)
            self.img_res = int(loaded.config.get("img_res", CROP_PX))
            self.crop, self.published = crop or loaded.crop_rule, loaded.published
        self.fitter: BatchFitter | None = None
        if fit:
            config = FitConfig()
            self.fitter = FittingFiles.of(data, config).fitter(config)
        self.body = load_body(data.body)
        self.mesh = BodyMesh(self.body)

    def estimate(self, image: UInt8[np.ndarray, "H W 3"], people: Sequence[Person]) -> DemoResult:
        """Return a body for each person that is not rejected. StageError if all are rejected."""
        fitted: list[tuple[float, str, float, bool]] | list[tuple[()]] = [()] * len(people)
        predicted = None if self.network is None else self._predict(image, people)
        if self.crop == "published":  # the predicted camera is that of the box in whole pixels
            whole = [whole_box(p.center_px, p.scale, self.img_res) for p in people]
            people = [replace(p, center_px=center, scale=scale) for p, (center, scale) in zip(people, whole)]
        with torch.no_grad():
            if self.fitter is None:
                assert predicted is not None
                pose, betas, camera = predicted
                fine = [True] * len(people)
            else:
                keypoints = np.stack([_detections(person) for person in people])
                boxes = (
                    np.stack([p.center_px for p in people]),
                    np.array([p.scale for p in people], np.float32),
                )
                observations = Observations.of(torch.from_numpy(keypoints_to_crop(keypoints, *boxes)))
                if predicted is None:
                    result = self.fitter.fit(observations)
                else:
                    result = self.fitter.refine(predicted[0], predicted[1], observations, predicted[2])
                fine = result.storable.tolist()
                pose, betas, camera = result.pose_aa, result.betas, result.camera_m
                words = [VERDICTS[v] for v in result.verdict.tolist()]
                doubtful = is_doubtful(result.verdict, result.score).tolist()
                fitted = list(zip(result.loss.tolist(), words, result.score.tolist(), doubtful))
            vertices = self.mesh(pose, betas).vertices_m + camera[:, None]
        arrays = (a.numpy() for a in (pose, betas, camera, vertices))
        rows = [PersonBody(*row, *more) for *row, more in zip(people, *arrays, fitted)]
        rejected = [f"person {r.person.number}: {r.verdict}" for r, ok in zip(rows, fine) if not ok]
        if len(rejected) == len(rows):
            raise StageError(f"no person can be fitted: {'; '.join(rejected)}")
        return DemoResult(image, [row for row, ok in zip(rows, fine) if ok], rejected)

    def _predict(
        self, image: UInt8[np.ndarray, "H W 3"], people: Sequence[Person]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return pose, betas, and translation in the crop's camera."""
        assert self.network is not None
        cut = published_crop if self.crop == "published" else crop_image
        crops = [normalise(cut(image, p.center_px, p.scale, crop_px=self.img_res)) for p in people]
        with torch.no_grad(), exact_float32():
            prediction = self.network(torch.from_numpy(np.stack(crops)).to(self.device))
        pose = matrix_to_axis_angle(prediction.rotations).flatten(1)
        return pose.cpu(), prediction.betas.cpu(), weak_to_translation(prediction.weak_camera).cpu()


def _detections(person: Person) -> Float[np.ndarray, "49 3"]:
    if person.keypoints_px is None:
        raise UsageError("--fit needs detections: give --openpose FILE")
    return person.keypoints_px


# ---- images -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DemoRequest:
    """An image, and where its people are."""

    image: Path
    bbox: Path | None = None
    openpose: Path | None = None
    person: str = "largest"


def requests_in_folder(img: Path, openpose: Path | None, person: str) -> Iterator[DemoRequest]:
    """Yield the images of a folder by name, with their OpenPose files. Pictures that the demo wrote are not included.

    UsageError if there are no images, or two of the same name.
    """
    images = sorted(path for path in img.iterdir() if path.suffix.lower() in ENDINGS and not path.stem.endswith(OUTPUTS))
    twice = [b for a, b in pairwise(sorted(images, key=lambda path: path.stem)) if a.stem == b.stem]
    if twice:
        raise UsageError(
            f"--img {img}: two images are called {twice[0].stem}, so that their pictures would have the same name; rename one"
        )
    if not images:
        raise UsageError(f"--img {img}: no image in this folder; expected files ending in {', '.join(ENDINGS)}")
    if openpose is not None and not openpose.is_dir():
        raise UsageError(
            f"--openpose {openpose}: expected a folder with NAME_keypoints.json for each image, because --img is a folder"
        )
    for path in images:
        yield DemoRequest(path, None, None if openpose is None else openpose / f"{path.stem}_keypoints.json", person)


def run_demo(estimator: BodyEstimator, request: DemoRequest) -> DemoResult:
    """Estimate the bodies in an image. ImageError, StageError, UsageError."""
    image = read_image(request.image)
    if min(image.shape[:2]) < MIN_SIDE_PX:
        height, width = image.shape[:2]
        raise ImageError(f"image {request.image}: {width} x {height} px; expected at least {MIN_SIDE_PX} px each way")
    if request.openpose is not None:
        people = people_detected(request.openpose, image, request.person)
    elif request.bbox is not None:
        people = person_of_box(request.bbox, image)
    else:
        people = whole_image(image, published=estimator.crop == "published")
    return estimator.estimate(image, people)
