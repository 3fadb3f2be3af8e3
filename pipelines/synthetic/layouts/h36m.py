"""A raw tree in Human3.6M's layout: poses as CDF, boxes as MATLAB 7.3, videos, the pictures of kept frames, metadata.xml."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.synthetic.layouts.recordings import write_cdf, write_mat73, write_video
from pipelines.synthetic.layouts.truth import TruePerson, write_truth
from spin.world import Picture, Viewpoint, World, ring
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ABOUT = "Human3.6M: two moments an action, seen by four cameras; frames between are grey, their joints between the moments'"
CAMERAS = ("54138969", "55011271", "58860488", "60457274")
# One to train on and one to measure on come first.
_SUBJECTS = (1, 9, 5, 11, 6, 7, 8)
_ACTIONS = (
    "Directions 1", "Discussion", "Eating 2", "Greeting 1", "Phoning 1", "Posing", "Purchases", "Sitting 1",
    "SittingDown", "Smoking 1", "Photo", "Waiting 1", "Walking", "WalkDog 1", "WalkTogether",
)  # fmt: skip
_MOMENTS, _STRIDE, _RATE = 2, 5, 50.0
_JOINTS = 32
# Where Human3.6M's 17 stand in its skeleton of 32.
_IN_SKELETON = (11, 6, 7, 8, 1, 2, 3, 12, 24, 14, 15, 17, 18, 19, 25, 26, 27)
_RIG = 1  # stream of random numbers
# The world's y points down, Human3.6M's z up.
_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Sequences until they show `people`; at least one to train on and one to measure on."""
    rig = ring(np.random.default_rng([seed, _RIG]), len(CAMERAS))
    (out / "images").mkdir()
    write_file(out / "metadata.xml", _metadata(rig).encode())
    true: list[TruePerson] = []
    for number in range(max(2, math.ceil(people / (_MOMENTS * len(CAMERAS))))):
        subject, take = _SUBJECTS[number % len(_SUBJECTS)], number // len(_SUBJECTS)
        repetition = take // len(_ACTIONS)
        action = _ACTIONS[take % len(_ACTIONS)] + (f" {repetition + 2}" if repetition else "")
        viewpoints = [_of_subject(viewpoint, subject) for viewpoint in rig]
        moments = [world.views(seed, number * _MOMENTS + moment, viewpoints) for moment in range(_MOMENTS)]
        for camera, pictures in zip(CAMERAS, zip(*moments)):
            true += _sequence(out, subject, action, camera, pictures)
    write_truth(out, true)


def _of_subject(viewpoint: Viewpoint, subject: int) -> Viewpoint:
    """The rig stands a little differently in each subject's recording."""
    angle = 0.3 * subject
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    return replace(viewpoint, rotation=viewpoint.rotation @ turn)


def _sequence(out: Path, subject: int, action: str, camera: str, pictures: tuple[Picture, ...]) -> list[TruePerson]:
    """Write the files of one action and camera."""
    folder, name = out / f"S{subject}", f"{action}.{camera}"
    joints_m = np.stack([picture.people[0].joints17_cam_m for picture in pictures])
    between = _between(joints_m)
    features = folder / "MyPoseFeatures"
    write_cdf(features / "D3_Positions_mono" / f"{name}.cdf", "Pose", _skeleton(1000 * between))
    projected = pictures[0].camera.project(between)
    write_cdf(features / "D2_Positions" / f"{name}.cdf", "Pose", _skeleton(projected))
    nearest = [pictures[round(frame / _STRIDE)] for frame in range(len(between))]
    masks = [box_mask(picture).T for picture in nearest]
    write_mat73(folder / "MySegmentsMat" / "ground_truth_bb" / f"{name}.mat", {}, {"Masks": masks})
    grey = np.full_like(pictures[0].image, 128)
    frames = [picture.image if i % _STRIDE == 0 else grey for i, picture in enumerate(nearest)]
    write_video(folder / "Videos" / f"{name}.mp4", frames, codec="mp4v", rate=_RATE)
    true = []
    for moment, picture in enumerate(pictures):
        image = f"images/S{subject}_{action.replace(' ', '_')}.{camera}_{moment * _STRIDE + 1:06d}.jpg"
        (out / image).write_bytes(picture.jpeg())
        true.append(TruePerson(image, 0, picture.people[0]))
    return true


def _between(joints_m: Float[np.ndarray, "M 17 3"]) -> Float[np.ndarray, "T 17 3"]:
    """A frame for each moment, and four in between, in which joints go straight from one to the next."""
    times = np.arange((len(joints_m) - 1) * _STRIDE + 1) / _STRIDE
    before = np.minimum(times.astype(int), len(joints_m) - 2)
    share = (times - before)[:, None, None]
    return (1 - share) * joints_m[before] + share * joints_m[before + 1]


def _skeleton(joints: Float[np.ndarray, "T 17 D"]) -> Float[np.ndarray, "1 T W"]:
    """Human3.6M's 32 joints in a row; those that are not among the 17 are at the pelvis."""
    out = np.repeat(joints[:, :1], _JOINTS, axis=1)
    out[:, _IN_SKELETON] = joints
    return out.reshape(1, len(joints), -1)


def box_mask(picture: Picture) -> Bool[np.ndarray, "H W"]:
    """Return the box around the whole of the person, filled: what Human3.6M's masks of boxes are."""
    camera = picture.camera
    pixels = camera.project(picture.people[0].vertices_cam_m)
    left, top = np.floor(pixels.min(0)).clip(0).astype(int)
    right, bottom = np.ceil(pixels.max(0)).astype(int)
    mask = np.zeros((camera.height, camera.width), bool)
    mask[top:bottom, left:right] = True
    return mask


def _metadata(rig: tuple[Viewpoint, ...]) -> str:
    """<w0>: per camera and subject three Euler angles and the camera's place in mm, then per camera its optics."""
    numbers: list[float] = []
    for viewpoint in rig:
        for subject in range(1, 12):
            stand = _of_subject(viewpoint, subject)
            rotation = stand.rotation @ _TO_Z_UP.T
            numbers += [*_euler_angles(rotation), *(-1000 * rotation.T @ stand.translation_m)]
    for viewpoint in rig:
        focal, center = viewpoint.camera.focal_px, viewpoint.camera.center_px
        numbers += [focal, focal, *center, 0, 0, 0, 0, 0]
    written = " ".join(f"{number:.9g}" for number in numbers)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<root>\n<w0>[{written}]</w0>\n</root>\n'


def _euler_angles(rotation: Float[np.ndarray, "3 3"]) -> tuple[float, float, float]:
    """Return angles x, y, z of Rx Ry Rz."""
    r = rotation
    x, z = np.arctan2(-r[1, 2], r[2, 2]), np.arctan2(-r[0, 1], r[0, 0])
    return float(x), float(np.arcsin(np.clip(r[0, 2], -1, 1))), float(z)
