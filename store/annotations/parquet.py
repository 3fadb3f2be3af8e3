"""The columns of annotations as a Parquet file, written atomically and checked when read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.annotations.schema import ADDED, ARRAYS, TEXTS, ArrayColumn
from store.errors import AnnotationError, AnnotationsNotFoundError
from store.files.atomic import remove_leftovers, write_named_by_content

if TYPE_CHECKING:
    from jaxtyping import Bool

FORMAT = "spin-pipe-annotations"
VERSION = 1
ROWS_PER_GROUP = 4096

_REMEDY = "make it again with `spin-pipe preprocess`"


@dataclass(frozen=True)
class Content:
    """A file's columns by name (arrays for ARRAYS, lists of str for TEXTS), and its metadata.

    Columns of ADDED are missing if the file was made before there were any.
    """

    columns: dict[str, Any]
    metadata: dict[str, str]


def write_columns(path: Path, content: Content) -> None:
    """Write or replace the file, atomically and durably; its folder is made if there is none."""
    schema_fields, arrays = [], []
    for name, meaning in TEXTS.items():
        schema_fields.append(pa.field(name, pa.string(), nullable=False, metadata={"meaning": meaning}))
        arrays.append(pa.array(content.columns[name], pa.string()))
    for name, column in ARRAYS.items():
        metadata = {"unit": column.unit, "shape": ",".join(map(str, column.shape))}
        schema_fields.append(pa.field(name, _type(name), nullable=bool(column.flag), metadata=metadata))
        known = content.columns[column.flag] if column.flag else None
        arrays.append(_to_arrow(content.columns[name], column, known))
    metadata = {"format": FORMAT, "version": str(VERSION), **content.metadata}
    table = pa.table(arrays, schema=pa.schema(schema_fields, metadata=metadata))

    def fill(handle: BinaryIO) -> str:
        pq.write_table(table, handle, row_group_size=ROWS_PER_GROUP, compression="zstd", write_page_checksum=True)
        return path.name

    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    write_named_by_content(path.parent, fill)


def read_columns(path: Path) -> Content:
    """Read a file. Raises AnnotationsNotFoundError, or AnnotationError if it is no file of annotations, or damaged."""
    if not path.is_file():
        raise AnnotationsNotFoundError(f"{path}: no such annotations; make them with `spin-pipe preprocess`")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise AnnotationError(f"{path}: not a Parquet file, or damaged ({reason}); {_REMEDY}") from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    found = (metadata.get("format"), metadata.get("version"))
    if found != (FORMAT, str(VERSION)):
        raise AnnotationError(f"{path}: expected {FORMAT} version {VERSION}, found {found[0]} version {found[1]}; {_REMEDY}")
    present = set(table.schema.names)
    earlier = frozenset[str]().union(*(added for added in ADDED if added.isdisjoint(present)))
    expected = [name for name in (*TEXTS, *ARRAYS) if name not in earlier]
    for name in expected:
        if name not in table.schema.names:
            raise AnnotationError(f"{path}: column {name!r} is missing; {_REMEDY}")
        kind = table.schema.field(name).type
        if kind != _type(name):
            raise AnnotationError(f"{path}: column {name!r} should be {_type(name)}, found {kind}; {_REMEDY}")
    columns: dict[str, Any] = {}
    for name in expected:
        stored = table.column(name)
        columns[name] = stored.to_pylist() if name in TEXTS else _to_numpy(stored, ARRAYS[name])
    return Content(columns, metadata)


def _type(name: str) -> pa.DataType:
    if name in TEXTS:
        return pa.string()
    column = ARRAYS[name]
    kind = pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(kind, int(np.prod(column.shape))) if column.shape else kind


def _to_arrow(array: np.ndarray, column: ArrayColumn, known: Bool[np.ndarray, "n"] | None) -> pa.Array:
    if not column.shape:
        return pa.array(array, mask=None if known is None else ~known)
    flat = pa.array(array.reshape(-1))
    mask = None if known is None else pa.array(~known)
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape)), mask=mask)


def _to_numpy(column: pa.ChunkedArray, spec: ArrayColumn) -> np.ndarray:
    """Return the values of all rows; zeros where a row is null."""
    parts = []
    for chunk in column.chunks:
        if not spec.shape:
            whole = chunk.fill_null(0) if spec.flag else chunk
            parts.append(whole.to_numpy(zero_copy_only=False))
            continue
        values = np.zeros((len(chunk), *spec.shape), spec.dtype)
        known = pc.is_valid(chunk).to_numpy(zero_copy_only=False)
        flat = chunk.drop_null().flatten().to_numpy(zero_copy_only=False)
        values[known] = flat.reshape(-1, *spec.shape)
        parts.append(values)
    return np.concatenate(parts) if parts else np.zeros((0, *spec.shape), spec.dtype)


def read_provenance(path: Path) -> dict[str, str]:
    """Return what read the raw data set, and how, as the file records it, without reading the rows; empty if it doesn't."""
    try:
        noted = json.loads((pq.read_schema(path).metadata or {})[b"provenance"])
        return {str(key): str(value) for key, value in noted.items()}
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        return {}
