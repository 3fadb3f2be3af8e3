"""Fits as a table for other programs (Parquet, .npz, CSV), and with their annotations as Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from store.errors import ExchangeError
from store.files.atomic import remove_leftovers, write_named_by_content
from store.fits.records import COLUMNS, Fits, Solver, Source, StartKind, Verdict

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

    from store.annotations.table import Annotations

FORMATS = ("parquet", "npz", "csv")
CODES = {"source": Source, "start": StartKind, "verdict": Verdict, "solver": Solver}
TABLE_COLUMNS = ("pose", "betas", "camera", "score", "loss", "source", "coverage")
"""Columns of a fit in the table of a data set."""
_ROWS_AT_ONCE = 65_536


def export_columns(
    path: Path,
    fits: Fits,
    samples: Int64[np.ndarray, "k"],
    *,
    columns: Sequence[str],
    runs: Mapping[int, str],
    kind: str,
) -> None:
    """Write these samples' columns, and their numbers as the column `sample`. Replaces the file, whole or not at all.

    Parquet and CSV hold words for codes, names of runs (`runs`, by their codes) and times in UTC; .npz holds the stored
    numbers, and the runs' codes and names as `run_code` and `run_name`. In CSV pose is pose_0 … pose_71. Raises ExchangeError.
    """
    for name in columns:
        if name not in COLUMNS:
            raise ExchangeError(f"--columns: there is no {name!r}; there are {', '.join(COLUMNS)}")
    if kind not in FORMATS:
        raise ExchangeError(f"{path}: formats are {', '.join(FORMATS)}; found {kind!r}")
    if not path.parent.is_dir():
        raise ExchangeError(f"{path}: there is no folder {path.parent}; make it first")
    write = {"parquet": _parquet, "npz": _npz, "csv": _csv}[kind]

    remove_leftovers(path.parent)
    _write(path, lambda handle: write(handle, fits, samples, list(columns), runs))


def export_table(
    path: Path,
    annotations: Annotations,
    fits: Fits,
    valid: Bool[np.ndarray, " n"],
    reasons: Sequence[str],
    *,
    body: str,
) -> None:
    """Write one Parquet row per sample of a data set: what it is of, whether its fit is good enough, and the fit.

    Columns: `sample`, `image`, `row` (where the annotation comes from), `valid`, `reason`, and TABLE_COLUMNS, null without a
    fit. Each column's metadata holds its unit and meaning, the table's metadata the body that the poses are of.
    """
    without = fits.source == Source.NONE
    columns = [
        ("sample", pa.array(np.arange(len(fits))), "", "number of the sample in the data set"),
        ("image", pa.array(annotations.image, pa.string()), "", "path relative to the image root"),
        (
            "row",
            pa.array(annotations.source, pa.string()),
            "",
            "where the annotation comes from in the raw data set",
        ),
        ("valid", pa.array(valid), "", "good enough to supervise"),
        ("reason", pa.array(list(reasons), pa.string()), "", "why it is not valid; empty if it is"),
    ]
    for name in TABLE_COLUMNS:
        array = _to_arrow(name, np.ascontiguousarray(getattr(fits, name)), {}, without)
        columns.append((name, array, COLUMNS[name].unit, COLUMNS[name].meaning))
    fields = [pa.field(name, array.type, metadata={"unit": unit, "meaning": meaning}) for name, array, unit, meaning in columns]
    schema = pa.schema(fields, metadata={"spin_pipe_body": body, "dataset": annotations.name})
    table = pa.Table.from_arrays([array for _, array, _, _ in columns], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, lambda handle: _write_parquet(handle, [table]))


def _write(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    def named(handle: BinaryIO) -> str:
        fill(handle)
        return path.name

    write_named_by_content(path.parent, named)


def _npz(handle: BinaryIO, fits: Fits, samples: np.ndarray, columns: list[str], runs: Mapping[int, str]) -> None:
    arrays = {name: getattr(fits, name)[samples] for name in columns}
    if "run" in columns:
        arrays["run_code"] = np.array(list(runs), np.uint64)
        arrays["run_name"] = np.array(list(runs.values()), np.str_)
    # Into memory first: NumPy's writer goes back in what it has written.
    content = io.BytesIO()
    np.savez(content, sample=samples, **arrays)
    handle.write(content.getbuffer())


def _parquet(handle: BinaryIO, fits: Fits, samples: np.ndarray, columns: list[str], runs: Mapping[int, str]) -> None:
    _write_parquet(handle, _tables(fits, samples, columns, runs))


def _write_parquet(handle: BinaryIO, tables: Iterable[pa.Table]) -> None:
    writer = None
    for table in tables:
        if writer is None:
            writer = pyarrow.parquet.ParquetWriter(handle, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _csv(handle: BinaryIO, fits: Fits, samples: np.ndarray, columns: list[str], runs: Mapping[int, str]) -> None:
    writer = None
    for table in _tables(fits, samples, columns, runs):
        flat = _without_lists(table)
        if writer is None:
            writer = pyarrow.csv.CSVWriter(handle, flat.schema)
        writer.write_table(flat)
    assert writer is not None
    writer.close()


def _tables(fits: Fits, samples: np.ndarray, columns: list[str], runs: Mapping[int, str]) -> Iterator[pa.Table]:
    """Yield the rows, some at a time; an empty table if there are none."""
    for start in range(0, max(len(samples), 1), _ROWS_AT_ONCE):
        part = samples[start : start + _ROWS_AT_ONCE]
        arrays = {"sample": pa.array(part, pa.int64())}
        for name in columns:
            arrays[name] = _to_arrow(name, np.ascontiguousarray(getattr(fits, name)[part]), runs)
        yield pa.table(arrays)


def _to_arrow(name: str, numbers: np.ndarray, runs: Mapping[int, str], null: np.ndarray | None = None) -> pa.Array:
    """Return a column as other programs read it, null where `null` is set."""
    if name in CODES:
        words = {int(member): member.name.lower() for member in CODES[name]}
        return pa.array([words[code] for code in numbers.tolist()], pa.string(), mask=null)
    if name == "run":
        names = {0: None, **runs}
        return pa.array([names.get(code, f"{code:016x}") for code in numbers.tolist()], pa.string())
    if name == "time":
        return pa.array(numbers, pa.timestamp("ms", "UTC"), mask=numbers == 0)
    if COLUMNS[name].width:
        mask = None if null is None else pa.array(null)
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), COLUMNS[name].width, mask=mask)
    return pa.array(numbers, mask=null)


def _without_lists(table: pa.Table) -> pa.Table:
    """Return the table with a column for each number of a list."""
    arrays: dict[str, pa.Array] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            numbers = column.flatten().to_numpy().reshape(len(table), COLUMNS[name].width)
            for place in range(COLUMNS[name].width):
                arrays[f"{name}_{place}"] = pa.array(np.ascontiguousarray(numbers[:, place]))
        else:
            arrays[name] = column
    return pa.table(arrays)
