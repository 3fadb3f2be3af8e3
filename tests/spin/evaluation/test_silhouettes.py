"""Masks and parts of a body against rasters that cast no ray."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spin.camera import CROP_PX, FOCAL_PX, weak_to_translation
from spin.errors import BodyFileError, KeypointError
from spin.evaluation.body_parts import PARTS, SkinnedParts, TexturedParts, surface_parts
from spin.evaluation.silhouettes import Silhouette, silhouette, to_image

CENTRE = (CROP_PX / 2, CROP_PX / 2)
FRONT = np.array([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.2, 0.0]])
ONE_FACE = np.array([[0, 1, 2]])


class Faces:
    """Every face is a part of its own, modulo six."""

    source = "test"

    def labels(self, face: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
        return (1 + face % 6).astype(np.uint8)


def of(vertices_m: np.ndarray, faces: np.ndarray, parts, weak=(0.8, 0.1, 0.05)) -> Silhouette:
    shift = weak_to_translation(torch.tensor([weak])).numpy()
    return silhouette(vertices_m + shift, faces, parts, focal_px=FOCAL_PX, principal_px=CENTRE)


def by_edges(vertices_cam_m: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The nearest face at each pixel's centre, -1 for none: a z-buffer of edge functions, in float64."""
    centres = np.arange(CROP_PX) + 0.5
    x, y = (centres[None, :] - CENTRE[0]) / FOCAL_PX, (centres[:, None] - CENTRE[1]) / FOCAL_PX
    nearest, depth = np.full((CROP_PX, CROP_PX), -1), np.full((CROP_PX, CROP_PX), np.inf)
    for number, corners in enumerate(vertices_cam_m[faces]):
        flat = corners[:, :2] / corners[:, 2:]
        low = np.floor(flat.min(0) * FOCAL_PX + CENTRE).astype(int).clip(0, CROP_PX)
        high = np.ceil(flat.max(0) * FOCAL_PX + CENTRE).astype(int).clip(0, CROP_PX)
        box = slice(low[1], high[1]), slice(low[0], high[0])
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        px, py = np.broadcast_arrays(x[:, box[1]], y[box[0]])
        along = normal @ corners[0] / (normal[0] * px + normal[1] * py + normal[2])
        signs = []
        for k in range(3):
            edge, to = flat[(k + 1) % 3] - flat[k], (px - flat[k, 0], py - flat[k, 1])
            signs.append(edge[0] * to[1] - edge[1] * to[0])
        inside = (np.all(np.array(signs) >= 0, 0) | np.all(np.array(signs) <= 0, 0)) & (along < depth[box])
        nearest[box][inside], depth[box][inside] = number, along[inside]
    return nearest


def test_mask_and_faces_of_a_posed_body_are_those_of_a_z_buffer(body, mesh) -> None:
    generator = torch.Generator().manual_seed(5)
    pose = 0.3 * torch.randn(3, 72, generator=generator)
    pose[:, 0] += torch.pi
    with torch.no_grad():
        vertices = mesh(pose, torch.randn(3, 10, generator=generator)).vertices_m.numpy()
    weak = (0.8, 0.1, 0.05)
    shift = weak_to_translation(torch.tensor([weak])).numpy()
    for one in vertices.astype(np.float64):
        seen = of(one, body.faces, Faces(), weak)
        face = by_edges(one + shift, body.faces)
        assert (face >= 0).sum() > 3000
        # A ray through an edge may go to either side of it: a pixel or two of some thousand.
        assert (seen.mask != (face >= 0)).sum() <= 3
        assert (seen.part != np.where(face >= 0, 1 + face % 6, 0)).sum() <= 5
    left, right = (PARTS.index(f"{side} arm") + 1 for side in ("left", "right"))
    with torch.no_grad():
        rest = mesh(torch.tensor([[torch.pi] + [0.0] * 71]), torch.zeros(1, 10)).vertices_m[0].numpy()
    seen = of(rest, body.faces, SkinnedParts(body))
    assert set(np.unique(seen.part)) == set(range(7))
    across = [np.nonzero(seen.part == label)[1].mean() for label in (right, left)]
    assert across[0] < CROP_PX / 2 < across[1]  # who faces the camera has their left on the right


def test_nothing_is_seen_behind_the_camera_or_off_the_crop(body) -> None:
    for weak in ((-0.8, 0.0, 0.0), (0.8, 9.0, 0.0)):
        seen = of(FRONT, ONE_FACE, Faces(), weak)
        assert not seen.mask.any()
        assert not seen.part.any()


def published_uncrop(crop: np.ndarray, center: np.ndarray, scale: float, size: tuple[int, int]) -> np.ndarray:
    """Enlarged by Pillow, which SciPy's imresize called, and cut with the published corners."""
    from PIL import Image

    matrix = np.array([[224 / (200 * scale), 0, 224 * (-c / (200 * scale) + 0.5)] for c in center] + [[0, 0, 1]])
    matrix[1, :2] = matrix[1, 1::-1]
    corner, other = ((np.linalg.inv(matrix) @ [at, at, 1])[:2].astype(int) for at in (0, 224))
    box = (other[0] - corner[0], other[1] - corner[1])
    large = np.array(Image.fromarray(crop).resize(box, Image.Resampling.NEAREST))
    out = np.zeros(size, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            if corner[1] <= y < other[1] and corner[0] <= x < other[0]:
                out[y, x] = large[y - corner[1], x - corner[0]]
    return out


@pytest.mark.parametrize(
    ("center", "scale"), [((60.0, 50.0), 0.6), ((3.3, 91.8), 1.37), ((130.2, -20.7), 0.41), ((60, 50), 2.5)]
)
def test_enlarging_to_the_image_is_the_published_one(center, scale) -> None:
    crop = np.random.default_rng(0).integers(0, 7, (CROP_PX, CROP_PX)).astype(np.uint8)
    size = (90, 120)
    expected = published_uncrop(crop, np.array(center), scale, size)
    assert np.array_equal(to_image(crop, np.array(center), scale, size), expected)
    assert expected.any()


def test_a_box_far_off_the_image_leaves_it_empty() -> None:
    crop = np.ones((CROP_PX, CROP_PX), np.uint8)
    assert not to_image(crop, np.array([-5000.0, 10.0]), 1.0, (20, 30)).any()
    assert not to_image(crop, np.array([10.2, 10.3]), 1e-4, (20, 30)).any()
    with pytest.raises(KeypointError, match="its box is 20000000 px"):
        to_image(crop, np.array([10.0, 10.0]), 1e5, (20, 30))


def test_textures_are_blended_and_looked_up() -> None:
    """A face whose corners have a part each shows, at a point, the part of the blended colour."""
    texture = np.zeros((1, 2, 2, 2, 3))
    texture[0, 1, 0, 0], texture[0, 0, 1, 0], texture[0, 0, 0, 1] = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    cube = np.zeros((101, 101, 101), np.uint8)
    cube[100], cube[:, 100], cube[:, :, 100] = 1, 2, 3
    cube[12, 12, 12] = 4
    parts = TexturedParts(texture, cube)
    points = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.5, 0.25, 0.25], [0.5, 0.5, 0]])
    # trilinear: a corner's colour weighs its own share times what the others lack
    assert parts.labels(np.zeros(5, int), points).tolist()[:3] == [1, 2, 3]
    third = np.full((1, 3), 1 / 3)
    blend = (1 / 3) * (2 / 3) ** 2
    cube[tuple(np.floor(100 * np.full(3, blend)).astype(int))] = 5
    assert TexturedParts(texture, cube).labels(np.zeros(1, int), third).tolist() == [5]


def test_spins_files_are_used_where_they_are_given(body, tmp_path) -> None:
    assert isinstance(surface_parts(body, tmp_path), SkinnedParts)
    count = len(body.faces)
    label = 1 + np.arange(count) % 6
    colours = np.repeat(label / 10 + 0.005, 8).reshape(count, 2, 2, 2, 1) * np.ones(3)
    cube = np.zeros((101, 101, 101), np.int64)
    for part in range(1, 7):
        cube[10 * part, 10 * part, 10 * part] = part
    np.save(tmp_path / "vertex_texture.npy", colours[None])
    with pytest.raises(BodyFileError, match=r"cube_parts\.npy does not; body parts need both files"):
        surface_parts(body, tmp_path)
    np.save(tmp_path / "cube_parts.npy", cube)
    parts = surface_parts(body, tmp_path)
    assert parts.source.startswith("vertex_texture.npy and cube_parts.npy, sha256 ")
    middle = np.full((count, 3), 1 / 3)
    assert np.array_equal(parts.labels(np.arange(count), middle), label)
    np.save(tmp_path / "vertex_texture.npy", colours[None, 1:])
    with pytest.raises(BodyFileError, match="for the faces of"):
        surface_parts(body, tmp_path)
    np.save(tmp_path / "vertex_texture.npy", colours[None])
    np.save(tmp_path / "cube_parts.npy", cube + 7)
    with pytest.raises(BodyFileError, match="labels 0 to 6"):
        surface_parts(body, tmp_path)
