"""Fits as one Parquet table, a row a sample: what it is of, the body, and whether that is good enough, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from store.files.atomic import write_named_by_content
from store.fits.records import COLUMNS, Source

if TYPE_CHECKING:
    from jaxtyping import Bool

    from store.annotations.table import Annotations
    from store.fits.records import Fits

HOLDS = ("pose", "betas", "camera", "score", "loss", "source", "coverage")


def export_table(
    path: Path,
    annotations: Annotations,
    fits: Fits,
    valid: Bool[np.ndarray, " n"],
    reasons: Sequence[str],
    *,
    body: str,
) -> None:
    """Columns `sample`, `image`, `row` (where the annotation comes from), `valid`, `reason`, and those of the fit, null where
    there is none. Each says its unit and meaning in its metadata, the table which body its poses are of."""
    there = fits.source != Source.NONE
    arrays: list[pa.Array] = [
        pa.array(np.arange(len(fits))),
        pa.array(annotations.image, pa.string()),
        pa.array(annotations.source, pa.string()),
        pa.array(valid),
        pa.array(list(reasons), pa.string()),
    ]
    fields = [
        _field("sample", arrays[0], "", "number of the sample in the data set"),
        _field("image", arrays[1], "", "path relative to the image root"),
        _field("row", arrays[2], "", "where the annotation comes from in the raw data set"),
        _field("valid", arrays[3], "", "good enough to supervise"),
        _field("reason", arrays[4], "", "why it is not valid; empty if it is"),
    ]
    for name in HOLDS:
        column, numbers = COLUMNS[name], np.ascontiguousarray(getattr(fits, name))
        if name == "source":
            words = [None if code == Source.NONE else Source(code).name.lower() for code in numbers.tolist()]
            array: pa.Array = pa.array(words, pa.string())
        elif column.width:
            flat = pa.array(numbers.reshape(-1))
            array = pa.FixedSizeListArray.from_arrays(flat, column.width, mask=pa.array(~there))
        else:
            array = pa.array(numbers, mask=~there)
        arrays.append(array)
        fields.append(_field(name, array, column.unit, column.meaning))
    schema = pa.schema(fields, metadata={"spin_pipe_body": body, "dataset": annotations.name})
    table = pa.Table.from_arrays(arrays, schema=schema)

    def fill(handle: BinaryIO) -> str:
        pyarrow.parquet.write_table(table, handle, compression="zstd")
        return path.name

    path.parent.mkdir(parents=True, exist_ok=True)
    write_named_by_content(path.parent, fill)


def _field(name: str, array: pa.Array, unit: str, meaning: str) -> pa.Field:
    return pa.field(name, array.type, metadata={"unit": unit, "meaning": meaning})
