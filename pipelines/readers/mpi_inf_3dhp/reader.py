"""MPI-INF-3DHP: markerless capture in front of a green screen; its test set also outdoors.

Where it differs from the published script: annotations are found by a picture's number, not by its place in an unsorted list of
files; extraction writes the frames that are kept alone; and unless the published fits are merged in, the same moments of all
cameras are kept (every tenth), so that fits see a person from eight sides. With the published fits the published frames are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import StageError
from pipelines.progress import say
from pipelines.readers.base import SMPL, Option, Person, ReaderOptions, Rejected, body_of
from pipelines.readers.formats.video import extract_frames
from pipelines.readers.mpi_inf_3dhp import evaluation_set
from pipelines.readers.mpi_inf_3dhp.files import (
    SEQUENCES,
    SIZE_PX,
    VIDEOS,
    CalibratedCamera,
    Sequence,
    inside,
    read_calibration,
    read_joints,
)
from pipelines.readers.mpi_inf_3dhp.published_fits import FITS, ROWS, STRIDE, Rows, published_rows
from pipelines.readers.studio_common import (
    annotated_17,
    around,
    detection_of,
    joints_problem,
    truth_17,
)
from spin.crop import BOX_MARGIN

ABOUT = "MPI-INF-3DHP (Mehta et al., 3DV 2017)"
OBTAIN = (
    "vcai.mpi-inf.mpg.de/3dhp-dataset: a script that downloads it, for research, after agreeing to its licence. The published "
    "multi-view fits (SMPL's) are part of the published system's download"
)
SPLITS = ("train", "valid")
VERSION = 1
OPTIONS = (
    Option("extract_images", "flag", "Write the pictures that are kept from the videos; those there stay."),
    Option("fits", "file", f"Published multi-view fits [default: {FITS} in the data folder, if it is there]."),
    Option("without_fits", "flag", "Leave published fits aside, and keep the same moments of all cameras."),
)
TREE = f"""\
ROOT/                                                   SN/SeqM: S1 to S8, Seq1 and Seq2, to train on
  SN/SeqM/annot.mat                                     joints in 14 cameras, of which 8 are used
  SN/SeqM/camera.calibration                            where the cameras stand
  SN/SeqM/imageFrames/video_V/frame_000001.jpg          V: 0 1 2 4 5 6 7 8
  SN/SeqM/imageSequence/video_V.avi                     for --extract-images
  openpose/SN/SeqM/imageFrames/video_V/*_keypoints.json optional: OpenPose BODY_25 detections
  {evaluation_set.FOLDER}/TSN/annot_data.mat            TS1 to TS6, to measure on
  {evaluation_set.FOLDER}/TSN/imageSequence/img_000001.jpg
In the data folder, optional:
  {FITS}               multi-view fits
  {ROWS}              which frames they belong to (else it is counted)
"""


@dataclass(frozen=True)
class Part:
    """A sequence of one subject; its published rows if those are kept; why it can't be read, if it can't."""

    sequence: Sequence
    rows: Rows | None = None
    missing: str = ""


def parts(root: Path, options: ReaderOptions) -> list[Part] | list[evaluation_set.Part]:
    """Return each sequence. Raise StageError if there is none, or published fits can't be matched."""
    if options.split == "valid":
        return evaluation_set.parts(root)
    there = [s for s in SEQUENCES if (root / s.folder / "annot.mat").is_file()]
    if not there:
        raise StageError(
            f"{root}: no S1/Seq1/annot.mat, nor that of another sequence; "
            "`spin-pipe preprocess mpi-inf-3dhp --help` shows the layout expected"
        )
    rows = _published(root, options)
    return [
        Part(s, rows.get(s), "" if s in there else "has no annot.mat")
        for s in SEQUENCES
    ]  # fmt: skip


def _published(root: Path, options: ReaderOptions) -> dict[Sequence, Rows]:
    given: Path | None = options.extra.get("fits")
    fits = given or options.data / FITS
    if options.extra.get("without_fits") or (given is None and not fits.is_file()):
        return {}
    rows = published_rows(root, fits, options.data / ROWS)
    say(f"mpi-inf-3dhp: reads the published frames and the fits of SMPL in {fits} (--without-fits leaves them out)")
    return rows


def read(root: Path, part: Part | evaluation_set.Part, options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield all people in a sequence, camera by camera. What is wrong with its annotation rejects the sequence."""
    if isinstance(part, evaluation_set.Part):
        yield from evaluation_set.read(root, part)
        return
    folder = part.sequence.folder
    if part.missing:
        yield Rejected(folder, "", part.missing)
        return
    try:
        keypoints_px, joints_mm = read_joints(root / folder / "annot.mat", "annot2", "annot3")
    except StageError as error:
        yield Rejected(folder, "", str(error))
        return
    cameras: dict[int, CalibratedCamera] = {}
    try:
        cameras = read_calibration(root / folder / "camera.calibration")
    except StageError as error:
        yield Rejected(folder, "", f"{error}; its people have no camera and no other views")
    body = SMPL if part.rows is None else body_of(root)
    for video in VIDEOS:
        yield from _Video(part, video, keypoints_px[video], joints_mm[video] / 1000, cameras.get(video), body).read(
            root, options
        )


@dataclass(frozen=True)
class _Video:
    """What one camera saw of a sequence."""

    part: Part
    video: int
    keypoints_px: np.ndarray  # (T, 17, 2)
    joints_m: np.ndarray  # (T, 17, 3)
    camera: CalibratedCamera | None
    body: str

    def read(self, root: Path, options: ReaderOptions) -> Iterator[Person | Rejected]:
        sequence, rows = self.part.sequence, self.part.rows
        if rows is None:
            kept = {frame: -1 for frame in range(0, len(self.keypoints_px), STRIDE)}
        else:
            kept = {int(rows.frame[row]): int(row) for row in np.flatnonzero(rows.video == self.video)}
        name = f"{sequence.folder}/imageFrames/video_{self.video}"
        if options.extra.get("extract_images"):
            video = root / sequence.folder / "imageSequence" / f"video_{self.video}.avi"
            problem = extract_frames(video, {f: root / sequence.image(self.video, f) for f in kept})
            if problem:
                yield Rejected(name, "", problem)
        elif not (root / name).is_dir():
            yield Rejected(name, "", "no such folder; --extract-images makes it from the video")
            return
        openpose = options.openpose or root / "openpose"
        for frame, row in kept.items():
            yield self._person(frame, row, openpose)

    def _person(self, frame: int, row: int, openpose: Path) -> Person | Rejected:
        sequence = self.part.sequence
        image = sequence.image(self.video, frame)
        source = f"{sequence.folder} camera {self.video} frame {frame + 1}"
        if frame >= len(self.keypoints_px):
            return Rejected(source, image, f"annot.mat has {len(self.keypoints_px)} frames")
        keypoints, joints = self.keypoints_px[frame], self.joints_m[frame]
        problem = joints_problem(joints, keypoints)
        outside = 17 - int(inside(keypoints, self.camera.size_px if self.camera else SIZE_PX).sum())
        if problem or outside:
            return Rejected(source, image, problem or f"{outside} of 17 joints are outside the picture")
        center, scale = around(keypoints, BOX_MARGIN)
        if scale <= 0:
            return Rejected(source, image, "its keypoints span no box")
        annotated = annotated_17(keypoints)
        detected, why_not = detection_of(openpose, image, annotated, 200 * scale)
        rows, fit = self.part.rows, {}
        if rows is not None and rows.known[row]:
            fit = {"pose_aa": rows.pose_aa[row], "betas": rows.betas[row], "body": self.body}
        pose_id = f"{sequence.folder}/{frame + 1:06d}"
        return Person(
            image=image,
            center_px=center,
            scale=scale,
            keypoints_px=np.concatenate([detected, annotated]),
            source=source,
            openpose_match=why_not,
            truth=truth_17(joints, **fit),
            camera=self.camera.camera if self.camera else None,
            view=self.camera.view(pose_id) if self.camera else None,
        )
