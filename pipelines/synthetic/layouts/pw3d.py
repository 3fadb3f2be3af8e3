"""A raw tree in 3DPW's layout: a pickle a sequence, as Python 2 wrote them, and its frames.

Fields that no reader uses (scans, textures, places of the bodies) are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.synthetic.layouts.python2_pickle import dumps
from pipelines.synthetic.layouts.truth import TruePerson, write_truth
from spin.joints import JOINTS
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from spin.world import Picture, Viewpoint, World, WorldPerson, ring
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Float

ABOUT = "3DPW's test sequences: one or two people who stand still while a camera goes around them"
_FRAMES = 4
# COCO-18 among OpenPose's 25: that has a mid hip besides.
_COCO_18 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
_CONFIDENCE = np.array([0, 0.5, 0.9])  # of a keypoint outside, hidden, seen
_CAMERA = 1  # stream of random numbers


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Sequences of four frames, with one person and with two in turn, until they show `people`."""
    (out / "sequenceFiles" / "test").mkdir(parents=True)
    true: list[TruePerson] = []
    number = 0
    while len(true) < people:
        true += _sequence(out, world, seed, number)
        number += 1
    write_truth(out, true)


def _sequence(out: Path, world: World, seed: int, number: int) -> list[TruePerson]:
    name, actors = f"world_{number:02d}", 1 + number % 2
    path = ring(np.random.default_rng([seed, number, _CAMERA]), _FRAMES)
    # a camera goes around, but stays the same camera
    camera = path[0].camera
    path = tuple(Viewpoint(camera, v.rotation, v.translation_m * [1, 1, 1.15]) for v in path)
    pictures = world.views(seed, number, path, people=actors)
    valid = np.ones((actors, _FRAMES), np.uint8)
    valid[0, -1] = 0  # a frame whose camera was not aligned
    write_file(out / "sequenceFiles" / "test" / f"{name}.pkl", dumps(_content(name, path, pictures, valid)))
    folder = out / "imageFiles" / name
    folder.mkdir(parents=True)
    for frame, picture in enumerate(pictures):
        (folder / f"image_{frame:05d}.jpg").write_bytes(picture.jpeg())
    return [
        TruePerson(f"imageFiles/{name}/image_{frame:05d}.jpg", actor, pictures[frame].people[actor])
        for actor, frame in zip(*np.nonzero(valid))
    ]


def _content(name: str, path: tuple[Viewpoint, ...], pictures: tuple[Picture, ...], valid: np.ndarray) -> dict[str, Any]:
    actors = range(len(valid))
    cam_poses = np.tile(np.eye(4), (len(path), 1, 1))
    for frame, viewpoint in enumerate(path):
        cam_poses[frame, :3, :3], cam_poses[frame, :3, 3] = viewpoint.rotation, viewpoint.translation_m
    camera = path[0].camera
    intrinsics = np.diag([camera.focal_px, camera.focal_px, 1.0])
    intrinsics[:2, 2] = camera.center_px
    return {
        "sequence": name,
        "genders": [("f", "m")[actor % 2] for actor in actors],
        "betas": [pictures[0].people[actor].betas.astype(np.float64) for actor in actors],
        "poses": [np.stack([_world_pose(p.people[actor], v) for p, v in zip(pictures, path)]) for actor in actors],
        "poses2d": [np.stack([_detected(p.people[actor]) for p in pictures]) for actor in actors],
        "campose_valid": list(valid),
        "cam_poses": cam_poses,
        "cam_intrinsics": intrinsics,
        "img_frame_ids": np.arange(len(path)),
    }


def _world_pose(person: WorldPerson, viewpoint: Viewpoint) -> Float[np.ndarray, "72"]:
    """Return the pose with its root in the world's axes."""
    import torch

    pose = person.pose_aa.astype(np.float64)
    root = axis_angle_to_matrix(torch.from_numpy(pose[None, :3]))[0].numpy()
    turned = matrix_to_axis_angle(torch.from_numpy(viewpoint.rotation.T @ root)[None])[0].numpy()
    return np.concatenate([turned, pose[3:]])


def _detected(person: WorldPerson) -> Float[np.ndarray, "3 18"]:
    """Return exact keypoints, with OpenPose's rows x, y and confidence; zeros where one is outside the picture."""
    keypoints, visibility = person.keypoints_px[JOINTS.openpose], person.visibility[JOINTS.openpose]
    rows = np.concatenate([keypoints, _CONFIDENCE[visibility][:, None]], 1) * (visibility > 0)[:, None]
    return rows[list(_COCO_18)].T
