"""Raw data set to annotations: a reader's people, their images checked, in one Parquet file; rejections in a list next to it.

The parts of a data set are read by all cores. Each comes back as a block of arrays, not as objects, so that hundreds of
thousands of people fit into memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cluster.ordered_map import ordered_map
from pipelines.errors import StageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.left_right import DOUBTFUL, contradictions, swapped
from pipelines.preprocessing.person_checks import notes_of, problems_of
from pipelines.progress import progress
from pipelines.readers import Dataset
from pipelines.readers.base import SMPL, Note, Person, ReaderOptions, Rejected
from pipelines.readers.formats.image_check import check_images
from pipelines.rejections import write_rejections
from spin.body import load_body
from store.annotations.schema import ARRAYS, TEXTS
from store.annotations.table import Annotations


@dataclass(frozen=True)
class PreprocessSummary:
    path: Path
    people: int
    images: int
    with_openpose: int
    with_body: int
    with_joints: int  # whose 3D joints are known
    notes: dict[str, int]  # what else is worth knowing of people -> of how many
    other_bodies: dict[str, int]  # another body than the one in use -> people whose pose and betas are of it, and left out
    rejected: dict[str, int]  # reason -> count
    rejected_list: Path | None
    warning: str = ""  # of the data set as a whole
    doubtful: int = 0  # people who are kept, but doubted
    doubtful_list: Path | None = None


@dataclass(frozen=True)
class Block:
    """People of one part, as the columns of annotations and their places in the source file, and who was rejected."""

    columns: dict[str, Any]
    rows: np.ndarray
    rejected: list[Rejected]
    read: int  # people met, usable or not
    notes: Counter[str] = field(default_factory=Counter)
    other_bodies: Counter[str] = field(default_factory=Counter)  # whose pose and betas are left out, how often


@dataclass(frozen=True)
class PartReader:
    """Turns a part of a data set into a block. Runs in any process."""

    dataset: Dataset
    root: Path
    options: ReaderOptions
    bodies: frozenset[str]  # whose pose and betas can be kept
    decode: bool = False

    def __call__(self, part: Any) -> Block:
        outcomes = list(self.dataset.reader.read(self.root, part, self.options))
        people = [o for o in outcomes if isinstance(o, Person)]
        rejected = [o for o in outcomes if isinstance(o, Rejected)]
        images = check_images(self.root, (p.image for p in people), decode=self.decode)
        usable = []
        for person, problem in zip(people, problems_of(people, images)):
            if problem:
                rejected.append(Rejected(person.source, person.image, problem))
            else:
                usable.append(person)
        rows = np.array([person.row for person in usable], np.int64)
        notes: Counter[str] = Counter()
        for note in [*(o for o in outcomes if isinstance(o, Note)), *notes_of(usable, images)]:
            notes[note.text] += note.count
        read = len(people) + sum(isinstance(o, Rejected) for o in outcomes)
        return Block(_columns(usable, self.bodies), rows, rejected, read, notes, _other_bodies(usable, self.bodies))


def preprocess(
    data: DataFolder,
    dataset: Dataset,
    root: Path,
    name: str,
    options: ReaderOptions,
    *,
    workers: int | None = None,
    address: str | None = None,
    decode: bool = False,
) -> PreprocessSummary:
    """Read, check and write one data set. Raise StageError if nothing in it is usable; an earlier result then stays.

    `decode`: decode every image, to find damage that its header and its end don't show.
    """
    if not root.is_dir():
        raise StageError(f"--root {root}: no such folder")
    if address is not None:  # other nodes' processes work in other folders
        root = root.absolute()
    body = load_body(data.body)
    bodies = frozenset({body.fingerprint} | ({SMPL} if body.name.startswith(SMPL) else set()))
    read_part = PartReader(dataset, root, options, bodies, decode)
    parts = dataset.reader.parts(root, options)
    gathered = _Gathered()
    with progress(len(parts) if isinstance(parts, Sized) else 0, f"preprocess {name}", "part") as bar:
        for block in ordered_map(read_part, parts, workers=workers, address=address, seen=[root]):
            gathered.add(block)
            bar.update()
            bar.set_postfix_str(f"{gathered.people} people", refresh=False)
    if not gathered.people:
        # Not in place of an earlier result's list, which stays with it.
        listing = write_rejections(data.failed(name), [asdict(r) for r in gathered.rejected])
        raise StageError(f"{root}: no usable person among {gathered.read}; {_why(gathered.rejected, listing)}")
    annotations = gathered.annotations(name, root)
    annotations.write(data.annotations(name), provenance=_provenance(dataset, options))
    listing = write_rejections(data.rejected(name), [asdict(r) for r in gathered.rejected])
    data.failed(name).unlink(missing_ok=True)
    doubtful = np.flatnonzero(contradictions(annotations)).tolist()
    entries = [{"source": annotations.source[i], "image": annotations.image[i], "reason": DOUBTFUL} for i in doubtful]
    return PreprocessSummary(
        path=data.annotations(name),
        people=len(annotations),
        images=len(set(annotations.image)),
        with_openpose=int((annotations.keypoints_px[:, :25, 2].any(1) & (np.array(annotations.openpose_match) == "")).sum()),
        with_body=int(annotations.has_smpl.sum()),
        with_joints=int((annotations.has_joints3d | annotations.has_joints17).sum()),
        notes=dict(gathered.notes.most_common()),
        other_bodies=dict(gathered.other_bodies.most_common()),
        rejected=dict(_reasons(gathered.rejected).most_common()),
        rejected_list=listing,
        warning=swapped(annotations),
        doubtful=len(doubtful),
        doubtful_list=write_rejections(data.doubtful(name), entries),
    )


@dataclass
class _Gathered:
    """What the blocks add up to. A person that an earlier one already is, by image and source, is rejected."""

    blocks: list[dict[str, Any]] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    read: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    other_bodies: Counter[str] = field(default_factory=Counter)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def people(self) -> int:
        return len(self._seen)

    def add(self, block: Block) -> None:
        self.rejected += block.rejected
        self.read += block.read
        self.notes += block.notes
        self.other_bodies += block.other_bodies
        names = list(zip(block.columns["image"], block.columns["source"]))
        fresh = []
        for place, name in enumerate(names):
            if name in self._seen:
                self.rejected.append(Rejected(name[1], name[0], "another person has the same image and name"))
            else:
                self._seen.add(name)
                fresh.append(place)
        if fresh:
            self.blocks.append(_take(block.columns, fresh) if len(fresh) < len(names) else block.columns)
            self.rows.append(block.rows[fresh])

    def annotations(self, name: str, root: Path) -> Annotations:
        columns: dict[str, Any] = {key: np.concatenate([b[key] for b in self.blocks]) for key in ARRAYS}
        columns |= {key: [text for b in self.blocks for text in b[key]] for key in TEXTS}
        rows = np.concatenate(self.rows)
        if (rows >= 0).all() and (np.diff(rows) < 0).any():
            columns = _take(columns, np.argsort(rows, kind="stable").tolist())
        return Annotations(name=name, image_root=str(root.resolve()), **columns)


def _take(columns: dict[str, Any], places: list[int]) -> dict[str, Any]:
    texts = {key: [columns[key][place] for place in places] for key in TEXTS}
    return texts | {key: columns[key][places] for key in ARRAYS}


def _reasons(rejected: Iterable[Rejected]) -> Counter[str]:
    return Counter(r.reason for r in rejected)


def _why(rejected: list[Rejected], listing: Path | None) -> str:
    if not rejected:
        return "it is empty"
    return f"most often: {_reasons(rejected).most_common(1)[0][0]}; all in {listing}"


def _provenance(dataset: Dataset, options: ReaderOptions) -> dict[str, str]:
    settings = {
        "split": options.split,
        "min_body_joints": options.min_body_joints,
        "openpose": options.openpose,
        **options.extra,
    }
    return {
        "reader": dataset.module.removesuffix(".reader"),
        "reader_version": str(dataset.reader.VERSION),
        "options": json.dumps(settings, default=str),
    }


def _other_bodies(people: list[Person], bodies: frozenset[str]) -> Counter[str]:
    """Return whose pose and betas `_columns` drops, and of how many people."""
    truths = (person.truth for person in people if person.truth is not None)
    return Counter(t.body for t in truths if t.pose_aa is not None and t.betas is not None and t.body not in bodies)


def _columns(people: list[Person], bodies: frozenset[str]) -> dict[str, Any]:
    """Return people as columns. `bodies`: poses and betas of other bodies mean something else, and are dropped."""
    out: dict[str, Any] = {key: np.zeros((len(people), *column.shape), column.dtype) for key, column in ARRAYS.items()}
    out |= {key: [""] * len(people) for key in TEXTS}
    for row, person in enumerate(people):
        for key in ("center_px", "scale", "keypoints_px"):
            out[key][row] = getattr(person, key)
        for key in ("image", "source", "openpose_match", "gender", "mask", "part"):
            out[key][row] = getattr(person, key)
        _set_truth(out, row, person, bodies)
        if person.camera is not None:
            out["has_camera"][row] = True
            out["focal_px"][row] = person.camera.focal_px
            out["principal_px"][row] = person.camera.principal_px
        if person.view is not None:
            out["has_view"][row] = True
            out["view_rotation"][row] = person.view.rotation
            out["view_translation_m"][row] = person.view.translation_m
            out["pose_id"][row] = person.view.pose_id
    return out


def _set_truth(out: dict[str, Any], row: int, person: Person, bodies: frozenset[str]) -> None:
    truth = person.truth
    if truth is None:
        return
    if truth.pose_aa is not None and truth.betas is not None and truth.body in bodies:
        out["has_smpl"][row], out["pose"][row], out["betas"][row] = True, truth.pose_aa, truth.betas
    if truth.joints3d_m is not None:
        out["has_joints3d"][row], out["joints3d_m"][row] = True, truth.joints3d_m
    if truth.joints17_m is not None:
        out["has_joints17"][row], out["joints17_m"][row] = True, truth.joints17_m
