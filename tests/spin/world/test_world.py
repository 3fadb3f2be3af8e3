"""The embedded world: the same picture every time, and a truth that agrees with what is seen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from spin.body import BodyMesh, load_body
from spin.fitting.prior import load_pose_prior
from spin.joints import JOINTS, OPENPOSE_NAMES
from spin.rendering import Mesh, Pinhole, Scene, render_mask
from spin.world import World, detect
from spin.world.optics import Lamp
from spin.world.people import random_bodies, wrong_bend_rad
from spin.world.visibility import keypoint_visibility

SEED, COUNT = 5, 24


@pytest.fixture(scope="module")
def world():
    body = load_body()
    return World(body, BodyMesh(body), load_pose_prior())


@pytest.fixture(scope="module")
def pictures(world):
    return [world.picture(SEED, i) for i in range(COUNT)]


def test_a_picture_depends_on_seed_and_index_alone(world, pictures):
    """Breaks if any state is carried from one picture to the next."""
    for index in (7, 2):
        again = world.picture(SEED, index)
        assert again.jpeg() == pictures[index].jpeg()
        for a, b in zip(again.people, pictures[index].people):
            np.testing.assert_array_equal(a.keypoints_px, b.keypoints_px)
    assert world.picture(SEED + 1, 7).jpeg() != pictures[7].jpeg()
    assert pictures[7].jpeg() != pictures[8].jpeg()


def test_how_many_people_is_known_beforehand_and_can_be_limited(world, pictures):
    counts = [world.people_in(SEED, i) for i in range(COUNT)]
    assert counts == [len(p.people) for p in pictures]
    assert set(counts) == {1, 2}
    assert len(world.picture(SEED, counts.index(2), most=1).people) == 1


def test_camera_distance_and_size_are_those_of_photographs(pictures):
    for picture in pictures:
        camera = picture.camera
        height, width = picture.image.shape[:2]
        assert (height, width) == (camera.height, camera.width)
        assert 1.5 - 1e-9 <= camera.focal_px / max(height, width) <= 3 + 1e-9
        for person in picture.people:
            assert 2.5 < person.pelvis_cam_m[2] < 8.5
    spans = [np.ptp(q.keypoints_px[:, 1]) / p.camera.height for p in pictures for q in p.people]
    assert 0.4 < np.median(spans) < 0.9


def test_truth_agrees_with_the_body_model(pictures):
    """Pose, betas and the pelvis' place must rebuild the vertices and joints."""
    mesh = BodyMesh(load_body())
    for person in pictures[0].people + pictures[1].people:
        with torch.no_grad():
            out = mesh(torch.from_numpy(person.pose_aa)[None], torch.from_numpy(person.betas)[None])
        move = person.pelvis_cam_m - out.points_m[0, 0].numpy()
        np.testing.assert_allclose(out.vertices_m[0].numpy() + move, person.vertices_cam_m, atol=1e-5)
        np.testing.assert_allclose(out.keypoints_m[0].numpy() + move, person.keypoints_cam_m, atol=1e-5)
        np.testing.assert_allclose(out.joints17_m[0].numpy() + move, person.joints17_cam_m, atol=1e-5)


def test_masks_are_where_the_meshes_are(pictures):
    """Each mask is inside its person's silhouette; together they differ from the union only by the occluder."""
    faces = load_body().faces
    whole = 0
    for picture in pictures:
        union = np.zeros(picture.image.shape[:2], bool)
        for person in picture.people:
            alone = render_mask(Scene([Mesh(person.vertices_cam_m, faces)]), picture.camera) == 0
            assert not (person.mask & ~alone).any()
            assert person.mask.sum() >= 250
            union |= alone
        seen = np.any([p.mask for p in picture.people], 0)
        assert seen.sum() >= 0.6 * union.sum()
        whole += bool((seen == union).all())
    assert 0.6 * COUNT <= whole < COUNT


def test_visible_keypoints_lie_on_their_person(pictures):
    """Breaks if keypoints are mirrored, shifted or projected with another camera than the picture."""
    on_mask, total = 0, 0
    for picture in pictures:
        for person in picture.people:
            k = [i for i in JOINTS.coco if person.visibility[i] == 2]
            column, row = person.keypoints_px[k].astype(int).T
            # eyes and ears are vertices of the outline itself: give them two pixels
            near = cv2.dilate(person.mask.astype(np.uint8), np.ones((5, 5), np.uint8))
            on_mask += near[row, column].sum()
            total += len(k)
    assert total > 200
    assert on_mask / total > 0.99


def test_visibility_is_0_outside_1_behind_and_2_in_front():
    """A plate 1 m before one keypoint hides it; one just before it is the body's own flesh."""
    camera = Pinhole(100.0, (50.0, 50.0), 100, 100)
    points = np.tile([0.0, 0.0, 4.0], (49, 1))
    points[0] = [9.0, 0.0, 4.0]

    def plate(depth_m: float) -> Mesh:
        corners = np.array([[-1, -1, depth_m], [1, -1, depth_m], [1, 1, depth_m], [-1, 1, depth_m]], float)
        return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))

    free = np.zeros((100, 100), bool)
    for depth, person, expected in ((3.0, 0, 1), (3.97, 0, 2), (3.97, 1, 1), (4.5, 1, 2)):
        flags = keypoint_visibility(Scene([plate(depth)]), camera, person, points, free)
        assert flags[0] == 0
        assert (flags[1:] == expected).all()
    flags = keypoint_visibility(Scene([plate(4.5)]), camera, 0, points, ~free)
    assert (flags[1:] == 1).all()


def test_people_stand_upright_and_bend_the_right_way():
    poses, betas = random_bodies(np.random.default_rng(0), load_pose_prior(), 200)
    assert np.quantile(wrong_bend_rad(poses[:, 3:]), 0.95) < 0.15
    assert np.abs(betas).max() <= 2.5
    up = torch.linalg.matrix_exp(_skew(torch.from_numpy(poses[:, :3]).double()))[:, :, 1].numpy()
    # y points down in the camera's frame
    tilt = np.rad2deg(np.arccos(-up[:, 1]))
    assert 4 < tilt.mean() < 9


def _skew(v: torch.Tensor) -> torch.Tensor:
    x, y, z = v.T
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)


def test_wrong_bend_counts_the_hinges_alone():
    pose = np.zeros((3, 69), np.float32)
    pose[1, 3 * 3 + 0] = -0.4  # left knee forwards
    pose[2, 3 * 3 + 0] = 1.2  # left knee as knees bend
    np.testing.assert_allclose(wrong_bend_rad(pose), [0, 0.4, 0], atol=1e-6)


def test_detections_are_near_the_truth_but_not_perfect(pictures):
    """Noise of about 1 % of the height, missed joints as zeros, and now and then a swapped limb."""
    errors, missed = [], []
    for index, picture in enumerate(pictures * 4):
        rng = np.random.default_rng([1, index])
        for detection in detect(picture, rng):
            found = detection.keypoints_px[:, 2] > 0
            assert (detection.keypoints_px[~found] == 0).all()
            distance = [
                np.linalg.norm(detection.keypoints_px[:, :2] - p.keypoints_px[JOINTS.openpose], axis=1)
                / np.ptp(p.keypoints_px[:, 1])
                for p in picture.people
            ]
            nearest = min(distance, key=lambda d: np.median(d[found]))
            errors.append(nearest[found])
            missed.append(1 - found.mean())
    error = np.concatenate(errors)
    assert 0.007 < np.median(error) < 0.02
    assert (error > 0.08).mean() > 0.005
    assert 0.05 < np.mean(missed) < 0.35


def test_detection_swaps_left_and_right_limbs(pictures):
    """Over many draws of one picture a left ankle is sometimes where the right one is."""
    person = pictures[0].people[0]
    left, right = OPENPOSE_NAMES.index("left ankle"), OPENPOSE_NAMES.index("right ankle")
    truth = person.keypoints_px[JOINTS.openpose]
    swapped = 0
    for k in range(400):
        for d in detect(pictures[0], np.random.default_rng(k)):
            if d.keypoints_px[left, 2] > 0:
                to_left, to_right = (np.linalg.norm(d.keypoints_px[left, :2] - truth[i]) for i in (left, right))
                swapped += bool(to_right < 6 < to_left)
    assert 2 <= swapped <= 40


def test_a_lamp_lights_by_the_inverse_square_and_what_faces_it_most():
    lamp = Lamp(np.zeros(3), full_m=1.0)
    points, toward = np.array([[0, 0, 1.0], [0, 0, 2.0], [0, 0, 2.0], [0, 0, 0.1]]), np.array([0, 0, -1.0])
    light = lamp.on(points, np.stack([toward, 2 * toward, -toward, toward]))
    np.testing.assert_allclose(light, [1, 0.25, 0.125, 1 / 0.4**2])


def test_in_the_studio_the_nearer_keypoint_is_brighter(world):
    """What keypoints alone don't tell, and a small picture can."""
    nearer, brighter = [], []
    for index in range(8):
        picture = world.portrait(SEED, index, 96, studio=True)
        (person,) = picture.people
        assert picture.image.shape == (96, 96, 3)
        seen = np.flatnonzero(person.visibility[:25] == 2)
        x, y = np.rint(person.keypoints_px[seen] - 0.5).astype(int).clip(0, 95).T
        inside = person.mask[y, x]
        light = (picture.image[y, x].astype(float) ** 2.2).mean(1)[inside]
        depth = person.keypoints_cam_m[seen, 2][inside]
        nearer.append(depth.mean() - depth)
        brighter.append(light / light.mean() - 1)
    assert np.corrcoef(np.concatenate(nearer), np.concatenate(brighter))[0, 1] > 0.4
