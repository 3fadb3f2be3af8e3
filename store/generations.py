"""Generations: the whole state as a plain Zarr v3 group that a person can open with `zarr.open`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from store.durable import write_folder
from store.errors import CorruptGenerationError
from store.fingerprint import Fingerprint, require_same
from store.layout import Layout, is_segment_name, made_earlier
from store.records import COLUMNS, Fits, Source, admissible
from store.seal import is_sealed, sealed

if TYPE_CHECKING:
    from collections.abc import Collection

FORMAT = "spin-pipe-fits-generation"
VERSION = 2
ROWS_PER_CHUNK = 4096

_REMEDY = "put a copy of the folder in its place, or remove the store to make the fits again"


@dataclass(frozen=True)
class Generation:
    """What a generation says of itself.

    line: the generation that began this one's line of history. Segments written against generations line …
    number are part of the state; earlier ones are not: a restore begins a new line, so that late updates
    can't undo it. absorbed: names of the segments already merged into the arrays.
    """

    number: int
    line: int
    absorbed: frozenset[str]


def write_generation(
    layout: Layout, number: int, *, line: int, absorbed: Collection[str], fits: Fits, fingerprint: Fingerprint
) -> Generation:
    """Write all records as generation `number`; whole and durable on return, but not yet current."""
    attributes = {
        "format": FORMAT,
        "version": VERSION,
        "generation": number,
        "line": line,
        "absorbed": sorted(absorbed),
        "fingerprint": fingerprint.to_json(),
        "crc32": {name: _checksum(getattr(fits, name)) for name in COLUMNS},
    }

    def fill(folder: Path) -> None:
        group = zarr.create_group(folder, zarr_format=3, attributes=sealed(attributes))
        for name, column in COLUMNS.items():
            array = group.create_array(
                name,
                shape=column.shape(len(fits)),
                chunks=column.shape(ROWS_PER_CHUNK),
                dtype=column.dtype,
                fill_value=column.empty,
                dimension_names=["sample", name] if column.width else ["sample"],
                attributes={"units": column.unit, "long_name": column.meaning},
            )
            array[...] = getattr(fits, name)

    write_folder(layout.generation(number), fill)
    return Generation(number, line, frozenset(absorbed))


def read_generation(layout: Layout, number: int, *, fingerprint: Fingerprint) -> Generation:
    """What generation `number` says of itself, without its records. Raises as load_generation does."""
    return _describe(_open(layout, number), layout.generation(number), number, fingerprint)


def load_generation(
    layout: Layout, number: int, *, samples: int, fingerprint: Fingerprint
) -> tuple[Generation, Fits]:
    """A generation and its records.

    Raises CorruptGenerationError if it is missing or not what was written, FormatVersionError if an earlier
    version of this program wrote it, FingerprintMismatchError if its scores were made under other conditions.
    """
    path = layout.generation(number)
    group = _open(layout, number)
    generation = _describe(group, path, number, fingerprint)
    checksums = group.attrs.get("crc32")
    columns = {}
    for name in COLUMNS:
        columns[name] = _read_array(group, path, name, samples)
        found = _checksum(columns[name])
        expected = checksums.get(name) if isinstance(checksums, dict) else None
        if found != expected:
            # A missing chunk file reads as empty records, so this is also what notices lost files.
            raise CorruptGenerationError(
                f"{path}: {name} is damaged: checksum {found}, expected {expected}; {_REMEDY}"
            )
    fits = Fits(**columns)
    _check_records(path, fits)
    return generation, fits


def _open(layout: Layout, number: int) -> zarr.Group:
    path = layout.generation(number)
    try:
        return zarr.open_group(path, mode="r", zarr_format=3)
    except Exception as error:
        raise CorruptGenerationError(f"{path}: not a Zarr group ({error}); {_REMEDY}") from error


def _describe(group: zarr.Group, path: Path, number: int, fingerprint: Fingerprint) -> Generation:
    attributes = group.attrs.asdict()
    found = (attributes.get("format"), attributes.get("version"), attributes.get("generation"))
    if found[0] == FORMAT and found[1] in range(1, VERSION):
        raise made_earlier(path, found[1])
    if found != (FORMAT, VERSION, number):
        raise CorruptGenerationError(
            f"{path}: expected {(FORMAT, VERSION, number)}, found {found}; {_REMEDY}"
        )
    if not is_sealed(attributes):
        raise CorruptGenerationError(f"{path}: damaged: its attributes' checksum does not match; {_REMEDY}")
    line, absorbed = attributes.get("line"), attributes.get("absorbed")
    if not isinstance(line, int) or not isinstance(absorbed, list):
        raise CorruptGenerationError(f"{path}: attributes line and absorbed are missing; {_REMEDY}")
    if any(not is_segment_name(name) for name in absorbed):
        raise CorruptGenerationError(f"{path}: absorbed names something that is no segment; {_REMEDY}")
    stored = Fingerprint.from_json(attributes.get("fingerprint"), where=str(path))
    require_same(fingerprint, stored, where=str(path))
    return Generation(number, line, frozenset(absorbed))


def _read_array(group: zarr.Group, path: Path, name: str, samples: int) -> np.ndarray:
    column = COLUMNS[name]
    try:
        stored = group[name]
        if not isinstance(stored, zarr.Array):
            raise TypeError("not an array")
        array = np.asarray(stored[...])
    except Exception as error:  # Decoders raise whatever they like on damaged bytes.
        raise CorruptGenerationError(f"{path}: {name} can't be read ({error}); {_REMEDY}") from error
    if array.dtype != column.dtype or array.shape != column.shape(samples):
        raise CorruptGenerationError(
            f"{path}: {name} should be {column.dtype.name} of shape {column.shape(samples)}, "
            f"found {array.dtype.name} of shape {array.shape}"
        )
    return array


def _check_records(path: Path, fits: Fits) -> None:
    for start in range(0, len(fits), ROWS_PER_CHUNK):
        part = fits.take(slice(start, start + ROWS_PER_CHUNK))
        refused = np.flatnonzero((part.source != Source.NONE) & ~admissible(part))
        if len(refused):
            raise CorruptGenerationError(
                f"{path}: the record of sample {start + refused[0]} is out of range; {_REMEDY}"
            )


def _checksum(array: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"
