"""Pictures of the chosen people for the page, and a contact sheet of some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines import panels
from pipelines.report.samples import Chosen, DatasetFits, RejectedPerson, has_fit, ranking

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    from spin.body import BodyMesh

_SHEET_PEOPLE = 6


@dataclass(frozen=True)
class AsidePicture:
    """A person that preprocess rejected: the whole photograph, since there is no box to crop."""

    title: str
    source: str
    reason: str
    uri: str


@dataclass(frozen=True)
class Pictured:
    """Pictures as data: addresses, of (data set's number, row) by what they show; and of people rejected."""

    fits: dict[tuple[int, int], dict[str, str]]
    aside: list[AsidePicture]


@dataclass
class Drawing:
    """The state of drawing, and its further results: panels for the sheet, and images that could not be read."""

    mesh: BodyMesh
    advance: Callable[[], None]
    sheet: list[UInt8[np.ndarray, "h w 3"]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def draw_people(drawing: Drawing, sets: list[DatasetFits], chosen: Chosen) -> Pictured:
    """Draw "photograph", "before", "now" and "side" of every chosen row that has them."""
    fits: dict[tuple[int, int], dict[str, str]] = {}
    aside: list[AsidePicture] = []
    for index, (item, rows, rejected) in enumerate(zip(sets, chosen.rows, chosen.rejected)):
        into_sheet = _for_the_sheet(item, list(rows), -(-_SHEET_PEOPLE // len(sets)))
        for row, images in zip(rows, _images_of_rows(drawing, item, list(rows))):
            if row in into_sheet:
                photograph = panels.Photograph(images["photograph"])
                drawing.sheet.append(panels.with_keypoints(photograph, item.annotations, row))
                drawing.sheet += [images["now"], images["side"]]
            fits[index, row] = {name: panels.jpeg_uri(image) for name, image in images.items()}
            drawing.advance()
        aside += [_rejected(drawing, item, person) for person in rejected]
    return Pictured(fits, aside)


def _for_the_sheet(item: DatasetFits, rows: list[int], count: int) -> set[int]:
    """Return pictured rows, spread evenly over the better half of them."""
    if item.now is None or not rows:
        return set()
    order = ranking(item.now.score[rows])
    better = order[: (len(order) + 1) // 2]
    places = np.rint(np.linspace(0, max(len(better) - 1, 0), min(count, len(better)))).astype(int)
    return {rows[place] for place in better[places]}


def _images_of_rows(drawing: Drawing, item: DatasetFits, rows: list[int]) -> Iterator[dict[str, UInt8[np.ndarray, "P P 3"]]]:
    now = _vertices(drawing, item, rows, earlier=False)
    before = _vertices(drawing, item, rows, earlier=True)
    for i, row in enumerate(rows):
        yield _images(drawing, item, row, before[i], now[i])


def _vertices(drawing: Drawing, item: DatasetFits, rows: list[int], *, earlier: bool) -> list[Float[np.ndarray, "V 3"] | None]:
    """Return the bodies of these rows, posed together; None where there is no fit."""
    fits = item.before if earlier else item.now
    if fits is None or not rows:
        return [None] * len(rows)
    part = fits.take(np.array(rows))
    posed = panels.pose_vertices(drawing.mesh, part)
    return [vertices if known else None for vertices, known in zip(posed, has_fit(part))]


def _images(
    drawing: Drawing,
    item: DatasetFits,
    row: int,
    before_m: Float[np.ndarray, "V 3"] | None,
    now_m: Float[np.ndarray, "V 3"] | None,
) -> dict[str, UInt8[np.ndarray, "P P 3"]]:
    photograph = panels.cut_photograph(item.annotations, row)
    if photograph.problem:
        drawing.unreadable.append(item.annotations.image[row])
    faces, camera = drawing.mesh.faces, panels.panel_camera(item.annotations, row)
    out = {"photograph": photograph.image}  # over which the page draws the keypoints
    if before_m is not None:
        out["before"] = panels.with_fit(photograph, before_m, faces, camera, panels.BEFORE)
    if now_m is not None:
        out["now"] = panels.with_fit(photograph, now_m, faces, camera)
        out["side"] = panels.from_the_side(now_m, faces, camera)
    return out


def _rejected(drawing: Drawing, item: DatasetFits, person: RejectedPerson) -> AsidePicture:
    photograph = panels.whole_photograph(Path(item.annotations.image_root) / person.image, person.image)
    if photograph.problem:
        drawing.unreadable.append(person.image)
    drawing.advance()
    title = f"{item.name}: {person.image}"
    return AsidePicture(title, person.source, person.reason, panels.jpeg_uri(photograph.image))
