"""Ray-cast pictures against areas, silhouettes and orders known without casting a ray."""

from __future__ import annotations

import numpy as np
import pytest

from spin.rendering import (
    Mesh,
    MeshError,
    Pinhole,
    Scene,
    overlay,
    render_mask,
    render_shaded,
    side_view,
    vertex_normals,
)

CAMERA = Pinhole(500.0, (80.0, 60.0), 160, 120)
QUAD_FACES = np.array([[0, 1, 2], [0, 2, 3]])


def quad(left: float, top: float, right: float, bottom: float, depth_m: float) -> Mesh:
    """A rectangle that covers the given image rectangle (px) exactly, at one depth."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
    xy = (corners - CAMERA.center_px) / CAMERA.focal_px * depth_m
    return Mesh(np.column_stack([xy, np.full(4, depth_m)]), QUAD_FACES)


def sphere(centre: tuple[float, float, float], radius_m: float) -> Mesh:
    """A fine sphere: 60 meridians and 30 parallels."""
    theta, phi = np.linspace(0, np.pi, 31), np.linspace(0, 2 * np.pi, 61)[:-1]
    t, p = np.meshgrid(theta, phi, indexing="ij")
    v = np.stack([np.sin(t) * np.cos(p), np.cos(t), np.sin(t) * np.sin(p)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(30), np.arange(60), indexing="ij")
    a, b = i * 60 + j, i * 60 + (j + 1) % 60
    faces = np.concatenate([np.stack([a, b, b + 60], -1), np.stack([a, b + 60, a + 60], -1)]).reshape(-1, 3)
    return Mesh(radius_m * v + centre, faces)


def inside_triangle(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """By the signs of the three edges' cross products."""
    signs = []
    for k in range(3):
        edge, to_point = corners[(k + 1) % 3] - corners[k], points - corners[k]
        signs.append(edge[0] * to_point[..., 1] - edge[1] * to_point[..., 0] > 0)
    return np.all(signs, 0) | ~np.any(signs, 0)


def test_triangle_covers_the_pixels_whose_centres_lie_in_its_projection():
    """Breaks if pixel centres are off by half a pixel, or x and y are confused."""
    vertices = np.array([[-0.31, -0.2, 2.0], [0.45, -0.11, 3.1], [0.05, 0.29, 2.4]])
    mask = render_mask(Scene([Mesh(vertices, np.array([[0, 1, 2]]))]), CAMERA) == 0
    centres = np.stack(np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5), -1)
    expected = inside_triangle(centres, CAMERA.project(vertices))
    assert (mask != expected).sum() <= 1
    assert expected.sum() > 2000


def test_quad_on_pixel_edges_is_covered_exactly_and_without_a_seam():
    mask = render_mask(Scene([quad(10, 20, 50, 90, 4.0)]), CAMERA) == 0
    expected = np.zeros((120, 160), bool)
    expected[20:90, 10:50] = True
    np.testing.assert_array_equal(mask, expected)


def test_coverage_of_a_quad_between_pixels_is_its_area():
    """Breaks if anti-aliasing misses outlines: the mask alone would be wrong by a fraction of a row."""
    drawn = render_shaded([quad(10.5, 20.25, 50.5, 60.75, 4.0)], CAMERA, colours=[np.ones(3)], samples=4)
    assert drawn.rgba[..., 3].sum() == pytest.approx(40 * 40.5, abs=1e-3)
    assert drawn.rgba[40, 10, 3] == pytest.approx(0.5)


def test_silhouette_of_a_sphere():
    """A sphere on the axis is seen as a disc of radius f r / sqrt(d² - r²): perspective, not orthographic."""
    focal, depth, radius = 500.0, 2.0, 0.18
    mask = render_mask(Scene([sphere((0, 0, depth), radius)]), CAMERA) == 0
    expected = np.pi * (focal * radius / np.sqrt(depth**2 - radius**2)) ** 2
    assert mask.sum() == pytest.approx(expected, rel=0.01)


def test_sphere_normals_point_outwards_whichever_way_its_faces_wind():
    mesh = sphere((0.3, -0.2, 2.0), 0.4)
    outward = (mesh.vertices_cam_m - [0.3, -0.2, 2.0]) / 0.4
    for faces in (mesh.faces, mesh.faces[:, ::-1]):
        normals = vertex_normals(Mesh(mesh.vertices_cam_m, faces))
        assert (normals * outward).sum(1).min() > 0.99


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_mesh_hides_the_farther(order):
    """Breaks if meshes are drawn in the order they are given."""
    meshes = [quad(20, 20, 80, 80, 3.0), quad(50, 20, 110, 80, 5.0)]
    mask = render_mask(Scene([meshes[i] for i in order]), CAMERA)
    assert np.all(mask[20:80, 20:80] == order.index(0))
    assert np.all(mask[20:80, 80:110] == order.index(1))
    assert (mask >= 0).sum() == 60 * 90


def test_depth_and_barycentric_weights_rebuild_the_point_that_was_hit():
    vertices = np.array([[-0.3, -0.2, 2.0], [0.4, -0.1, 3.1], [0.0, 0.3, 2.4]])
    scene = Scene([quad(0, 0, 5, 5, 9.0), Mesh(vertices, np.array([[0, 1, 2]]))])
    hits = scene.cast(CAMERA)
    rows = hits.mesh[hits.any] == 1
    point = scene.interpolate(hits, [m.vertices_cam_m for m in scene.meshes])[rows]
    ray = CAMERA.directions(CAMERA.grid(CAMERA.whole))[hits.mesh == 1]
    np.testing.assert_allclose(point, ray * hits.depth_m[hits.mesh == 1][:, None], atol=2e-6)


@pytest.mark.parametrize("vertices", [(0.0, 0.0, -3.0), (50.0, 0.0, 3.0), (0.0, -50.0, 3.0)])
def test_a_mesh_behind_or_beside_the_camera_leaves_the_image_alone(vertices):
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    mesh = sphere(vertices, 0.3)
    out = overlay(image, [mesh.vertices_cam_m], mesh.faces, focal_px=500, center_px=(80, 60))
    np.testing.assert_array_equal(out, image)
    assert out is not image


def test_a_mesh_around_the_camera_is_seen_from_within():
    """Vertices behind the camera have no pixel; the window must not be computed from them."""
    mesh = sphere((0, 0, 0.1), 1.0)
    assert np.all(render_mask(Scene([mesh]), CAMERA) == 0)


def test_nobody_is_an_empty_picture():
    image = np.full((120, 160, 3), 7, np.uint8)
    out = overlay(image, [], QUAD_FACES, focal_px=500, center_px=(80, 60))
    np.testing.assert_array_equal(out, image)
    assert Scene([]).window(CAMERA).empty


def test_overlay_changes_only_the_body_and_keeps_its_input():
    image = np.full((120, 160, 3), 100, np.uint8)
    mesh = quad(40, 30, 90, 70, 2.0)
    half = overlay(image, [mesh.vertices_cam_m], mesh.faces, focal_px=500, center_px=(80, 60), alpha=0.5)
    full = overlay(image, [mesh.vertices_cam_m], mesh.faces, focal_px=500, center_px=(80, 60), alpha=1.0)
    changed = (full != image).any(-1)
    assert changed[31:69, 41:89].all()
    assert changed.sum() <= 50 * 40
    np.testing.assert_allclose(half.astype(int), (full.astype(int) + image) / 2, atol=1)
    assert (image == 100).all()


def test_side_view_shows_depth_as_width():
    """A plank 0.1 m wide and 0.8 m deep is wide from the side, and stays where it was."""
    box = np.array([[x, y, z] for x in (-0.05, 0.05) for y in (-0.3, 0.3) for z in (9.6, 10.4)])
    sides = [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]]
    faces = np.array([[q[0], q[i], q[i + 1]] for q in sides for i in (1, 2)])
    out = side_view(box, faces, focal_px=1000, center_px=(80, 60), width=160, height=120)
    columns = np.nonzero((out < 255).any((0, 2)))[0]
    assert columns.min() == pytest.approx(80 - 40, abs=2)
    assert columns.max() == pytest.approx(80 + 40, abs=2)


def test_unusable_input_is_named():
    mesh = quad(10, 10, 20, 20, 2.0)
    with pytest.raises(MeshError, match="not finite"):
        Mesh(mesh.vertices_cam_m * np.nan, mesh.faces)
    with pytest.raises(MeshError, match="0 to 3"):
        Mesh(mesh.vertices_cam_m, mesh.faces + 1)
    with pytest.raises(MeshError, match="focal"):
        Pinhole(0.0, (1, 1), 4, 4)
    with pytest.raises(MeshError, match="uint8"):
        overlay(np.zeros((4, 4, 3)), [], mesh.faces, focal_px=5, center_px=(2, 2))
    with pytest.raises(MeshError, match="opacity"):
        overlay(np.zeros((4, 4, 3), np.uint8), [], mesh.faces, focal_px=5, center_px=(2, 2), alpha=2)
