"""Small pictures of a person: the photograph with keypoints, fits drawn over it, and a fit from the side."""

from __future__ import annotations

import base64
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from pipelines.fitting.from_annotations import crops_of
from spin.camera import CROP_PX
from spin.crop import crop_affine, crop_image
from spin.errors import SpinError
from spin.images import read_image
from spin.joints import JOINTS, SKELETON
from spin.rendering import PALETTE, overlay, side_view

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    from spin.body import BodyMesh
    from store.annotations.table import Annotations
    from store.fits.records import Fits

PANEL_PX = 320
SURROUNDINGS = 1.12  # side of the cut, relative to the side of the person's box
NOW, BEFORE = PALETTE[0], PALETTE[2]

_OUTSIDE, _GREY, _INK = 226, 128, (245, 245, 245)
_COLOUR = {"left": (64, 196, 255), "right": (255, 145, 60), "middle": (250, 240, 90)}
_OPENPOSE = (255, 70, 200)
_JPEG_QUALITY = 80
_BATCH = 64


@dataclass(frozen=True)
class Photograph:
    """A person's surroundings cut from the photograph; a grey panel with the reason if it cannot be read."""

    image: UInt8[np.ndarray, "P P 3"]
    problem: str | None = None


@dataclass(frozen=True)
class PanelCamera:
    """The camera of a person's panel, px."""

    focal_px: float
    center_px: tuple[float, float]


def panel_camera(annotations: Annotations, row: int) -> PanelCamera:
    """Return the camera of a person's panel. The cut is the crop zoomed about its middle, and so is its camera."""
    crop = crops_of(annotations.take(slice(row, row + 1)))
    zoom = PANEL_PX / (CROP_PX * SURROUNDINGS)
    x, y = ((crop.principal_px[0, 0] - CROP_PX / 2) * zoom + PANEL_PX / 2).tolist()
    return PanelCamera(float(crop.focal_px[0, 0]) * zoom, (x, y))


def pose_vertices(mesh: BodyMesh, fits: Fits) -> Float[np.ndarray, "n V 3"]:
    """Return vertices in the camera frame of each sample's crop, metres."""
    device = mesh.get_buffer("extra_regressor").device
    parts = []
    with torch.no_grad():
        for first in range(0, len(fits), _BATCH):
            part = fits.take(slice(first, first + _BATCH))
            pose, betas, camera = (torch.from_numpy(a).to(device) for a in (part.pose, part.betas, part.camera))
            parts.append((mesh(pose, betas).vertices_m + camera[:, None]).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 0, 3), np.float32)


def cut_photograph(annotations: Annotations, row: int) -> Photograph:
    """Cut the surroundings of one person."""
    path = annotations.image_path(row)
    try:
        image = read_image(path)
        center_px, scale = annotations.center_px[row], SURROUNDINGS * float(annotations.scale[row])
        cut = crop_image(image, center_px, scale, crop_px=PANEL_PX)
    except (SpinError, OSError, cv2.error) as error:
        problem = _short(error, path, annotations.image[row])
        return Photograph(grey_panel(problem), problem)
    affine = crop_affine(center_px, scale, crop_px=PANEL_PX)
    left, top = np.clip(np.ceil(affine[:, 2] + 0.5), 0, PANEL_PX).astype(int)
    right, bottom = np.clip(np.floor(affine @ [image.shape[1], image.shape[0], 1] - 0.5), 0, PANEL_PX).astype(int)
    panel = np.full_like(cut, _OUTSIDE)  # not black, so that the photograph's edge can be seen
    panel[top:bottom, left:right] = cut[top:bottom, left:right]
    return Photograph(panel)


def whole_photograph(path: Path, name: str) -> Photograph:
    """Return a photograph reduced to the size of a panel."""
    try:
        image = read_image(path)
        zoom = PANEL_PX / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom)))
        return Photograph(cv2.resize(image, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR))
    except (SpinError, OSError, cv2.error) as error:
        problem = _short(error, path, name)
        return Photograph(grey_panel(problem), problem)


def _short(error: Exception, path: Path, name: str) -> str:
    """Return the message with the image's name in the data set instead of its path on this machine."""
    return str(error).replace(str(path), name)


def with_keypoints(photograph: Photograph, annotations: Annotations, row: int) -> UInt8[np.ndarray, "P P 3"]:
    """Draw the skeleton, coloured by side of the body, and OpenPose's detections as small dots."""
    if photograph.problem:
        return photograph.image
    picture = photograph.image.copy()
    keypoints = annotations.keypoints_px[row]
    affine = crop_affine(annotations.center_px[row], SURROUNDINGS * float(annotations.scale[row]), crop_px=PANEL_PX)
    points = keypoints[:, :2] @ affine[:, :2].T + affine[:, 2]
    # Far outside the panel, coordinates would overflow OpenCV's fixed-point numbers.
    points = np.clip(points, -4 * PANEL_PX, 5 * PANEL_PX)
    seen = keypoints[:, 2] > 0
    for a, b in SKELETON:
        ends = [j if seen[j] else detected_twin(j) for j in (a, b)]
        if seen[ends].all():
            _line(picture, points[ends[0]], points[ends[1]], _COLOUR[side_of_body(a, b)])
    for joint in range(JOINTS.count)[JOINTS.superset]:
        if seen[joint]:
            _dot(picture, points[joint], 3.5, _COLOUR[side_of_body(joint, joint)])
    for joint in range(JOINTS.count)[JOINTS.openpose]:
        if seen[joint]:
            _dot(picture, points[joint], 2.0, _OPENPOSE)
    return picture


def detected_twin(joint: int) -> int:
    """Return OpenPose's joint of the same name, the replacement for an annotated joint that is not known."""
    return JOINTS.index[f"OpenPose {JOINTS.names[joint]}"]


def side_of_body(a: int, b: int) -> str:
    """Return "left", "right" or "middle" for a bone between two joints, or for one joint that is passed twice."""
    sides = {JOINTS.names[j].split(" ")[0] for j in (a, b)}
    if sides <= {"left", "nose"} and "left" in sides:
        return "left"
    return "right" if sides <= {"right", "nose"} and "right" in sides else "middle"


# Whole-number coordinates are a pixel's edge here, and its centre in OpenCV; `shift` keeps sixteenths of a pixel.
def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint((point - 0.5) * 16).astype(int)
    return int(x), int(y)


def _line(picture: np.ndarray, a: np.ndarray, b: np.ndarray, colour: tuple[int, int, int]) -> None:
    cv2.line(picture, _fixed(a), _fixed(b), (0, 0, 0), 4, cv2.LINE_AA, shift=4)
    cv2.line(picture, _fixed(a), _fixed(b), colour, 2, cv2.LINE_AA, shift=4)


def _dot(picture: np.ndarray, at: np.ndarray, radius_px: float, colour: tuple[int, int, int]) -> None:
    cv2.circle(picture, _fixed(at), round((radius_px + 1) * 16), (0, 0, 0), -1, cv2.LINE_AA, shift=4)
    cv2.circle(picture, _fixed(at), round(radius_px * 16), colour, -1, cv2.LINE_AA, shift=4)


def with_fit(
    photograph: Photograph,
    vertices_cam_m: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    camera: PanelCamera,
    colour: tuple[float, float, float] = NOW,
) -> UInt8[np.ndarray, "P P 3"]:
    """Draw the body over the photograph, transparent enough to compare it with the person."""
    try:
        return overlay(
            photograph.image,
            [vertices_cam_m],
            faces,
            focal_px=camera.focal_px,
            center_px=camera.center_px,
            colours=(colour,),
            alpha=0.82,
        )
    except SpinError as error:
        return grey_panel(str(error))


def from_the_side(
    vertices_cam_m: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], camera: PanelCamera
) -> UInt8[np.ndarray, "P P 3"]:
    """Draw the body turned by 90°, in the middle of the panel, as large as from the front or as the panel allows."""
    low, high = vertices_cam_m.min(0), vertices_cam_m.max(0)
    centre = (low + high) / 2
    extent_m = max(high[1] - low[1], high[2] - low[2], 1e-6)
    focal = min(camera.focal_px, float(0.92 * PANEL_PX * centre[2] / extent_m))
    try:
        x, y = PANEL_PX / 2 - focal * centre[:2] / centre[2]
        return side_view(
            vertices_cam_m,
            faces,
            focal_px=focal,
            center_px=(float(x), float(y)),
            width=PANEL_PX,
            height=PANEL_PX,
            colour=NOW,
        )
    except SpinError as error:
        return grey_panel(str(error))


def grey_panel(text: str) -> UInt8[np.ndarray, "P P 3"]:
    """Return a panel with a text, for a picture that cannot be shown. OpenCV's letters are ASCII only."""
    panel = np.full((PANEL_PX, PANEL_PX, 3), _GREY, np.uint8)
    lines = textwrap.wrap(text.encode("ascii", "replace").decode(), 36)[:12]
    for i, line in enumerate(lines):
        at = (16, round(PANEL_PX / 2 + 22 * (i + 0.7 - len(lines) / 2)))
        cv2.putText(panel, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.48, _INK, 1, cv2.LINE_AA)
    return panel


def jpeg_uri(image: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return an RGB picture as a data: address."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
