"""One moment from several sides: the same people, in the same place, whichever camera looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spin.body import BodyMesh, load_body
from spin.fitting.prior import load_pose_prior
from spin.joints import JOINTS
from spin.rendering import Mesh, Scene, render_mask
from spin.world import World, ring

SEED, CAMERAS = 4, 3


@pytest.fixture(scope="module")
def world() -> World:
    body = load_body()
    return World(body, BodyMesh(body), load_pose_prior())


@pytest.fixture(scope="module")
def viewpoints():
    return ring(np.random.default_rng(SEED), CAMERAS)


@pytest.fixture(scope="module")
def pictures(world, viewpoints):
    return world.views(SEED, 0, viewpoints, people=2)


def test_all_cameras_see_the_same_points_of_one_world(pictures, viewpoints):
    """Breaks if a camera's rotation or translation is applied the wrong way round."""
    for person in range(2):
        places = [(p.people[person].keypoints_cam_m - v.translation_m) @ v.rotation for p, v in zip(pictures, viewpoints)]
        for place in places[1:]:
            np.testing.assert_allclose(place, places[0], atol=1e-9)
    assert not np.allclose(pictures[0].people[0].keypoints_cam_m, pictures[1].people[0].keypoints_cam_m)


def test_the_pose_in_each_camera_rebuilds_what_it_sees(pictures):
    """Breaks if the pose's root does not turn with the camera."""
    mesh = BodyMesh(load_body())
    for picture in pictures:
        for person in picture.people:
            with torch.no_grad():
                out = mesh(torch.from_numpy(person.pose_aa)[None], torch.from_numpy(person.betas)[None])
            move = person.pelvis_cam_m - out.points_m[0, 0].numpy()
            np.testing.assert_allclose(out.vertices_m[0].numpy() + move, person.vertices_cam_m, atol=2e-5)
            np.testing.assert_allclose(out.joints17_m[0].numpy() + move, person.joints17_cam_m, atol=2e-5)


def test_people_are_drawn_where_they_are_said_to_be(pictures):
    faces = load_body().faces
    for picture in pictures:
        assert len(picture.people) == 2
        for person in picture.people:
            alone = render_mask(Scene([Mesh(person.vertices_cam_m, faces)]), picture.camera) == 0
            assert not (person.mask & ~alone).any()
            inside = (person.keypoints_px >= 0) & (person.keypoints_px < picture.camera.width)
            assert inside.all()


def test_people_stand_on_one_floor(pictures):
    for picture in pictures:
        feet = [person.vertices_cam_m[:, 1].max() for person in picture.people]
        assert abs(feet[0] - feet[1]) < 1e-5


def test_views_depend_on_their_arguments_alone(world, viewpoints, pictures):
    again = world.views(SEED, 0, viewpoints, people=2)
    assert [p.jpeg() for p in again] == [p.jpeg() for p in pictures]
    assert world.views(SEED, 1, viewpoints[:1])[0].jpeg() != world.views(SEED, 0, viewpoints[:1])[0].jpeg()


def test_a_ring_surrounds_the_middle_and_looks_at_it(viewpoints):
    places = np.stack([-v.rotation.T @ v.translation_m for v in viewpoints])
    assert (np.linalg.norm(places, axis=1) > 3.9).all()
    yaw = np.sort(np.arctan2(places[:, 0], places[:, 2]))
    assert np.diff(np.append(yaw, yaw[0] + 2 * np.pi)).max() < np.deg2rad(360 * 1.5 / CAMERAS)
    for viewpoint in viewpoints:
        middle = viewpoint.camera.project(viewpoint.translation_m)
        assert np.abs(middle - viewpoint.camera.width / 2).max() < 0.1 * viewpoint.camera.width


def test_the_17_joints_have_their_names_in_the_superset():
    names = [JOINTS.names[i] for i in JOINTS.h36m]
    assert names[:4] == ["pelvis", "left hip", "left knee", "left ankle"]
    assert names[7:11] == ["spine", "neck", "jaw", "head"]
    # as the published preprocessing places them
    published = [14, 3, 4, 5, 2, 1, 0, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6]
    assert [i - JOINTS.superset.start for i in JOINTS.h36m] == published
