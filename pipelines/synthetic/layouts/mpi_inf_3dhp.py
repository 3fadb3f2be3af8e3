"""A raw tree in MPI-INF-3DHP's layout: annotations of 14 cameras, their calibration, videos, pictures; and its test set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.synthetic.layouts.recordings import write_mat5, write_mat73, write_video
from pipelines.synthetic.layouts.truth import TruePerson, write_truth
from spin.world import Picture, Viewpoint, World, ring
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Float

ABOUT = "MPI-INF-3DHP: moments, each held for ten frames, seen by eight cameras; its test set; multi-view fits"
VIDEOS = (0, 1, 2, 4, 5, 6, 7, 8)
_CAMERAS, _JOINTS, _RATE = 14, 28, 25.0
_MOMENTS, _HELD = 2, 10  # moments at least, and frames of each
# Where Human3.6M's 17 stand among the training set's 28, and among the test set's 17.
_IN_28 = (4, 18, 19, 20, 23, 24, 25, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16)
_IN_TEST = (14, 11, 12, 13, 8, 9, 10, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)
# A frame (video, place) of each sequence in which a joint was tracked out of the picture.
_ASTRAY = (1, 5)
_UNKNOWN = 7  # each seventh published fit is missing
_MOST_SEQUENCES, _TEST_SUBJECTS = 16, 6
_RIG = 1  # stream of random numbers
_TEST_PICTURES = 2**20  # the first of the test set's; moments are numbered below


@dataclass(frozen=True)
class _Sequence:
    """A recording: all cameras, and by moment and video what was seen."""

    folder: str
    viewpoints: tuple[Viewpoint, ...]
    moments: tuple[dict[int, Picture], ...]

    @classmethod
    def of(cls, world: World, seed: int, number: int, count: int) -> _Sequence:
        viewpoints = ring(np.random.default_rng([seed, number, _RIG]), _CAMERAS)
        used = [viewpoints[video] for video in VIDEOS]
        moments = tuple(dict(zip(VIDEOS, world.views(seed, number * _MOMENTS + moment, used))) for moment in range(_MOMENTS))
        return cls(f"S{number // 2 + 1}/Seq{number % 2 + 1}", viewpoints, moments)

    @property
    def frames(self) -> int:
        return len(self.moments) * _HELD

    def picture(self, video: int, frame: int) -> Picture:
        return self.moments[frame // _HELD][video]

    def person(self, video: int, frame: int) -> TruePerson:
        image = f"{self.folder}/imageFrames/video_{video}/frame_{frame + 1:06d}.jpg"
        return TruePerson(image, 0, self.picture(video, frame).people[0])

    def joints_cam_m(self, camera: int) -> Float[np.ndarray, "T 17 3"]:
        """Return joints as any camera sees them, also one without pictures."""
        first, here = self.viewpoints[VIDEOS[0]], self.viewpoints[camera]
        seen = np.stack([moment[VIDEOS[0]].people[0].joints17_cam_m for moment in self.moments])
        world = (seen - first.translation_m) @ first.rotation
        return np.repeat(world @ here.rotation.T + here.translation_m, _HELD, axis=0)


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Sequences until they show `people` at moments that all cameras share; a test set of about an eighth as many."""
    true: list[TruePerson] = []
    published: list[TruePerson] = []
    counted = 0
    sequences = min(math.ceil(people / (_MOMENTS * len(VIDEOS))), _MOST_SEQUENCES)
    moments = max(_MOMENTS, math.ceil(people / (sequences * len(VIDEOS))))
    for number in range(sequences):
        sequence = _Sequence.of(world, seed, number, moments)
        shared = {(video, frame) for video in VIDEOS for frame in range(0, sequence.frames, _HELD)}
        usable = [(v, f) for v in VIDEOS for f in range(sequence.frames) if (v, f) != _ASTRAY]
        # The published script keeps the first of all usable frames, and every tenth after it.
        kept = [place for order, place in enumerate(usable, counted) if order % 10 == 0]
        counted += len(usable)
        published += [sequence.person(*place) for place in kept]
        for video, frame in sorted(shared | set(kept)):
            person = sequence.person(video, frame)
            (out / person.image).parent.mkdir(parents=True, exist_ok=True)
            (out / person.image).write_bytes(sequence.picture(video, frame).jpeg())
            true.append(person)
        _write_sequence(out / sequence.folder, sequence)
    _write_fits(out / "static_fits" / "mpi-inf-3dhp_mview_fits.npz", published)
    true += _write_test_set(out, world, max(_TEST_SUBJECTS, people // 8), seed)
    write_truth(out, true)


def _write_sequence(folder: Path, sequence: _Sequence) -> None:
    cells = {name: np.empty((_CAMERAS, 1), object) for name in ("annot2", "annot3")}
    for camera, viewpoint in enumerate(sequence.viewpoints):
        joints = _skeleton(sequence.joints_cam_m(camera))
        keypoints = viewpoint.camera.project(joints)
        if camera == _ASTRAY[0]:
            keypoints[_ASTRAY[1], _IN_28[0]] = [-5, 20]
        cells["annot2"][camera, 0] = keypoints.reshape(sequence.frames, -1)
        cells["annot3"][camera, 0] = 1000 * joints.reshape(sequence.frames, -1)
    frames = np.arange(1.0, sequence.frames + 1)[:, None]
    write_mat5(folder / "annot.mat", {**cells, "frames": frames, "cameras": np.arange(float(_CAMERAS))})
    (folder / "camera.calibration").write_text(_calibration(sequence.viewpoints))
    for video in VIDEOS:
        pictures = (sequence.picture(video, frame).image for frame in range(sequence.frames))
        write_video(folder / "imageSequence" / f"video_{video}.avi", pictures, codec="MJPG", rate=_RATE)


def _skeleton(joints: Float[np.ndarray, "T 17 3"]) -> Float[np.ndarray, "T 28 3"]:
    """Put joints that are not among the 17 at the pelvis."""
    out = np.repeat(joints[:, :1], _JOINTS, axis=1)
    out[:, _IN_28] = joints
    return out


def _calibration(viewpoints: tuple[Viewpoint, ...]) -> str:
    """Skeletool's format: 4 × 4 matrices row by row, millimetres. Lines of numbers end with a blank, which the published
    script relies on: it cuts off a line's last two characters."""
    lines = ["Skeletool Camera Calibration File V1.0"]
    for number, viewpoint in enumerate(viewpoints):
        camera = viewpoint.camera
        intrinsic, extrinsic = np.diag([camera.focal_px, camera.focal_px, 1, 1]), np.eye(4)
        intrinsic[:2, 2] = camera.center_px
        extrinsic[:3, :3], extrinsic[:3, 3] = viewpoint.rotation, 1000 * viewpoint.translation_m
        written = {
            "sensor": "10 10 ",
            "size": f"{camera.width} {camera.height} ",
            "animated": "0",
            "intrinsic": "".join(f"{x:.9g} " for x in intrinsic.ravel()),
            "extrinsic": "".join(f"{x:.9g} " for x in extrinsic.ravel()),
            "radial": "0",
        }
        lines += [f"name          {number}", *(f"  {key:<12}{value}" for key, value in written.items())]
    return "\n".join(lines) + "\n"


def _write_fits(path: Path, published: list[TruePerson]) -> None:
    """Bodies as the published multi-view fits: each in its camera's axes, and some rows without one."""
    known = np.arange(len(published)) % _UNKNOWN != _UNKNOWN - 1
    pose = np.stack([p.person.pose_aa for p in published]) * known[:, None]
    betas = np.stack([p.person.betas for p in published]) * known[:, None]
    handle = BytesIO()
    np.savez(handle, allow_pickle=False, pose=pose, shape=betas, has_smpl=known.astype(np.int64))
    path.parent.mkdir()
    write_file(path, handle.getvalue())


def _write_test_set(out: Path, world: World, people: int, seed: int) -> list[TruePerson]:
    """People in turn to the six subjects; each subject's second frame is one that the data set calls invalid."""
    true = []
    for subject in range(_TEST_SUBJECTS):
        folder = f"mpi_inf_3dhp_test_set/TS{subject + 1}"
        (out / folder / "imageSequence").mkdir(parents=True)
        numbers = range(subject, people, _TEST_SUBJECTS)
        pictures = [world.picture(seed, _TEST_PICTURES + number, most=1) for number in numbers]
        frames = [0, *range(2, len(pictures) + 1)]
        count = max(frames[-1] + 1, 2)
        arrays = {"annot2": np.zeros((count, 1, 17, 2)), "univ_annot3": np.zeros((count, 1, 17, 3))}
        valid = np.zeros((count, 1))
        for frame, picture in zip(frames, pictures):
            joints = picture.people[0].joints17_cam_m
            arrays["annot2"][frame, 0, _IN_TEST] = picture.camera.project(joints)
            arrays["univ_annot3"][frame, 0, _IN_TEST] = 1000 * joints
            valid[frame] = 1
            image = f"{folder}/imageSequence/img_{frame + 1:06d}.jpg"
            (out / image).write_bytes(picture.jpeg())
            true.append(TruePerson(image, 0, picture.people[0]))
        write_mat73(out / folder / "annot_data.mat", {**arrays, "valid_frame": valid})
    return true
