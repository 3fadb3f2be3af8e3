"""The embedded world: pictures of people whose every parameter is known.

`World.picture(seed, index)`, one moment from one side, and `World.views(seed, index, …)`, one from several, are functions of
their arguments, the body and the prior alone: the same bytes in any process and any order, however many work at it (each
on one thread).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from spin.camera import CROP_PX, FOCAL_PX
from spin.rendering import Hits, Light, Mesh, Pinhole, Scene, lambert, render, vertex_normals
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from spin.world.appearance import Landmarks, Outfit, cloth_colour, mapped_suit, paint, random_outfit
from spin.world.backdrop import Backdrop, octaves, plain_backdrop, random_backdrop
from spin.world.optics import Lamp, Sun, expose, random_sun
from spin.world.people import place, random_bodies
from spin.world.rig import Viewpoint
from spin.world.visibility import keypoint_visibility

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

    from spin.body import BodyData, BodyMesh
    from spin.fitting.prior import PosePrior

_PAIR_SHARE = 0.3
_OCCLUDER_SHARE = 0.2
_OCCLUDED_LIMIT = 0.35
_SMALLEST_PX, _ATTEMPTS = 250, 20
_APART_M = 0.9  # people of several views, from one to the next
# Streams of random numbers besides that of `picture`
_WHO, _VIEW, _PORTRAIT = 2, 3, 5
_PORTRAIT_SPAN = 0.8
_LAMP_M = 1.4  # from the person's middle


@dataclass(frozen=True)
class WorldPerson:
    """One person of a picture and the truth about them; camera frame, metres, and image pixels.

    `visibility` of the 49 keypoints is COCO's: 0 outside the image, 1 hidden, 2 seen; `mask` is what is seen.
    """

    pose_aa: Float[np.ndarray, " 72"]
    betas: Float[np.ndarray, " 10"]
    pelvis_cam_m: Float[np.ndarray, " 3"]
    vertices_cam_m: Float[np.ndarray, "V 3"]
    keypoints_cam_m: Float[np.ndarray, "49 3"]
    joints17_cam_m: Float[np.ndarray, "17 3"]
    keypoints_px: Float[np.ndarray, "49 2"]
    visibility: Int[np.ndarray, " 49"]
    mask: Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class Picture:
    """An image (RGB), the quality (0-100) to compress it with, its camera, and its people."""

    image: UInt8[np.ndarray, "H W 3"]
    jpeg_quality: int
    camera: Pinhole
    people: tuple[WorldPerson, ...]

    def jpeg(self) -> bytes:
        return cv2.imencode(".jpg", self.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])[1].tobytes()


@dataclass(frozen=True)
class _Bodies:
    """People in one frame, metres, a row each."""

    pose_aa: Float[np.ndarray, "B 72"]
    betas: Float[np.ndarray, "B 10"]
    pelvis_m: Float[np.ndarray, "B 3"]
    vertices_m: Float[np.ndarray, "B V 3"]
    keypoints_m: Float[np.ndarray, "B 49 3"]
    joints17_m: Float[np.ndarray, "B 17 3"]

    def moved(self, by_m: Float[np.ndarray, "B 3"]) -> _Bodies:
        """Each person somewhere else."""
        by = by_m[:, None]
        return _Bodies(
            self.pose_aa,
            self.betas,
            self.pelvis_m + by_m,
            self.vertices_m + by,
            self.keypoints_m + by,
            self.joints17_m + by,
        )

    def seen_from(self, viewpoint: Viewpoint) -> _Bodies:
        """The same people in the frame of a camera. A pose turns at its root: the rest of it is relative to that."""
        rotation, move = viewpoint.rotation, viewpoint.translation_m
        root = torch.from_numpy(self.pose_aa[:, :3].astype(np.float64))
        turned = matrix_to_axis_angle(torch.from_numpy(rotation) @ axis_angle_to_matrix(root)).numpy()
        points = (self.pelvis_m, self.vertices_m, self.keypoints_m, self.joints17_m)
        pose = np.concatenate([turned, self.pose_aa[:, 3:]], 1).astype(np.float32)
        return _Bodies(pose, self.betas, *(p @ rotation.T + move for p in points))


class World:
    """Draws pictures with one body and one pose prior."""

    def __init__(self, body: BodyData, mesh: BodyMesh, prior: PosePrior) -> None:
        self._mesh, self._prior = mesh, prior
        self._faces = np.asarray(body.faces, np.int32)
        with torch.no_grad():
            rest = mesh(torch.zeros(1, 72), torch.zeros(1, 10))
        self._rest_m = rest.vertices_m[0].numpy()
        is_head = body.vertex_part == body.part_names.index("head")
        self._marks = Landmarks.of(rest.points_m[0].numpy(), self._rest_m, is_head)

    @staticmethod
    def people_in(seed: int, index: int) -> int:
        """How many people picture `index` has, without drawing it."""
        return 2 if np.random.default_rng([seed, index, 1]).random() < _PAIR_SHARE else 1

    def picture(self, seed: int, index: int, *, most: int = 2) -> Picture:
        """Picture `index` of the world `seed` (256 to 400 px a side), with at most `most` people.

        Pictures in which somebody can hardly be seen are drawn anew.
        """
        count = min(self.people_in(seed, index), most)
        for attempt in range(_ATTEMPTS):
            picture = self._attempt(np.random.default_rng([seed, index, 0, attempt]), count)
            if all(person.mask.sum() >= _SMALLEST_PX for person in picture.people):
                return picture
        raise RuntimeError(f"world {seed}: picture {index} hides somebody in each of {_ATTEMPTS} attempts")

    def portrait(self, seed: int, index: int, side_px: int, *, studio: bool = False) -> Picture:
        """One person who fills 80 % of a square picture, seen through the camera that crops are predicted in.

        For experiments with small pictures. In the studio people wear a mapped suit, all else is grey, nothing hides them, and
        a lamp stands before them, so that brightness tells how near a limb is.
        """
        rng = np.random.default_rng([seed, index, _PORTRAIT])
        bodies = self._bodies(*random_bodies(rng, self._prior, 1))
        low, high = bodies.keypoints_m[0].min(0), bodies.keypoints_m[0].max(0)
        away = FOCAL_PX / CROP_PX * float((high - low)[:2].max()) / _PORTRAIT_SPAN
        camera = Pinhole(FOCAL_PX * side_px / CROP_PX, (side_px / 2, side_px / 2), side_px, side_px)
        bodies = bodies.moved(np.array([[0.0, 0.0, away]]) - (low + high) / 2)
        outfit = mapped_suit() if studio else random_outfit(rng)
        lamp = Lamp(np.array([0, 0, away - _LAMP_M]), _LAMP_M) if studio else None
        return self._photograph(rng, camera, bodies, [outfit], lamp)

    def views(self, seed: int, index: int, viewpoints: Sequence[Viewpoint], *, people: int = 1) -> tuple[Picture, ...]:
        """Moment `index` of the world `seed` as each viewpoint sees it: the same people in the same place.

        They stand side by side around the world's middle. Light and backdrop are each picture's own.
        """
        rng = np.random.default_rng([seed, index, _WHO])
        pose, betas = random_bodies(rng, self._prior, people)
        outfits = [random_outfit(rng) for _ in range(people)]
        bodies = self._bodies(pose, betas)
        feet = bodies.vertices_m[..., 1].max(1) - bodies.pelvis_m[:, 1]
        place = np.stack([_APART_M * (np.arange(people) - (people - 1) / 2), feet[0] - feet, np.zeros(people)], 1)
        bodies = bodies.moved(place + [1, 0, 1] * rng.uniform(-0.2, 0.2, 3) - bodies.pelvis_m)
        return tuple(
            self._photograph(np.random.default_rng([seed, index, _VIEW, number]), v.camera, bodies.seen_from(v), outfits)
            for number, v in enumerate(viewpoints)
        )

    def _attempt(self, rng: np.random.Generator, count: int) -> Picture:
        bodies = self._bodies(*random_bodies(rng, self._prior, count))
        placed = place(rng, bodies.vertices_m - bodies.pelvis_m[:, None])
        # from the body's own frame to the camera's
        bodies = bodies.moved(placed.translations_m - bodies.pelvis_m)
        return self._photograph(rng, placed.camera, bodies, [random_outfit(rng) for _ in range(count)])

    def _bodies(self, pose: Float[np.ndarray, "B 72"], betas: Float[np.ndarray, "B 10"]) -> _Bodies:
        """People in their own frames."""
        with torch.no_grad():
            out = self._mesh(torch.from_numpy(pose), torch.from_numpy(betas))
        return _Bodies(
            pose,
            betas,
            out.points_m[:, 0].numpy(),
            out.vertices_m.numpy(),
            out.keypoints_m.numpy(),
            out.joints17_m.numpy(),
        )

    def _photograph(
        self,
        rng: np.random.Generator,
        camera: Pinhole,
        bodies: _Bodies,
        outfits: list[Outfit],
        lamp: Lamp | None = None,
    ) -> Picture:
        """A picture of people who are in the camera's frame: in a studio, if there is a lamp."""
        scene = Scene([Mesh(v, self._faces) for v in bodies.vertices_m.astype(np.float32)])
        count, sun = len(outfits), random_sun(rng)
        floor_y_m = float(bodies.vertices_m[..., 1].max())
        backdrop = random_backdrop(rng, camera, floor_y_m) if lamp is None else plain_backdrop(camera)
        light, whose = self._draw(scene, camera, outfits, sun if lamp is None else lamp, backdrop)
        masks = [whose == i for i in range(count)]
        occluder = np.zeros(whose.shape, bool)
        if lamp is None:
            light, occluder = _occlude(rng, light, masks)
        people = tuple(
            WorldPerson(
                pose_aa=bodies.pose_aa[i],
                betas=bodies.betas[i],
                pelvis_cam_m=bodies.pelvis_m[i],
                vertices_cam_m=bodies.vertices_m[i].astype(np.float32),
                keypoints_cam_m=bodies.keypoints_m[i],
                joints17_cam_m=bodies.joints17_m[i],
                keypoints_px=camera.project(bodies.keypoints_m[i]),
                visibility=keypoint_visibility(scene, camera, i, bodies.keypoints_m[i], occluder),
                mask=masks[i] & ~occluder,
            )
            for i in range(count)
        )
        return Picture(expose(rng, light), int(rng.integers(78, 96)), camera, people)

    def _draw(
        self, scene: Scene, camera: Pinhole, outfits: list[Outfit], source: Sun | Lamp, backdrop: Backdrop
    ) -> tuple[Float[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]:
        """People and their shadows on the backdrop (linear RGB), and whose each pixel is (-1: of no person)."""
        table = [
            np.concatenate([self._rest_m, vertex_normals(m), m.vertices_cam_m], 1).astype(np.float32) for m in scene.meshes
        ]

        def shade(hits: Hits) -> np.ndarray:
            rest, normal, point = np.split(scene.interpolate(hits, table), 3, axis=1)
            colour = np.zeros((len(rest), 3))
            for i, outfit in enumerate(outfits):
                of_person = hits.mesh[hits.any] == i
                colour[of_person] = paint(outfit, rest[of_person], self._marks)
            if isinstance(source, Lamp):
                return colour * source.on(point, normal)[:, None]
            facing = lambert(normal, Light(tuple(source.toward), directional=1, ambient=0))
            # start the shadow ray off the surface, or the surface shadows itself
            shadow = scene.blocked(point + np.float32(0.015) * normal, np.broadcast_to(source.toward, point.shape))
            # the floor sends less light up than the sky sends down
            above = 0.8 - 0.2 * normal[:, 1:2]
            return colour * (source.ambient * above + source.direct * (facing * ~shadow)[:, None])

        drawn = render(scene, camera, shade, samples=2)
        ground = backdrop.colour.copy()
        if isinstance(source, Lamp):
            return ground * (1 - drawn.rgba[..., 3:]) + drawn.rgba[..., :3], drawn.mesh
        points = backdrop.floor_point_m[backdrop.floor]
        shadow = np.zeros(backdrop.floor.shape, np.float32)
        shadow[backdrop.floor] = scene.blocked(points, np.broadcast_to(source.toward, points.shape))
        share = (source.direct / (source.direct + source.ambient)).astype(np.float32)
        ground *= 1 - 0.8 * share * cv2.GaussianBlur(shadow, (0, 0), 1.0)[..., None]
        return ground * (1 - drawn.rgba[..., 3:]) + drawn.rgba[..., :3], drawn.mesh


def _occlude(
    rng: np.random.Generator, light: np.ndarray, masks: list[np.ndarray]
) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """The picture behind one box or disc, and where that is; none if it would hide too much of anybody."""
    height, width = light.shape[:2]
    shape = np.zeros((height, width), np.uint8)
    wanted = rng.random() < _OCCLUDER_SHARE
    person = masks[rng.integers(len(masks))]
    rows, columns = np.nonzero(person)
    if not wanted or not len(rows):
        return light, shape.astype(bool)
    k = rng.integers(len(rows))
    x, y = int(columns[k]), int(rows[k])
    a, b = (int(v) for v in rng.uniform(0.04, 0.16, 2) * height)
    if rng.random() < 0.7:
        # a box that stands on the ground: a bench, a pillar, a bin
        cv2.rectangle(shape, (x - a, y - b), (x + a, y + b if rng.random() < 0.5 else height), 1, -1)
    else:
        cv2.ellipse(shape, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    hidden = shape.astype(bool)
    if any((m & hidden).sum() > _OCCLUDED_LIMIT * m.sum() for m in masks):
        return light, np.zeros_like(hidden)
    grain = octaves(rng, height, width, coarsest=4, decay=0.8)[..., None]
    texture = np.exp(0.2 * grain) * cloth_colour(rng).astype(np.float32)
    return np.where(hidden[..., None], texture, light), hidden
