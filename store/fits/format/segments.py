"""Segments: small immutable Arrow files of accepted updates.

A segment's file name ends in the CRC-32 of its bytes, so any flipped bit, cut or mix-up is detected, and the
file stays a plain Arrow IPC file that other tools read.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from store.errors import CorruptSegmentError, UnusableNameError
from store.files.base import unique
from store.fits.fingerprint import Fingerprint, require_same
from store.fits.format.layout import SEGMENTS, Layout, segment_folder
from store.fits.records import COLUMNS, empty_rows
from store.fits.runs import names_from_json, names_to_json

if TYPE_CHECKING:
    from jaxtyping import Int64

FORMAT = "spin-pipe-fits-segment"
VERSION = 3
ROWS_PER_SEGMENT = 65_536
"""A flush of more records writes several segments, so that its memory does not grow with them."""
MERGE, RESET = "merge", "reset"

_CHECKSUM = re.compile(r"-([0-9a-f]{8})\.arrow$")
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class SegmentInfo:
    """A segment's description.

    operation: 'merge', or 'reset' if it retracts fits, then `where` holds the expression; time_ms: when it was written, since
    1970 UTC, 0 if that is not known; runs: names of runs by their codes.
    """

    operation: str = MERGE
    writer: str = ""
    time_ms: int = 0
    where: str = ""
    runs: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """A segment in memory, as views of its bytes: ids (k,), ascending and unique; its columns; its description."""

    ids: Int64[np.ndarray, "k"]
    columns: Mapping[str, np.ndarray]
    info: SegmentInfo

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, places: Int64[np.ndarray, "m"] | None = None) -> np.ndarray:
        """Return the records, or those at some places, as (m,) of store.fits.records.ROW."""
        rows = empty_rows(len(self.ids) if places is None else len(places))
        for name, column in self.columns.items():
            rows[name] = column if places is None else column[places]
        return rows


def check_writer(writer: str) -> str:
    """Return a writer's name, which becomes part of file names. Raises UnusableNameError."""
    if not _WRITER.fullmatch(writer):
        raise UnusableNameError(
            f"writer {writer!r}: use letters, digits, dots, dashes and underscores, a letter or digit first, at most 64"
        )
    return writer


def write_segment(
    layout: Layout,
    generation: int,
    *,
    fingerprint: Fingerprint,
    info: SegmentInfo,
    ids: Int64[np.ndarray, "k"],
    rows: np.ndarray,
) -> str:
    """Write records, rows (k,) of store.fits.records.ROW, as one segment against a generation; returns its name,
    'FOLDER/FILE'. Durable on return."""
    schema = _schema(generation, fingerprint, info)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(_to_batch(schema, ids, rows))
    content = sink.getvalue()
    # The name is never used twice, even by a forked writer: compaction remembers names it has absorbed.
    name = f"{info.writer}-{unique()}-{zlib.crc32(content):08x}.arrow"
    folder = segment_folder(generation)
    layout.files.write(f"{folder}/{name}", content)
    return f"{folder.partition('/')[2]}/{name}"


def checksum_in_name(name: str) -> str | None:
    """Return the CRC-32 (hex) in a segment's name."""
    found = _CHECKSUM.search(name)
    return None if found is None else found[1]


def read_segment(layout: Layout, name: str, *, samples: int, fingerprint: Fingerprint) -> Segment:
    """Return one segment.

    Raises CorruptSegmentError if the file is damaged, FingerprintMismatchError if its scores were
    made under other conditions, FileNotFoundError if it is gone.
    """
    where = layout.files.where(f"{SEGMENTS}/{name}")
    expected = checksum_in_name(name)
    if expected is None:
        raise CorruptSegmentError(f"{where}: the name does not end in the checksum of the content; remove the file")
    content = layout.files.read(f"{SEGMENTS}/{name}")
    found = f"{zlib.crc32(content):08x}"
    if found != expected:
        raise CorruptSegmentError(
            f"{where}: damaged: its bytes have checksum {found}, expected {expected}; restore the file "
            "from a copy, or remove it to lose the updates in it"
        )
    try:
        reader = pa.ipc.open_file(pa.BufferReader(content))
        info = _read_metadata(where, reader.schema, fingerprint)
        table = reader.read_all()
    except (pa.ArrowException, KeyError, ValueError) as error:
        if isinstance(error, ValueError) and type(error).__module__ == "store.errors":
            raise
        raise CorruptSegmentError(f"{where}: not a segment of fits ({error})") from error
    ids = table.column("id").to_numpy()
    if len(ids) and not 0 <= ids.min() <= ids.max() < samples:
        raise CorruptSegmentError(f"{where}: holds samples {ids.min()}–{ids.max()}, the store has {samples}")
    columns = {name: _to_numpy(table, name, len(ids)) for name in COLUMNS}
    return Segment(ids, columns, info)


def _to_numpy(table: pa.Table, name: str, count: int) -> np.ndarray:
    stored = table.column(name)
    # One batch, as this version writes it, is a view of the file's bytes.
    array = stored.chunk(0) if stored.num_chunks == 1 else stored.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # pyarrow gives one back for no chunk at all
        return np.zeros(COLUMNS[name].shape(0), COLUMNS[name].dtype)
    flat = array.flatten() if COLUMNS[name].width else array
    return flat.to_numpy().reshape(COLUMNS[name].shape(count))


def _fields() -> list[pa.Field]:
    fields = [pa.field("id", pa.int64(), nullable=False)]
    for name, column in COLUMNS.items():
        kind = pa.from_numpy_dtype(column.dtype)
        if column.width:
            kind = pa.list_(pa.field("item", kind, nullable=False), column.width)
        fields.append(pa.field(name, kind, nullable=False))
    return fields


def _schema(generation: int, fingerprint: Fingerprint, info: SegmentInfo) -> pa.Schema:
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "generation": str(generation),
        "fingerprint": fingerprint.to_text(),
        "operation": info.operation,
        "writer": info.writer,
        "time_ms": str(info.time_ms),
        "where": info.where,
        "runs": json.dumps(names_to_json(info.runs)),
    }
    return pa.schema(_fields(), metadata=metadata)


def _to_batch(schema: pa.Schema, ids: Int64[np.ndarray, "k"], rows: np.ndarray) -> pa.RecordBatch:
    arrays = [pa.array(ids)]
    for name, column in COLUMNS.items():
        flat = pa.array(np.ascontiguousarray(rows[name]).reshape(-1))
        kind = schema.field(name).type
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind) if column.width else flat)
    return pa.record_batch(arrays, schema=schema)


def _read_metadata(where: str, schema: pa.Schema, fingerprint: Fingerprint) -> SegmentInfo:
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    found = (metadata.get("format", ""), metadata.get("version", ""))
    if found != (FORMAT, str(VERSION)):
        raise CorruptSegmentError(
            f"{where}: expected {FORMAT} version {VERSION}, found {found[0]!r} version {found[1]!r}; "
            "use the version of spin-pipe that wrote the store, or make the fits again with `spin-pipe fit-static`"
        )
    expected = pa.schema(_fields())
    if not schema.equals(expected):
        raise CorruptSegmentError(f"{where}: expected the columns {expected.names}, found {schema.names}")
    stored = Fingerprint.from_json(json.loads(metadata["fingerprint"]), where=where)
    require_same(fingerprint, stored, where=where)
    return SegmentInfo(
        operation=metadata["operation"],
        writer=metadata["writer"],
        time_ms=int(metadata["time_ms"]),
        where=metadata["where"],
        runs=names_from_json(json.loads(metadata["runs"])),
    )
