"""The people on the page: rows of pictures, with what is known of them in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.report import panels
from pipelines.report.samples import Chosen, DatasetFits, SetAside, has_fit
from spin.fitting.verdicts import VERDICTS
from store.records import Source, Verdict

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    from spin.body import BodyMesh

_SHEET_ROWS = 6


@dataclass(frozen=True)
class Picture:
    label: str
    alt: str
    uri: str


@dataclass(frozen=True)
class Row:
    """A person on the page: pictures from left to right, and what is known in words."""

    title: str
    facts: list[str]
    pictures: list[Picture]


@dataclass
class Drawing:
    """What drawing needs, and what it leaves besides the rows: pictures for the sheet, images that could not be read."""

    mesh: BodyMesh
    advance: Callable[[], None]
    sheet: list[UInt8[np.ndarray, "h w 3"]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def draw_people(drawing: Drawing, sets: list[DatasetFits], chosen: Chosen) -> dict[str, list[Row]]:
    """Rows of each kind: "typical", "worst", "without_fit" and "set_aside"."""
    typical, worst, without, aside = [], [], [], []
    for item, rows in zip(sets, chosen.typical):
        typical += _fitted_rows(
            drawing, item, rows, into_sheet=_spread(len(rows), -(-_SHEET_ROWS // len(sets)))
        )
    for item, rows in zip(sets, chosen.worst):
        worst += _fitted_rows(drawing, item, rows, into_sheet=set())
    for item, rows in zip(sets, chosen.without_fit):
        without += [_row_without_fit(drawing, item, int(row)) for row in rows]
    for item, people in zip(sets, chosen.set_aside):
        aside += [_row_set_aside(drawing, item, person) for person in people]
    return {"typical": typical, "worst": worst, "without_fit": without, "set_aside": aside}


def _spread(count: int, most: int) -> set[int]:
    """Places for the sheet, from the first to the last."""
    return {round(place) for place in np.linspace(0, max(count - 1, 0), min(count, most))}


def _fitted_rows(
    drawing: Drawing, item: DatasetFits, rows: Int[np.ndarray, " k"], into_sheet: set[int]
) -> list[Row]:
    """People with a fit, posed together."""
    assert item.now is not None or not len(rows)
    if item.now is None or not len(rows):
        return []
    now_m = panels.pose_vertices(drawing.mesh, item.now.take(rows))
    before_m: list[np.ndarray | None] = [None] * len(rows)
    if item.before is not None:
        before = item.before.take(rows)
        posed = panels.pose_vertices(drawing.mesh, before)
        before_m = [vertices if known else None for vertices, known in zip(posed, has_fit(before))]
    out = []
    for place, row in enumerate(rows.tolist()):
        images = _images(drawing, item, row, before_m[place], now_m[place])
        if place in into_sheet and len(drawing.sheet) < 3 * _SHEET_ROWS:
            drawing.sheet += [images["photograph, keypoints"], images["fit now"], images["from the side"]]
        out.append(_as_row(item, row, images, _facts(item, row)))
        drawing.advance()
    return out


def _images(
    drawing: Drawing,
    item: DatasetFits,
    row: int,
    before_m: Float[np.ndarray, "V 3"] | None,
    now_m: Float[np.ndarray, "V 3"],
) -> dict[str, np.ndarray]:
    """Pictures by label, in their order."""
    photograph = panels.cut_photograph(item.annotations, row)
    if photograph.problem:
        drawing.unreadable.append(item.annotations.image[row])
    faces, camera = drawing.mesh.faces, panels.panel_camera(item.annotations, row)
    out = {"photograph, keypoints": panels.with_keypoints(photograph, item.annotations, row)}
    if before_m is not None:
        out["fit before training"] = panels.with_fit(photograph, before_m, faces, camera, panels.BEFORE)
    elif item.before is not None:
        out["fit before training"] = panels.grey_panel("no fit before training")
    out["fit now"] = panels.with_fit(photograph, now_m, faces, camera)
    out["from the side"] = panels.from_the_side(now_m, faces, camera)
    return out


def _facts(item: DatasetFits, row: int) -> list[str]:
    assert item.now is not None
    now = item.now.take(slice(row, row + 1))
    losses = f"{now.loss[0]:.2f} px²"
    if item.before is not None and item.before.source[row] != Source.NONE:
        same = item.before.loss[row] == now.loss[0]
        losses = f"{losses}, as before" if same else f"{item.before.loss[row]:.2f} → {losses}"
    facts = [item.annotations.source[row], f"loss {losses}", f"{Source(int(now.source[0])).name.lower()} fit"]
    count = int(now.improvements[0])
    if count:
        facts.append(f"{count} improvement{'s' if count > 1 else ''}, the last at step {int(now.step[0])}")
    if now.verdict[0] != Verdict.VALID:
        facts.append(f"not valid: {VERDICTS[now.verdict[0]]}")
    return facts


def _row_without_fit(drawing: Drawing, item: DatasetFits, row: int) -> Row:
    photograph = panels.cut_photograph(item.annotations, row)
    if photograph.problem:
        drawing.unreadable.append(item.annotations.image[row])
    drawing.advance()
    image = panels.with_keypoints(photograph, item.annotations, row)
    facts = [item.annotations.source[row], f"fit-static: {item.reason_without_fit(row)}"]
    return _as_row(item, row, {"photograph, keypoints": image}, facts)


def _row_set_aside(drawing: Drawing, item: DatasetFits, person: SetAside) -> Row:
    photograph = panels.whole_photograph(Path(item.annotations.image_root) / person.image, person.image)
    if photograph.problem:
        drawing.unreadable.append(person.image)
    drawing.advance()
    alt = f"{item.name}, {person.source}: the whole photograph"
    picture = Picture("whole photograph", alt, panels.jpeg_uri(photograph.image))
    return Row(f"{item.name}: {person.image}", [person.source, f"preprocess: {person.reason}"], [picture])


def _as_row(item: DatasetFits, row: int, images: dict[str, np.ndarray], facts: list[str]) -> Row:
    title = f"{item.name}, sample {row}"
    pictures = [
        Picture(label, f"{title}: {label}", panels.jpeg_uri(image)) for label, image in images.items()
    ]
    return Row(title, facts, pictures)
