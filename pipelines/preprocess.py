"""Raw data set to annotations: a reader's people, their images checked, in one Parquet file; refusals in a list beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from pipelines.failures import StageError
from pipelines.layout import DataFolder
from pipelines.progress import progress
from pipelines.ray_session import cpu_count
from pipelines.readers import READERS
from pipelines.readers.base import Person, ReaderOptions, Refused
from spin.body import load_body
from store.annotations import Annotations
from store.durable import write_file


@dataclass(frozen=True)
class PreprocessSummary:
    path: Path
    people: int
    images: int
    with_openpose: int
    with_truth: int
    refused: dict[str, int]  # reason -> count
    refused_list: Path | None


def preprocess(
    data: DataFolder, reader: str, root: Path, name: str, options: ReaderOptions
) -> PreprocessSummary:
    """Reads, checks and writes one data set. StageError if nothing in it is usable; an earlier result then stays."""
    if not root.is_dir():
        raise StageError(f"--root {root}: no such folder")
    outcomes = list(READERS[reader].read(root, options))
    people = [o for o in outcomes if isinstance(o, Person)]
    refused = [o for o in outcomes if isinstance(o, Refused)]
    unreadable = _unreadable_images(root, sorted({p.image for p in people}))
    refused += [Refused(p.source, p.image, unreadable[p.image]) for p in people if p.image in unreadable]
    people = [p for p in people if p.image not in unreadable]
    listing = _write_refused(data.set_aside(name), refused)
    if not people:
        raise StageError(
            f"{root}: no usable person among {len(outcomes)}; "
            + (
                f"most often: {_reasons(refused).most_common(1)[0][0]}; all in {listing}"
                if refused
                else "it is empty"
            )
        )
    _annotations(name, root, people, load_body(data.body).fingerprint).write(
        data.annotations(name), reader=reader
    )
    return PreprocessSummary(
        path=data.annotations(name),
        people=len(people),
        images=len({p.image for p in people}),
        with_openpose=sum(bool(p.keypoints_px[:25, 2].any()) for p in people),
        with_truth=sum(p.truth is not None for p in people),
        refused=dict(_reasons(refused).most_common()),
        refused_list=listing,
    )


def _reasons(refused: Iterable[Refused]) -> Counter[str]:
    return Counter(r.reason for r in refused)


def _unreadable_images(root: Path, images: list[str]) -> dict[str, str]:
    """Images that can't be decoded, with the reason. Decoding at an eighth is enough to find out."""

    def problem(image: str) -> str:
        try:
            data = np.fromfile(root / image, np.uint8)
            decoded = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_8) if data.size else None
        except FileNotFoundError:
            return "its image is missing"
        except (OSError, ValueError) as error:  # no permission, a folder, a name that no file can have
            return f"its image can't be read ({getattr(error, 'strerror', None) or error})"
        except cv2.error:  # more pixels than OpenCV allows
            decoded = None
        return "" if decoded is not None else "its image can't be decoded"

    out: dict[str, str] = {}
    with ThreadPoolExecutor(cpu_count()) as pool, progress(len(images), "checking images", "img") as bar:
        for image, reason in zip(images, pool.map(problem, images)):
            bar.update()
            if reason:
                out[image] = reason
    return out


def _write_refused(path: Path, refused: list[Refused]) -> Path | None:
    """The list of what was set aside; an empty one removes an older list."""
    if not refused:
        path.unlink(missing_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps([asdict(r) for r in refused], indent=1).encode())
    return path


def _annotations(name: str, root: Path, people: list[Person], body: str) -> Annotations:
    """`body`: poses and betas of another body mean something else, and are left out."""
    truth = [p.truth for p in people]
    has_truth = np.array([t is not None for t in truth])

    has_smpl = np.array([t is not None and t.body == body for t in truth])

    def of_truth(field: str, shape: tuple[int, ...], known: np.ndarray) -> np.ndarray:
        zeros = np.zeros(shape, np.float32)
        rows = [np.asarray(getattr(t, field), np.float32) if k else zeros for t, k in zip(truth, known)]
        return np.stack(rows)

    return Annotations(
        name=name,
        image_root=str(root.resolve()),
        image=[p.image for p in people],
        center_px=np.stack([p.center_px for p in people]).astype(np.float32),
        scale=np.array([p.scale for p in people], np.float32),
        keypoints_px=np.stack([p.keypoints_px for p in people]).astype(np.float32),
        source=[p.source for p in people],
        openpose_match=[p.openpose_match for p in people],
        has_smpl=has_smpl,
        pose=of_truth("pose_aa", (72,), has_smpl),
        betas=of_truth("betas", (10,), has_smpl),
        has_joints3d=has_truth,
        joints3d_m=of_truth("joints3d_m", (24, 4), has_truth),
        has_joints17=has_truth,
        joints17_m=of_truth("joints17_m", (17, 3), has_truth),
    )
