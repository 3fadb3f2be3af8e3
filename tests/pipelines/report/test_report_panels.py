"""The panels: bodies are drawn where the people are, with keypoints, a side view and a contact sheet."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from report_world import LOSSES, make_fits

from pipelines import panels
from pipelines.report import contact_sheet
from pipelines.report.build import SHEET_PANEL_PX
from spin.camera import CROP_PX, FOCAL_PX, project
from spin.crop import crop_affine, crop_image
from spin.rendering import Mesh, Pinhole, Scene, render_mask
from store.annotations.table import Annotations

ZOOM = panels.PANEL_PX / (CROP_PX * panels.SURROUNDINGS)
PUBLISHED_CAMERA = panels.PanelCamera(FOCAL_PX * ZOOM, (panels.PANEL_PX / 2, panels.PANEL_PX / 2))


def test_the_panels_camera_is_the_photographs_own_where_it_is_known(world, mesh):
    annotations = Annotations.read(world.data.annotations("people"))
    assert panels.panel_camera(annotations, 0) == PUBLISHED_CAMERA
    count = len(annotations)
    known = replace(
        annotations,
        has_camera=np.ones(count, bool),
        focal_px=np.full(count, 800, np.float32),
        principal_px=np.full((count, 2), 130, np.float32),
    )
    camera = panels.panel_camera(known, 0)
    point = np.array([0.2, -0.1, 4.0])
    image_px = 800 * point[:2] / point[2] + 130
    to_panel = crop_affine(known.center_px[0], panels.SURROUNDINGS * float(known.scale[0]), crop_px=panels.PANEL_PX)
    seen = camera.focal_px * point[:2] / point[2] + camera.center_px
    np.testing.assert_allclose(to_panel[:, :2] @ image_px + to_panel[:, 2], seen, atol=1e-3)


@pytest.mark.parametrize(("center", "scale"), [((150.0, 140.0), 0.8), ((390.0, 20.0), 2.3)])
def test_bodies_are_drawn_where_the_full_photograph_has_them(mesh, center, scale):
    """The panel's camera against the photograph's own: focal length 5000 × 200 scale / 224 px about the box's centre."""
    pose, betas = torch.zeros(1, 72), torch.zeros(1, 10)
    pose[0, 0], pose[0, 48:51] = np.pi, torch.tensor([0.0, 0.4, 0.8])
    vertices = (mesh(pose, betas).vertices_m[0] + torch.tensor([0.1, 0.15, 45.0])).numpy()
    center_px = np.array(center, np.float32)
    size = 1200
    camera = Pinhole(FOCAL_PX * 200 * scale / CROP_PX, (center[0] + 400, center[1] + 400), size, size)
    seen = (render_mask(Scene([Mesh(vertices, mesh.faces)]), camera) >= 0).astype(np.uint8)
    wide = np.repeat(255 * seen[..., None], 3, 2)
    expected = crop_image(wide, center_px + 400, panels.SURROUNDINGS * scale, crop_px=panels.PANEL_PX)[..., 0] > 127
    blank = panels.Photograph(np.zeros((panels.PANEL_PX, panels.PANEL_PX, 3), np.uint8))
    drawn = panels.with_fit(blank, vertices, mesh.faces, PUBLISHED_CAMERA).max(2) > 40
    assert drawn.sum() > 5000
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.94
    centres = [np.argwhere(mask).mean(0) for mask in (drawn, expected)]
    np.testing.assert_allclose(*centres, atol=0.5)


def test_keypoints_lie_on_the_projected_body(mesh):
    """A fit's keypoint, by way of the crop and the image, is drawn where the panel's camera sees it."""
    camera = torch.tensor([[0.1, -0.2, 40.0]])
    pose = torch.zeros(1, 72)
    points = mesh(pose, torch.zeros(1, 10)).keypoints_m
    crop_px = project(points, camera)[0].numpy()
    center_px, scale = np.array([333.0, 210.0], np.float32), 1.7
    to_crop = crop_affine(center_px, scale)
    image_px = np.linalg.solve(to_crop[:, :2], (crop_px - to_crop[:, 2]).T).T
    to_panel = crop_affine(center_px, panels.SURROUNDINGS * scale, crop_px=panels.PANEL_PX)
    panel = Pinhole(PUBLISHED_CAMERA.focal_px, PUBLISHED_CAMERA.center_px, panels.PANEL_PX, panels.PANEL_PX)
    expected = panel.project((points[0] + camera).numpy())
    np.testing.assert_allclose(image_px @ to_panel[:, :2].T + to_panel[:, 2], expected, atol=2e-3)


def test_a_batch_is_posed_as_its_samples_are(mesh, monkeypatch):
    monkeypatch.setattr(panels, "_BATCH", 2)
    fits = make_fits(LOSSES[:5])
    fits.pose[:] += np.random.default_rng(2).normal(0, 0.2, fits.pose.shape).astype(np.float32)
    together = panels.pose_vertices(mesh, fits)
    alone = np.concatenate([panels.pose_vertices(mesh, fits.take(slice(i, i + 1))) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_keypoints_and_sides(world):
    """A joint's dot has its side's colour; a joint that is not annotated has none."""
    annotations = Annotations.read(world.data.annotations("people"))
    keypoints = np.zeros_like(annotations.keypoints_px)
    left_wrist = 25 + 11
    keypoints[0, left_wrist] = (150, 150, 1)  # the middle of the box
    blank = panels.Photograph(np.zeros((panels.PANEL_PX, panels.PANEL_PX, 3), np.uint8))
    drawn = panels.with_keypoints(blank, replace(annotations, keypoints_px=keypoints), 0)
    rows, columns = np.nonzero(drawn.any(2))
    assert abs(rows.mean() + 0.5 - panels.PANEL_PX / 2) < 0.6
    assert abs(columns.mean() + 0.5 - panels.PANEL_PX / 2) < 0.6
    assert len(rows) < 100
    assert drawn[panels.PANEL_PX // 2, panels.PANEL_PX // 2].argmax() == 2  # the left side's blue


def test_the_side_view_holds_the_whole_body(mesh):
    """Lying along the line of sight, the body is far longer from the side than from the front."""
    fits = make_fits(LOSSES[:1])
    fits.pose[:, 0] = np.pi / 2
    (vertices,) = panels.pose_vertices(mesh, fits)
    near = vertices - [0, 0, 25]  # the camera comes close: too large for the panel
    drawn = (panels.from_the_side(near, mesh.faces, PUBLISHED_CAMERA) < 250).any(2)
    assert drawn.any(0).sum() > 0.8 * panels.PANEL_PX
    assert not drawn[0].any() and not drawn[-1].any() and not drawn[:, 0].any() and not drawn[:, -1].any()


def test_outside_the_photograph_is_not_black(world):
    annotations = Annotations.read(world.data.annotations("people"))
    moved = replace(annotations, center_px=np.zeros_like(annotations.center_px))
    cut = panels.cut_photograph(moved, 0).image
    assert (cut[: panels.PANEL_PX // 2 - 2] == cut[0, 0]).all()
    assert cut[0, 0, 0] > 200
    assert cut[-5:, -5:].mean() < 170


def test_the_sheet_shows_up_to_six_people(built):
    summary, _, _ = built
    sheet = cv2.imread(str(summary.sheet))
    better = 3  # of six fits
    rows, columns = -(-3 * better // 6), 6
    assert sheet.shape[0] // SHEET_PANEL_PX == rows
    assert sheet.shape[1] // SHEET_PANEL_PX == columns


def test_contact_sheet():
    tall, small = np.full((30, 10, 3), 7, np.uint8), np.full((10, 20, 3), 9, np.uint8)
    sheet = contact_sheet([tall, small, small], columns=2)
    assert sheet.shape == (2 * 30 + 6, 2 * 20 + 6, 3)
    assert (sheet[:30, 5:15] == 7).all()
    assert (sheet == 9).all(2).sum() == 2 * 200
    assert (sheet == 255).all(2).sum() == sheet.shape[0] * sheet.shape[1] - 300 - 400
    with pytest.raises(ValueError, match="0 panels"):
        contact_sheet([], columns=2)
