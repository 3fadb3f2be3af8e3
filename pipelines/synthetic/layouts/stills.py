"""What the layouts of still-image data sets have in common."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import UsageError
from spin.joints import JOINTS
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Float

    from spin.world import Picture, World, WorldPerson

Subject = tuple[int, "Picture", "WorldPerson"]


def subjects(world: World, people: int, seed: int, *, most: int = 2, whole: bool = False) -> Iterator[Subject]:
    """Yield pictures by number, each with the person it is of: the one of whom most is seen. With `whole`, none is cut off."""
    index = found = 0
    while found < people:
        picture = world.picture(seed, index, most=most)
        person = max(picture.people, key=lambda p: int(p.mask.sum()))
        if not whole or (person.visibility[list(JOINTS.lsp)] > 0).all():
            yield index, picture, person
            found += 1
        index += 1


def leeds_joints(person: WorldPerson, *, seen: float, hidden: float) -> Float[np.ndarray, "14 3"]:
    """LSP's 14 joints with a flag; zeros where a joint is outside the image, where it can't have been annotated."""
    lsp = list(JOINTS.lsp)
    visibility = person.visibility[lsp]
    flag = np.where(visibility == 2, seen, hidden)
    return np.where(visibility[:, None] > 0, np.c_[person.keypoints_px[lsp], flag], 0)


def write_joints(path: Path, joints: Float[np.ndarray, "A B N"]) -> None:
    """joints.mat, compressed. A MATLAB 5 file begins with 116 bytes of free text, where scipy would put the time of day."""
    from scipy.io import savemat

    handle = BytesIO()
    savemat(handle, {"joints": joints}, do_compression=True)
    text = b"MATLAB 5.0 MAT-file, made by spin-pipe".ljust(116)
    write_file(path, text + handle.getvalue()[len(text) :])


def at_most(people: int, limit: int, layout: str) -> None:
    """Raise UsageError if the data set has fewer people."""
    if people > limit:
        raise UsageError(f"synth --layout {layout}: {people} people; the data set has {limit}")
