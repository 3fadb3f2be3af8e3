"""Segments: small immutable Arrow files of accepted updates.

A segment's file name ends in the CRC-32 of its bytes, so any flipped bit, cut or mix-up is detected, and the
file stays a plain Arrow IPC file that other tools read.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import numpy as np
import pyarrow as pa

from store.durable import make_folder, write_named_by_content
from store.errors import CorruptSegmentError, UnusableNameError
from store.fingerprint import Fingerprint, require_same
from store.layout import Layout, made_earlier
from store.records import COLUMNS, Fits

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Int64

FORMAT = "spin-pipe-fits-segment"
VERSION = 2
ROWS_PER_BATCH = 4096

_CHECKSUM = re.compile(r"-([0-9a-f]{8})\.arrow$")
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Updates:
    """Accepted records of k samples: ids (k,), ascending and unique within one batch, and their fits."""

    ids: Int64[np.ndarray, "k"]
    fits: Fits


class _ChecksummedFile:
    """Hands on what is written and keeps the CRC-32 of it."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self.checksum = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self.checksum = zlib.crc32(data, self.checksum)
        return self._handle.write(data)

    def flush(self) -> None:
        self._handle.flush()


def check_writer(writer: str) -> str:
    """A writer's name becomes part of file names. Raises UnusableNameError."""
    if not _WRITER.fullmatch(writer):
        raise UnusableNameError(
            f"writer {writer!r}: use letters, digits, dots, dashes and underscores, a letter or digit first, "
            "at most 64"
        )
    return writer


def write_segment(
    layout: Layout,
    generation: int,
    *,
    writer: str,
    fingerprint: Fingerprint,
    ids: Int64[np.ndarray, "k"],
    fits_of: Callable[[Int64[np.ndarray, "b"]], Fits],
) -> str:
    """Write the records of `ids` as one segment against a generation; returns its name, 'FOLDER/FILE'.

    fits_of(ids) gives a batch's records, so that memory stays at one batch. Durable on return.
    """
    schema = _schema(generation, fingerprint)

    def fill(handle: BinaryIO) -> str:
        sink = _ChecksummedFile(handle)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as file:
            for start in range(0, len(ids), ROWS_PER_BATCH):
                batch = ids[start : start + ROWS_PER_BATCH]
                file.write_batch(_to_batch(schema, batch, fits_of(batch)))
        # The name is never used twice, even by a forked writer: compaction remembers names it has absorbed.
        return f"{writer}-{uuid4().hex[:16]}-{sink.checksum:08x}.arrow"

    folder = layout.segment_folder(generation)
    make_folder(folder)
    return f"{folder.name}/{write_named_by_content(folder, fill).name}"


def read_segment(layout: Layout, name: str, *, samples: int, fingerprint: Fingerprint) -> Iterator[Updates]:
    """The updates of one segment, batch by batch.

    Raises CorruptSegmentError if the file is not what was written, FormatVersionError if an earlier version of
    this program wrote it, FingerprintMismatchError if its scores were made under other conditions,
    FileNotFoundError if it is gone. All are raised before the first batch.
    """
    path = layout.segments / name
    expected = _CHECKSUM.search(path.name)
    if expected is None:
        raise CorruptSegmentError(
            f"{path}: the name does not end in the checksum of the content; remove the file"
        )
    with pa.memory_map(str(path)) as source:
        content = source.read_buffer()
    found = f"{zlib.crc32(content):08x}"
    if found != expected[1]:
        raise CorruptSegmentError(
            f"{path}: damaged: its bytes have checksum {found}, expected {expected[1]}; restore the file "
            "from a copy, or remove it to lose the updates in it"
        )
    try:
        reader = pa.ipc.open_file(pa.BufferReader(content))
        _check_metadata(path, reader.schema, fingerprint)
    except (pa.ArrowException, KeyError) as error:
        raise CorruptSegmentError(f"{path}: not a segment of fits ({error})") from error
    return _batches(reader, path, samples)


def _batches(reader: pa.ipc.RecordBatchFileReader, path: Path, samples: int) -> Iterator[Updates]:
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        ids = batch.column("id").to_numpy()
        if len(ids) and not 0 <= ids.min() <= ids.max() < samples:
            raise CorruptSegmentError(
                f"{path}: holds samples {ids.min()}–{ids.max()}, the store has {samples}"
            )
        columns = {}
        for name, column in COLUMNS.items():
            array = batch.column(name)
            flat = array.flatten() if column.width else array
            columns[name] = flat.to_numpy().reshape(column.shape(len(ids)))
        yield Updates(ids=ids, fits=Fits(**columns))


def _schema(generation: int, fingerprint: Fingerprint) -> pa.Schema:
    fields = [pa.field("id", pa.int64(), nullable=False)]
    for name, column in COLUMNS.items():
        kind = pa.from_numpy_dtype(column.dtype)
        if column.width:
            kind = pa.list_(pa.field("item", kind, nullable=False), column.width)
        fields.append(pa.field(name, kind, nullable=False, metadata={"unit": column.unit}))
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "generation": str(generation),
        "fingerprint": fingerprint.to_text(),
    }
    return pa.schema(fields, metadata=metadata)


def _to_batch(schema: pa.Schema, ids: Int64[np.ndarray, "k"], fits: Fits) -> pa.RecordBatch:
    arrays = [pa.array(ids)]
    for name in COLUMNS:
        flat = pa.array(getattr(fits, name).reshape(-1))
        kind = schema.field(name).type
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind) if COLUMNS[name].width else flat)
    return pa.record_batch(arrays, schema=schema)


def _check_metadata(path: Path, schema: pa.Schema, fingerprint: Fingerprint) -> None:
    metadata = schema.metadata or {}
    found = (metadata.get(b"format", b"").decode(), metadata.get(b"version", b"").decode())
    if found[0] == FORMAT and found[1] in map(str, range(1, VERSION)):
        raise made_earlier(path, found[1])
    if found != (FORMAT, str(VERSION)):
        raise CorruptSegmentError(
            f"{path}: expected {FORMAT} version {VERSION}, found {found[0]!r} {found[1]!r}"
        )
    expected = _schema(0, fingerprint)
    if not schema.equals(expected):
        raise CorruptSegmentError(f"{path}: expected the columns {expected.names}, found {schema.names}")
    stored = Fingerprint.from_json(json.loads(metadata[b"fingerprint"]), where=str(path))
    require_same(fingerprint, stored, where=str(path))
