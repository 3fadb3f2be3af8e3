from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from spin.camera import CROP_PX, FOCAL_PX, project, weak_to_translation
from spin.crop import box_to_center_scale, crop_affine, crop_image, keypoints_to_crop, normalise
from spin.errors import ImageError, KeypointError
from spin.images import read_image
from spin.joints import COCO_NAMES, JOINTS, KEYPOINT_TO_MODEL, SMPL_MIRROR
from spin.rotations import (
    axis_angle_to_matrix,
    matrix_and_left_jacobian,
    matrix_to_axis_angle,
    matrix_to_rot6d,
    mirror_pose,
    rot6d_to_matrix,
    rotate_in_plane,
    skew,
)

# fmt: off
# Published tables (SPIN, constants.py); there, the nine extra joints are 45..53, behind ten finger tips.
PUBLISHED_MAP = [
    24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34,
    8, 5, 45, 46, 4, 7, 21, 19, 17, 16, 18, 20, 47, 48, 49, 50, 51, 52, 53, 24, 26, 25, 28, 27,
]
PUBLISHED_SUPERSET_FLIP = [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13, 14, 15, 16, 17, 18, 19, 21, 20, 23, 22]
PUBLISHED_OPENPOSE_FLIP = [
    0, 1, 5, 6, 7, 2, 3, 4, 8, 12, 13, 14, 9, 10, 11, 16, 15, 18, 17, 22, 23, 24, 19, 20, 21,
]
PUBLISHED_SMPL_FLIP = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22]
# fmt: on


def test_joint_tables_are_the_published_ones() -> None:
    assert list(KEYPOINT_TO_MODEL) == [i if i < 35 else i - 10 for i in PUBLISHED_MAP]
    assert list(JOINTS.mirror) == PUBLISHED_OPENPOSE_FLIP + [25 + i for i in PUBLISHED_SUPERSET_FLIP]
    assert list(SMPL_MIRROR) == PUBLISHED_SMPL_FLIP
    assert [i - 25 for i in JOINTS.coco] == [19, 20, 21, 22, 23, 9, 8, 10, 7, 11, 6, 3, 2, 4, 1, 5, 0]
    assert [JOINTS.names[i] for i in JOINTS.coco] == list(COCO_NAMES)
    assert JOINTS.ignored_in_body_term == (1, 9, 12, 27, 28)
    assert len(JOINTS.names) == JOINTS.count == 49


def random_axis_angles(largest: float, count: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    return axis * torch.linspace(0, largest, count, dtype=torch.float64)[:, None]


def test_axis_angle_round_trip_up_to_half_a_turn() -> None:
    angles = random_axis_angles(np.pi - 1e-6)
    assert torch.allclose(matrix_to_axis_angle(axis_angle_to_matrix(angles)), angles, atol=1e-9)
    half = random_axis_angles(np.pi)[-1:]
    again = axis_angle_to_matrix(matrix_to_axis_angle(axis_angle_to_matrix(half)))
    assert torch.allclose(again, axis_angle_to_matrix(half), atol=1e-9)  # the axis may point either way


def test_rotations_are_smooth_at_zero_and_across_the_series_switch() -> None:
    assert torch.autograd.gradcheck(axis_angle_to_matrix, torch.zeros(2, 3, dtype=torch.float64).requires_grad_())
    near = torch.tensor([[0.0099, 0.0, 0.0], [0.0101, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, near)
    exact = torch.linalg.matrix_exp(skew(near.detach()))
    assert torch.allclose(axis_angle_to_matrix(near.detach()), exact, atol=1e-14)
    inputs = random_axis_angles(3.0, 20).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: matrix_to_axis_angle(axis_angle_to_matrix(a)), inputs)


def test_left_jacobian_against_finite_differences() -> None:
    angles, h = random_axis_angles(3.0, 50), 1e-6
    rotation, left = matrix_and_left_jacobian(angles)
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = h
        moved = (axis_angle_to_matrix(angles + step) - axis_angle_to_matrix(angles - step)) / (2 * h)
        assert torch.allclose(moved, skew(left[..., i]) @ rotation, atol=1e-8)


def test_six_numbers_make_the_rotation_they_came_from() -> None:
    rotation = axis_angle_to_matrix(random_axis_angles(3.0))
    assert torch.allclose(rot6d_to_matrix(matrix_to_rot6d(rotation) * 2.5), rotation, atol=1e-12)


def test_mirrored_pose_gives_the_mirrored_body(compact) -> None:
    generator = torch.Generator().manual_seed(1)
    pose, betas = 0.4 * torch.randn(5, 72, generator=generator), torch.randn(5, 10, generator=generator)
    ours = compact.keypoints(compact(pose, betas))
    seen = compact.keypoints(compact(mirror_pose(pose), betas))[:, list(JOINTS.mirror)]
    assert torch.allclose(seen * torch.tensor([-1.0, 1, 1]), ours, atol=1e-5)


def test_turning_in_plane_turns_the_projection(compact) -> None:
    pose, betas = torch.zeros(1, 72), torch.zeros(1, 10)
    pose[0, 0] = np.pi
    camera = torch.tensor([[0.0, 0.0, 40.0]])

    def seen(p: torch.Tensor) -> torch.Tensor:
        points = compact(p, betas)
        return project(points - points[:, :1], camera)[0] - CROP_PX / 2

    angle = 30.0
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turned = seen(pose) @ torch.tensor([[c, -s], [s, c]], dtype=torch.float32).T
    assert torch.allclose(seen(rotate_in_plane(pose, torch.tensor([angle]))), turned, atol=1e-2)


def test_projection_by_hand() -> None:
    points = torch.tensor([[[0.1, -0.2, 1.0]]])
    camera = torch.tensor([[0.0, 0.1, 49.0]])
    expected = torch.tensor([[[FOCAL_PX * 0.1 / 50 + 112, FOCAL_PX * -0.1 / 50 + 112]]])
    assert torch.allclose(project(points, camera), expected)
    assert torch.allclose(weak_to_translation(torch.tensor([[0.5, 0.1, 0.2]])), torch.tensor([[0.1, 0.2, 10000 / 112]]))


def test_boxes_and_keypoints_in_the_crop() -> None:
    center, scale = box_to_center_scale(np.array([10, 20, 100, 200.0]))
    assert center.tolist() == [60, 120]
    assert scale == pytest.approx(1.2)
    corner = np.array([[[60 - 120, 120 - 120, 1.0], [60 + 120, 120, 0.5]]], np.float32)
    out = keypoints_to_crop(corner, center[None], np.array([scale]))
    assert np.allclose(out[0], [[0, 0, 1], [224, 112, 0.5]])
    assert corner[0, 0, 0] == -60  # the caller's array stays
    for bad in (0.0, np.nan, np.inf, -1.0):
        with pytest.raises(KeypointError, match="no area"):
            crop_affine(center, bad)


@pytest.mark.parametrize("rotation_deg", [0.0, 25.0])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [180, 900])
def test_the_crop_shows_a_point_where_the_affine_says(rotation_deg: float, flip: bool, size: int) -> None:
    image = np.zeros((size, size, 3), np.uint8)
    at = np.array([size * 0.4, size * 0.55])
    radius = max(2, size // 60)
    # shift: sixteenths of a pixel, so that the disc's centre is exact
    cv2.circle(image, tuple(np.round((at - 0.5) * 16).astype(int)), radius * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    center, scale = np.array([size / 2, size / 2]), size / 200
    crop = crop_image(image, center, scale, rotation_deg=rotation_deg, flip=flip).astype(float)[..., 0]
    expected = crop_affine(center, scale, rotation_deg) @ [*at, 1]
    if flip:
        expected[0] = CROP_PX - expected[0]
    rows, columns = np.indices(crop.shape) + 0.5
    found = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
    assert np.allclose(found, expected, atol=0.15)


def test_normalised_crop_uses_imagenets_statistics_and_gains() -> None:
    crop = np.full((4, 4, 3), 128, np.uint8)
    plain, bright = normalise(crop), normalise(crop, np.array([4.0, 1.0, 1.0]))
    assert plain.shape == (3, 4, 4)
    assert plain[1, 0, 0] == pytest.approx((128 / 255 - 0.456) / 0.224, abs=1e-5)
    assert bright[0, 0, 0] == pytest.approx((1 - 0.485) / 0.229, abs=1e-5)


def test_unreadable_images_are_named(tmp_path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.jpg")
    for content in (b"", b"not a picture"):
        (tmp_path / "broken.jpg").write_bytes(content)
        with pytest.raises(ImageError, match=r"broken\.jpg: can't be decoded"):
            read_image(tmp_path / "broken.jpg")
    grey = np.full((5, 7), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    assert read_image(tmp_path / "grey.png").shape == (5, 7, 3)
