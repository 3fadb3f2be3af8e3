"""The embedded world written to disk as a COCO 2014 data set, with OpenPose-style detections and the truth.

    OUT/annotations/person_keypoints_{train,val}2014.json   COCO person keypoints
    OUT/{train,val}2014/*.jpg
    OUT/openpose/{train,val}2014/NAME_keypoints.json        BODY_25, with a detector's faults
    OUT/truth/{train,val}2014.npz                           a row an annotation: annotation_id, pose (72),
                                                            betas (10), S (24, 4), joints17_m (17, 3), given
    OUT/synth.json                                          the settings, and whether all of it was written

3D joints have the camera's axes (x right, y down, z away) and the body's pelvis joint as origin, in metres; S
is SPIN's: the superset's joints and a confidence. `given` marks the people whose truth a training run may use: all of
val2014, a share of train2014. `body` is the fingerprint of the body that pose and betas belong to. The files
depend on the settings alone, not on how many processes write them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from pipelines.cluster.ordered_map import ordered_map
from pipelines.errors import StageError, UsageError
from pipelines.synthetic.coco_format import coco_annotation, coco_image, document
from spin.body import BodyMesh, load_body
from spin.fitting.prior import OPEN_PRIOR, load_pose_prior
from spin.joints import JOINTS
from spin.world import World, detect
from store.files.atomic import write_file

if TYPE_CHECKING:
    from spin.world import Picture, WorldPerson

# Raise it with every change to what the world draws: an older data set is then not reused.
WORLD_VERSION = 1
TRAIN, VAL = "train2014", "val2014"
_FIRST_PICTURE = {TRAIN: 0, VAL: 10_000_000}
_PICTURES_A_TASK = 8
# Which of a picture's random streams annotators and detectors draw from; the world has 0 and 1.
_ANNOTATOR, _DETECTOR, _GIVEN = 2, 3, 4


@dataclass(frozen=True)
class Settings:
    """All that the data set depends on."""

    people: int
    test_people: int
    seed: int
    truth_share: float
    body: str
    prior: str
    world: int = WORLD_VERSION

    def __post_init__(self) -> None:
        if not (0 <= self.people < _FIRST_PICTURE[VAL] and self.test_people >= 0 and self.people + self.test_people):
            raise UsageError(f"synth: {self.people} people, {self.test_people} test people; expected 0 or more, not both 0")
        if self.seed < 0:
            raise UsageError(f"synth: seed {self.seed}; expected 0 or more")
        if not 0 <= self.truth_share <= 1:
            raise UsageError(f"synth: truth share {self.truth_share}; expected 0 to 1")


@dataclass(frozen=True)
class SynthSummary:
    """What is in the folder; `reused` if it was there before."""

    out: Path
    train_people: int
    train_images: int
    test_people: int
    test_images: int
    truth_given: int
    body: str
    reused: bool


@dataclass(frozen=True)
class _Task:
    """Pictures to draw and write: their numbers, and the most people each may have."""

    out: Path
    split: str
    seed: int
    pictures: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Written:
    """What a task returns: COCO's entries, and arrays of truth, a row an annotation."""

    split: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    truth: list[dict[str, np.ndarray]]


def synthesize(
    out: Path,
    *,
    people: int,
    test_people: int,
    seed: int,
    truth_share: float = 0.0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SynthSummary:
    """Write `people` training and `test_people` test people to `out`.

    A complete data set of the same settings stays unchanged; an interrupted one is written again.
    `progress` receives (people written, people in all). Raise StageError if the folder holds anything else,
    UsageError for counts, a seed or a share that make no sense.
    """
    prior = hashlib.sha256(OPEN_PRIOR.read_bytes()).hexdigest()[:12]
    settings = Settings(people, test_people, seed, truth_share, load_body().fingerprint, prior)
    if workers is not None and workers < 1:
        raise UsageError(f"synth: {workers} workers; expected 1 or more")
    if _claim(out, settings):
        return _summary(out, settings, reused=True)
    for split in (TRAIN, VAL):
        for folder in (out / split, out / "openpose" / split):
            folder.mkdir(parents=True, exist_ok=True)
    for name in ("annotations", "truth"):
        (out / name).mkdir(exist_ok=True)

    out = out.absolute()  # workers may run in other folders
    tasks = [*_tasks(out, TRAIN, seed, people), *_tasks(out, VAL, seed, test_people)]
    gathered: dict[str, list[_Written]] = {TRAIN: [], VAL: []}
    done = 0
    for written in ordered_map(_write_pictures, tasks, workers=workers):
        gathered[written.split].append(written)
        done += len(written.annotations)
        if progress is not None:
            progress(done, people + test_people)
    for split, parts in gathered.items():
        _write_split(out, split, parts, settings)
    _write_settings(out, settings, complete=True)
    return _summary(out, settings, reused=False)


def _claim(out: Path, settings: Settings) -> bool:
    """Return whether `out` already holds the whole data set of these settings. Mark an empty folder as theirs."""
    marker = out / "synth.json"
    if out.exists() and not out.is_dir():
        raise StageError(f"{out}: is a file; expected a folder for the synthetic data set (--out)")
    if not out.is_dir() or not any(out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        _write_settings(out, settings, complete=False)
        return False
    if not marker.is_file():
        raise StageError(f"{out}: not empty, and has no synth.json, so another program wrote it; choose another folder (--out)")
    try:
        found = json.loads(marker.read_text())
        theirs, complete = found["settings"], bool(found["complete"])
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{marker}: unreadable ({type(error).__name__}); remove {out} or choose another") from error
    ours = asdict(settings)
    differing = [k for k in ours if theirs.get(k) != ours[k]]
    if differing:
        what = ", ".join(f"{k} {theirs.get(k)} there, {ours[k]} asked for" for k in differing)
        raise StageError(f"{out}: holds another synthetic data set ({what}); choose another folder or remove it")
    return complete


def _write_settings(out: Path, settings: Settings, *, complete: bool) -> None:
    _write_json(out / "synth.json", {"settings": asdict(settings), "complete": complete})


def _write_json(path: Path, content: Any) -> None:
    write_file(path, (json.dumps(content) + "\n").encode())


def _tasks(out: Path, split: str, seed: int, people: int) -> Iterator[_Task]:
    """Yield pictures until they hold `people` people; the last may hold fewer than it could."""
    pictures, index = [], _FIRST_PICTURE[split]
    while people > 0:
        pictures.append((index, people))
        people -= min(people, World.people_in(seed, index))
        index += 1
    for start in range(0, len(pictures), _PICTURES_A_TASK):
        yield _Task(out, split, seed, tuple(pictures[start : start + _PICTURES_A_TASK]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: these matrices are too small to share, and each core has a worker."""
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)


@lru_cache(maxsize=1)
def _world() -> World:
    body = load_body()
    return World(body, BodyMesh(body), load_pose_prior())


@_one_thread()
def _write_pictures(task: _Task) -> _Written:
    """Draw a task's pictures, and write them and their detections."""
    written = _Written(task.split, [], [], [])
    for index, most in task.pictures:
        picture = _world().picture(task.seed, index, most=most)
        stem = f"COCO_{task.split}_{index + 1:012d}"
        (task.out / task.split / f"{stem}.jpg").write_bytes(picture.jpeg())
        write_detections(task.out / "openpose" / task.split, stem, picture, task.seed, index)
        written.images.append(coco_image(picture, index + 1, f"{stem}.jpg"))
        annotator = np.random.default_rng([task.seed, index, _ANNOTATOR])
        for k, person in enumerate(picture.people):
            written.annotations.append(coco_annotation(annotator, picture, person, index + 1, k))
            written.truth.append(_truth(person))
    return written


def write_detections(folder: Path, stem: str, picture: Picture, seed: int, index: int) -> None:
    """Write FOLDER/STEM_keypoints.json: what OpenPose would report of picture `index` of the world `seed`."""
    found = detect(picture, np.random.default_rng([seed, index, _DETECTOR]))
    people = [{"pose_keypoints_2d": d.keypoints_px.round(3).ravel().tolist()} for d in found]
    (folder / f"{stem}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))


def _truth(person: WorldPerson) -> dict[str, np.ndarray]:
    joints = person.keypoints_cam_m[JOINTS.superset] - person.pelvis_cam_m
    return {
        "pose": person.pose_aa,
        "betas": person.betas,
        "joints17_m": (person.joints17_cam_m - person.pelvis_cam_m).astype(np.float32),
        "S": np.concatenate([joints, np.ones((24, 1))], 1).astype(np.float32),
    }


def _write_split(out: Path, split: str, parts: list[_Written], settings: Settings) -> None:
    """Write the two files that belong to all of a split."""
    annotations = [a for part in parts for a in part.annotations]
    truth = [t for part in parts for t in part.truth]
    images = [i for part in parts for i in part.images]
    content = document(images, annotations, f"spin-pipe's synthetic people, seed {settings.seed}", settings.world)
    _write_json(out / "annotations" / f"person_keypoints_{split}.json", content)
    shapes = {"pose": (72,), "betas": (10,), "joints17_m": (17, 3), "S": (24, 4)}
    arrays = {k: np.array([t[k] for t in truth], np.float32).reshape(-1, *shape) for k, shape in shapes.items()}
    handle = BytesIO()
    arrays["annotation_id"] = np.array([a["id"] for a in annotations], np.int64)
    arrays["given"] = _given(split, len(annotations), settings)
    arrays["body"] = np.array(settings.body)
    np.savez(handle, allow_pickle=False, **arrays)
    write_file(out / "truth" / f"{split}.npz", handle.getvalue())


def _given(split: str, count: int, settings: Settings) -> np.ndarray:
    """Return whose truth is given: all people of the test split, a random share of the training split."""
    given = np.ones(count, bool)
    if split == TRAIN:
        order = np.random.default_rng([settings.seed, 0, _GIVEN]).permutation(count)
        given[order[round(settings.truth_share * count) :]] = False
    return given


def _summary(out: Path, settings: Settings, *, reused: bool) -> SynthSummary:
    def images(split: str, people: int) -> int:
        return sum(len(t.pictures) for t in _tasks(out, split, settings.seed, people))

    return SynthSummary(
        out=out,
        train_people=settings.people,
        train_images=images(TRAIN, settings.people),
        test_people=settings.test_people,
        test_images=images(VAL, settings.test_people),
        truth_given=round(settings.truth_share * settings.people) + settings.test_people,
        body=settings.body,
        reused=reused,
    )
