"""Generations of versions 1 and 2, which kept everything in the Zarr group and had fewer columns: read, never written."""

from __future__ import annotations

import zlib

import numpy as np
import zarr

from store.errors import CorruptGenerationError
from store.files.checksummed_json import is_sealed
from store.fits.fingerprint import Fingerprint, require_same
from store.fits.format.layout import Layout, generation_name, is_segment_name
from store.fits.records import COLUMNS, Source, admissible_rows, empty_rows, take_rows

FORMAT = "spin-pipe-fits-generation"
VERSIONS = (1, 2)

_REMEDY = "put a copy of the folder in its place, or remove the store to make the fits again"
_ROWS_AT_ONCE = 65_536

Earlier = tuple[int, int, int, frozenset[str]]
"""version, number, line, absorbed: as in store.fits.format.generations.Generation."""


def read_earlier(layout: Layout, number: int, *, fingerprint: Fingerprint) -> Earlier:
    """What a generation says of itself. Raises as load_earlier does."""
    where = layout.files.where(generation_name(number))
    return _describe(_open(layout, number), where, number, fingerprint)


def load_earlier(
    layout: Layout, number: int, *, samples: int, fingerprint: Fingerprint
) -> tuple[Earlier, np.ndarray]:
    """A generation and its records, (n,) of store.fits.records.ROW; columns it lacks are empty.

    Raises CorruptGenerationError, FingerprintMismatchError.
    """
    where = layout.files.where(generation_name(number))
    group = _open(layout, number)
    earlier = _describe(group, where, number, fingerprint)
    checksums = group.attrs.get("crc32")
    rows = empty_rows(samples)
    for name in [name for name, column in COLUMNS.items() if column.since <= earlier[0]]:
        array = _read_array(group, where, name, samples)
        found = f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"
        expected = checksums.get(name) if isinstance(checksums, dict) else None
        if found != expected:
            # A missing chunk file reads as empty records, so this is also what notices lost files.
            raise CorruptGenerationError(
                f"{where}: {name} is damaged: checksum {found}, expected {expected}; {_REMEDY}"
            )
        rows[name] = array
    _check_records(where, rows)
    return earlier, rows


def _open(layout: Layout, number: int) -> zarr.Group:
    name = generation_name(number)
    try:
        return zarr.open_group(layout.files.zarr_store(), path=name, mode="r", zarr_format=3)
    except Exception as error:
        raise CorruptGenerationError(
            f"{layout.files.where(name)}: not a Zarr group ({error}); {_REMEDY}"
        ) from error


def _describe(group: zarr.Group, where: str, number: int, fingerprint: Fingerprint) -> Earlier:
    attributes = group.attrs.asdict()
    found = (attributes.get("format"), attributes.get("version"), attributes.get("generation"))
    if found[0] != FORMAT or found[1] not in VERSIONS or found[2] != number:
        raise CorruptGenerationError(
            f"{where}: expected {FORMAT} of version 1 or 2 with number {number}, or an inventory beside it, "
            f"found {found}; {_REMEDY}"
        )
    if not is_sealed(attributes):
        raise CorruptGenerationError(f"{where}: damaged: its attributes' checksum does not match; {_REMEDY}")
    line, absorbed = attributes.get("line"), attributes.get("absorbed")
    if not isinstance(line, int) or not isinstance(absorbed, list):
        raise CorruptGenerationError(f"{where}: attributes line and absorbed are missing; {_REMEDY}")
    if any(not is_segment_name(name) for name in absorbed):
        raise CorruptGenerationError(f"{where}: absorbed names something that is no segment; {_REMEDY}")
    stored = Fingerprint.from_json(attributes.get("fingerprint"), where=where)
    require_same(fingerprint, stored, where=where)
    return int(str(found[1])), number, line, frozenset(str(name) for name in absorbed)


def _read_array(group: zarr.Group, where: str, name: str, samples: int) -> np.ndarray:
    column = COLUMNS[name]
    try:
        stored = group[name]
        if not isinstance(stored, zarr.Array):
            raise TypeError("not an array")
        array = np.asarray(stored[...])
    except Exception as error:  # Decoders raise whatever they like on damaged bytes.
        raise CorruptGenerationError(f"{where}: {name} can't be read ({error}); {_REMEDY}") from error
    if array.dtype != column.dtype or array.shape != column.shape(samples):
        raise CorruptGenerationError(
            f"{where}: {name} should be {column.dtype.name} of shape {column.shape(samples)}, "
            f"found {array.dtype.name} of shape {array.shape}"
        )
    return array


def _check_records(where: str, rows: np.ndarray) -> None:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        fitted = np.flatnonzero(part["source"] != int(Source.NONE))
        refused = fitted[~admissible_rows(take_rows(part, fitted))]
        if len(refused):
            raise CorruptGenerationError(
                f"{where}: the record of sample {start + refused[0]} is out of range; {_REMEDY}"
            )
