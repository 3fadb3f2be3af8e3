"""A table with a row for each person: an image, a box if there is one, and columns for each joint's place."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import StageError
from pipelines.readers.base import Note, Person, ReaderOptions, Rejected
from pipelines.readers.boxes import LOOKED_AT
from pipelines.readers.custom.joint_names import UNUSED, resolve
from pipelines.readers.custom.people import Seen, matched, outcomes, place_image, require_sizes_of
from pipelines.readers.formats.image_frames import size_of
from pipelines.readers.formats.openpose_file import confidence_problem

if TYPE_CHECKING:
    from jaxtyping import Float

IMAGE, PERSON, BOX, SIZE = "image", "person", ("x", "y", "width", "height"), ("image_width", "image_height")
_LAST = len(BOX) + len(SIZE)
_ROWS_A_PART = 5000
_CONFIDENCE = ("_confidence", "_conf", "_likelihood", "_prob", "_probability", "_score", "_visibility", "_c", "_p")
_NAMED_UNUSED = 8  # columns that are named, at most


@dataclass(frozen=True)
class TablePart:
    """Rows of some images.

    `values`: x, y, confidence of each joint in `places`, the box, the image's size; NaN where a cell is empty.
    """

    places: tuple[int, ...]
    images: list[str]
    sources: list[str]
    values: Float[np.ndarray, "n 3j+6"]
    rows: list[int]  # places in the table
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that are read, in the order of TablePart.values; '' for what is not given."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    has_person: bool
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Rows:
    images: list[str]
    people: list[str]
    values: Float[np.ndarray, "n 3j+6"]
    rejected: list[Rejected]


def parts(file: Path, root: Path, renames: Mapping[str, str]) -> Iterator[TablePart]:
    """Return the parts. Raise StageError if the file is missing or not a table, UsageError for an unknown joint name."""
    if not file.is_file():
        raise StageError(f"--table {file}: no such file")
    columns, rows = (_read_parquet if file.suffix.lower() in (".parquet", ".pq") else _read_csv)(file, renames)
    require_sizes_of(file, (_seen(columns.places, 0, "", "", values) for values in rows.values[:LOOKED_AT]))
    placed = [place_image(name, root) for name in rows.images]
    rejected = rows.rejected + [Rejected(person, "", reason) for person, (_, reason) in zip(rows.people, placed) if reason]
    if rejected or columns.unused:
        yield TablePart(columns.places, [], [], rows.values[:0], [], tuple(rejected), _unused(columns.unused))
    by_image: dict[str, list[int]] = {}
    for row, (image, reason) in enumerate(placed):
        if not reason:
            by_image.setdefault(image, []).append(row)
    together: list[int] = []
    for last, group in enumerate(by_image.values(), start=1):
        together += group
        if len(together) >= _ROWS_A_PART or last == len(by_image):
            images = [placed[row][0] for row in together]
            people = [rows.people[row] for row in together]
            yield TablePart(columns.places, images, people, rows.values[together], together)
            together = []


def read(root: Path, part: TablePart, options: ReaderOptions) -> Iterator[Person | Rejected | Note]:
    yield from part.rejected
    yield from part.notes
    people: list[Person] = []
    for row, image, source, values in zip(part.rows, part.images, part.sources, part.values):
        if people and people[0].image != image:
            yield from matched(people, options.openpose)
            people = []
        outcome, notes = outcomes(_seen(part.places, row, image, source, values), root, options.min_body_joints)
        yield from notes
        if isinstance(outcome, Person):
            people.append(outcome)
        else:
            yield outcome
    yield from matched(people, options.openpose)


def _seen(places: tuple[int, ...], row: int, image: str, source: str, values: Float[np.ndarray, " m"]) -> Seen | Rejected:
    """Return a row's person. A joint without x or y was not seen; one without confidence was, with certainty."""
    given, box, size = values[:-_LAST].reshape(-1, 3).copy(), values[-_LAST : -len(SIZE)], values[-len(SIZE) :]
    given[np.isnan(given[:, 2]), 2] = 1
    given[np.isnan(given[:, :2]).any(1)] = 0
    reason = confidence_problem(given[:, 2])
    if reason:
        return Rejected(source, image, reason)
    given[:, 2] = given[:, 2].clip(0, 1)
    given[given[:, 2] == 0] = 0
    if np.isnan(box).any() and not np.isnan(box).all():
        return Rejected(source, image, f"its box has some of {', '.join(BOX)} but not all")
    keypoints = np.zeros((49, 3))
    keypoints[list(places)] = given
    return Seen(image, source, keypoints, None if np.isnan(box).any() else box.copy(), size_of(*size.tolist()), row)


def _columns(header: list[str], renames: Mapping[str, str], file: Path) -> _Columns:
    """Which columns hold what, and which are not used."""
    if IMAGE not in header:
        raise StageError(f"{file}: has no column {IMAGE!r}; its columns: {', '.join(header)[:300]}")
    given = [name for name in BOX if name in header]
    if given and len(given) < len(BOX):
        raise StageError(f"{file}: has the columns {', '.join(given)} of a box; expected all of {', '.join(BOX)}, or none")
    names = [c.removesuffix("_x") for c in header if c.endswith("_x") and f"{c.removesuffix('_x')}_y" in header]
    if not names:
        raise StageError(
            f"{file}: has no columns of keypoints; expected for example left_knee_x, left_knee_y and left_knee_confidence"
        )
    places = resolve(names, renames, str(file))
    out: list[str] = []
    for name, place in zip(names, places):
        if place != UNUSED:
            sure = next((name + end for end in _CONFIDENCE if name + end in header), "")
            out += [f"{name}_x", f"{name}_y", sure]
    out += BOX if given else [""] * len(BOX)
    out += SIZE if set(SIZE) <= set(header) else [""] * len(SIZE)
    dropped = tuple(f"{name}_" for name, place in zip(names, places) if place == UNUSED)  # as --joints asks
    used = {IMAGE, PERSON, *out}
    unused = tuple(name for name in header if name and name not in used and not name.startswith(dropped))
    return _Columns(tuple(out), tuple(p for p in places if p != UNUSED), PERSON in header, unused)


def _unused(names: tuple[str, ...]) -> tuple[Note, ...]:
    if not names:
        return ()
    more = f" and {len(names) - _NAMED_UNUSED} more" if names[_NAMED_UNUSED:] else ""
    return (Note(f"columns are not used: {', '.join(names[:_NAMED_UNUSED])}{more}", len(names)),)


def _source(row: int, person: str) -> str:
    return f"row {row}" if not person else f"row {row}, {person[:100]}"


def _rejections(first: int, last: int, reason: str) -> list[Rejected]:
    """Reject each line of a row: a quote that is not closed joins many lines, each a person who is missing."""
    if last > first:
        reason = f"lines {first} to {last} are one row, since a quote is not closed before: {reason}"
    return [Rejected(_source(line, ""), "", reason) for line in range(first, last + 1)]


def _read_csv(file: Path, renames: Mapping[str, str]) -> tuple[_Columns, _Rows]:
    """Read a table of text.

    Rows are numbered as an editor does: the header is line 1. It decides on comma, semicolon or tab.
    """
    images: list[str] = []
    people: list[str] = []
    rejected: list[Rejected] = []
    values = array("d")
    # A name that is not UTF-8 names no image that is there, and the row says so.
    try:
        with file.open("rb") as raw:
            if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise StageError(f"{file}: is UTF-16; save it as UTF-8")
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
            first = handle.readline()
            handle.seek(0)
            reader = csv.reader(handle, delimiter=max(",;\t", key=first.count))
            header = [name.strip() for name in next(reader, [])]
            columns = _columns(header, renames, file)
            at = [header.index(name) if name else -1 for name in columns.names]
            image, person = header.index(IMAGE), header.index(PERSON) if columns.has_person else -1
            while True:
                before = reader.line_num
                try:
                    cells = next(reader, None)
                    if cells is None:
                        break
                    if not any(cells):
                        continue
                    numbers, reason = _row(cells, at, header)
                except csv.Error as error:
                    cells, numbers, reason = [], [], f"is not a row of a table ({error})"
                if reason:
                    rejected += _rejections(before + 1, reader.line_num, reason)
                    continue
                images.append(cells[image])
                people.append(_source(reader.line_num, cells[person] if person >= 0 else ""))
                values.extend(numbers)
    except (OSError, csv.Error) as error:
        raise StageError(f"{file}: not a table ({error})") from error
    shaped = np.frombuffer(values, np.float64).reshape(len(images), len(columns.names))
    return columns, _Rows(images, people, shaped, rejected)


def _row(cells: list[str], at: list[int], header: list[str]) -> tuple[list[float], str]:
    if len(cells) != len(header):
        return [], f"has {len(cells)} cells, the header {len(header)}"
    out = []
    for place in at:
        cell = cells[place].strip() if place >= 0 else ""
        try:
            out.append(float(cell) if cell else float("nan"))
        except ValueError:
            return [], f"{header[place]} is {cell[:40]!r}, not a number"
    return out, ""


def _read_parquet(file: Path, renames: Mapping[str, str]) -> tuple[_Columns, _Rows]:
    """Read a Parquet table. Rows are numbered from 0, as data frames do."""
    try:
        with pq.ParquetFile(file) as opened:
            columns = _columns(opened.schema_arrow.names, renames, file)
            wanted = [name for name in columns.names if name] + [IMAGE] + [PERSON] * columns.has_person
            table = opened.read(columns=list(dict.fromkeys(wanted)))
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise StageError(f"{file}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from error
    values = np.full((len(table), len(columns.names)), np.nan)
    for place, name in enumerate(columns.names):
        if name:
            values[:, place] = _floats(table.column(name), name, file)
    images = _texts(table.column(IMAGE), IMAGE, file)
    people = _texts(table.column(PERSON), PERSON, file) if columns.has_person else [""] * len(table)
    sources = [_source(row, person) for row, person in enumerate(people)]
    return columns, _Rows(images, sources, values, [])


def _floats(column: pa.ChunkedArray, name: str, file: Path) -> Float[np.ndarray, " n"]:
    try:
        return pc.cast(column, pa.float64(), safe=False).fill_null(float("nan")).to_numpy()
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise StageError(f"{file}: column {name!r} is {column.type}, expected numbers") from error


def _texts(column: pa.ChunkedArray, name: str, file: Path) -> list[str]:
    try:
        return pc.cast(column, pa.string()).fill_null("").to_pylist()
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise StageError(f"{file}: column {name!r} is {column.type}, expected text") from error
