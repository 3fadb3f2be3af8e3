"""MPII Human Pose: train.h5, as pose-hg-train first released it, and images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.readers.mpii import MPII_KEYPOINTS, MPII_NAMES
from pipelines.synthetic.coco_world import write_detections
from pipelines.synthetic.layouts.truth import TruePerson, write_truth

if TYPE_CHECKING:
    from spin.world import World, WorldPerson

ABOUT = "MPII Human Pose: train.h5 (HDF5), images, OpenPose detections"
_BYSTANDER = 4  # of as many second people, one is in the file without joints


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Write files as the data set: whole pixels; (0, 0) where a joint is not annotated, (-1, -1) if none of a person is."""
    import h5py

    (out / "images").mkdir()
    (out / "openpose" / "mpii").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    truth: list[TruePerson] = []
    index = 0
    while len(truth) < people:
        picture = world.picture(seed, index)
        name = f"{index + 1:09d}.jpg"
        (out / "images" / name).write_bytes(picture.jpeg())
        write_detections(out / "openpose" / "mpii", name.removesuffix(".jpg"), picture, seed, index)
        for number, person in enumerate(picture.people):
            annotated = number == 0 or index % _BYSTANDER != 0
            if annotated:
                truth.append(TruePerson(f"images/{name}", len(rows), person))
            rows.append(_row(person, annotated) | {"imgname": name.encode(), "index": index, "person": number})
        index += 1
    with h5py.File(out / "train.h5", "w") as file:
        file.attrs["name"] = "mpii"
        for key in rows[0]:
            file[key] = np.array([row[key] for row in rows])
    write_truth(out, truth)


def _row(person: WorldPerson, annotated: bool) -> dict[str, Any]:
    """`visible` is 1 if a joint is seen, 0 if hidden or not annotated, -1 of a person without joints.

    pose-hg-train moved the box down by 15 px at a height of 200 and widened it by a quarter, so that feet stay inside; its
    centre is whole.
    """
    y, x = np.nonzero(person.mask)
    scale = float(np.ptp(y) + 1) / 200
    visibility = person.visibility[list(MPII_KEYPOINTS)]
    pixels = np.rint(person.keypoints_px[list(MPII_KEYPOINTS)])
    inside = (visibility > 0) & (pixels > 0).all(1)  # the file has no other sign of absence than 0
    joints = np.where(inside[:, None], pixels, 0) if annotated else -np.ones((16, 2))
    neck, top = (person.keypoints_px[MPII_KEYPOINTS[MPII_NAMES.index(n)]] for n in ("neck", "top of head"))
    return {
        "center": np.array([int((x.min() + x.max()) / 2), int((y.min() + y.max()) / 2 + 15 * scale)]),
        "scale": 1.25 * scale,
        "part": joints,
        "visible": np.where(inside, visibility == 2, 0) if annotated else -np.ones(16),
        "normalize": 0.6 * float(np.linalg.norm(top - neck)),
        "torsoangle": 0.0,
    }
