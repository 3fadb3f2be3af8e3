"""Generations: the whole state as a plain Zarr v3 group, which `zarr.open` and xarray open, too.

Next to the group is its inventory: what the generation is, and size and checksum of every file in the group. Chunks are
plain little-endian numbers, so this program reads and writes them as bytes, and checks each as it reads it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from store.errors import CorruptGenerationError, FormatVersionError
from store.files.base import Files, Put
from store.files.checksummed_json import read_sealed, to_bytes
from store.fits.fingerprint import Fingerprint, require_same
from store.fits.format.layout import Layout, generation_name, inventory_name, is_segment_name
from store.fits.records import COLUMNS, Column, empty_rows
from store.fits.runs import names_from_json, names_to_json

FORMAT = "spin-pipe-fits-generation"
VERSION = 3
ROWS_PER_CHUNK = 65_536
_IN_COLUMN = re.compile(r"zarr\.json|c/[0-9]{1,9}(/0)?", re.ASCII)
MAX_HISTORY = 1000

REMEDY = "put copies of its files in their place, or remove the store to make the fits again"


@dataclass(frozen=True)
class Generation:
    """What a generation's inventory holds besides its files.

    line: the generation that began this one's line of history. Segments written against generations line …
    number are part of the state; earlier ones are not: a restore begins a new line, so that late updates
    can't undo it. absorbed: names of the segments already merged into the arrays. history: the last entries of
    the store's log, oldest first. runs: names of runs by their codes.
    """

    number: int
    line: int
    absorbed: frozenset[str]
    history: tuple[Mapping[str, Any], ...] = ()
    runs: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """A generation and its files: name in the group -> (bytes, CRC-32 in hex)."""

    generation: Generation
    rows_per_chunk: int
    files: Mapping[str, tuple[int, str]]


def write_generation(
    layout: Layout,
    generation: Generation,
    *,
    samples: int,
    fingerprint: Fingerprint,
    rows_of: Callable[[slice], np.ndarray],
) -> None:
    """Write a generation whose number was claimed; whole and durable on return, but not yet current.

    rows_of gives the records of some samples, (k,) of store.fits.records.ROW; memory stays at one chunk.
    """
    rows_per_chunk = min(ROWS_PER_CHUNK, samples)

    def fill(put: Put) -> bytes:
        written: dict[str, tuple[int, str]] = {}

        def write(name: str, content: bytes) -> None:
            put(name, content)
            written[name] = (len(content), f"{zlib.crc32(content):08x}")

        for name, content in _metadata(generation, samples, rows_per_chunk, fingerprint).items():
            write(name, content)
        for chunk in range(-(-samples // rows_per_chunk)):
            start = chunk * rows_per_chunk
            rows = rows_of(slice(start, min(start + rows_per_chunk, samples)))
            for name, column in COLUMNS.items():
                numbers = _chunk(rows, name, column, rows_per_chunk)
                # As in any Zarr array, a chunk without a file holds fill values.
                if (numbers != column.empty).any():
                    write(_chunk_key(name, chunk), numbers.tobytes())
        return _inventory(generation, rows_per_chunk, fingerprint, written)

    number = generation.number
    layout.files.write_tree(generation_name(number), inventory_name(number), fill)


def read_inventory(layout: Layout, number: int, *, fingerprint: Fingerprint) -> Inventory:
    """Return what a generation holds, without its records.

    Raises CorruptGenerationError, FingerprintMismatchError; FormatVersionError if the generation is of version 1 or 2.
    """
    name = inventory_name(number)
    where = layout.files.where(name)
    try:
        content = read_sealed(layout.files, name, format_name=FORMAT, version=VERSION)
    except FileNotFoundError as error:
        _require_today(layout, number)
        raise CorruptGenerationError(f"{where}: missing; {REMEDY}") from error
    except FormatVersionError as error:
        raise CorruptGenerationError(f"{error}; {REMEDY}") from error
    try:
        files = {str(key): (int(size), str(crc)) for key, (size, crc) in content["files"].items()}
        history, absorbed = content["history"], content["absorbed"]
        line, rows_per_chunk = int(content["line"]), int(content["rows_per_chunk"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptGenerationError(f"{where}: part of it is missing ({error}); {REMEDY}") from error
    if content.get("generation") != number or any(not is_segment_name(segment) for segment in absorbed):
        raise CorruptGenerationError(f"{where}: does not describe generation {number}; {REMEDY}")
    strange = [name for name in files if not is_group_file(name)]
    if strange or rows_per_chunk < 1:
        found = f"the file {strange[0]!r}" if strange else f"chunks of {rows_per_chunk} rows"
        raise CorruptGenerationError(f"{where}: {found}, which no generation has; {REMEDY}")
    stored = Fingerprint.from_json(content.get("fingerprint"), where=where)
    require_same(fingerprint, stored, where=where)
    runs = names_from_json(content.get("runs"))
    generation = Generation(number, line, frozenset(absorbed), tuple(history), runs)
    return Inventory(generation, rows_per_chunk, files)


def read_generation(layout: Layout, number: int, *, fingerprint: Fingerprint) -> Generation:
    """Return generation `number` without its records. Raises the errors of load_generation."""
    return read_inventory(layout, number, fingerprint=fingerprint).generation


def _require_today(layout: Layout, number: int) -> None:
    """Raise FormatVersionError if a generation is of version 1 or 2, which had no inventory."""
    name = f"{generation_name(number)}/zarr.json"
    try:
        version = json.loads(layout.files.read(name))["attributes"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if version in (1, 2):
        raise FormatVersionError(
            f"{layout.files.where(name)}: expected {FORMAT} version {VERSION}, found version {version}, which is no longer "
            "read; remove the store and make the fits again with `spin-pipe fit-static`"
        )


def load_generation(layout: Layout, number: int, *, samples: int, fingerprint: Fingerprint) -> tuple[Generation, np.ndarray]:
    """Return a generation and its records, (n,) of store.fits.records.ROW.

    Raises CorruptGenerationError if it is missing or damaged, FingerprintMismatchError if its
    scores were made under other conditions, FormatVersionError if it is of version 1 or 2.
    """
    inventory = read_inventory(layout, number, fingerprint=fingerprint)
    folder = generation_name(number)
    rows = empty_rows(samples)

    def load(key: str) -> None:
        name, _, place = key.partition("/c/")
        numbers = read_chunk(layout.files, f"{folder}/{key}", inventory.files[key], COLUMNS[name])
        start = int(place.partition("/")[0]) * inventory.rows_per_chunk
        part = rows[name][start : start + inventory.rows_per_chunk]
        part[...] = numbers[: len(part)]

    keys = [key for key in inventory.files if "/c/" in key and key.partition("/")[0] in COLUMNS]
    with ThreadPoolExecutor(layout.files.concurrency) as pool:
        for _ in pool.map(load, keys):
            pass
    return inventory.generation, rows


def read_chunk(files: Files, name: str, expected: tuple[int, str], column: Column) -> np.ndarray:
    """Return the numbers in a chunk's file. Raises CorruptGenerationError if its checksum is not the inventory's."""
    try:
        content = files.read(name)
    except FileNotFoundError as error:
        raise CorruptGenerationError(f"{files.where(name)}: missing; {REMEDY}") from error
    found = (len(content), f"{zlib.crc32(content):08x}")
    if found != expected:
        raise CorruptGenerationError(
            f"{files.where(name)}: damaged: {found[0]} bytes with checksum {found[1]}, "
            f"expected {expected[0]} with {expected[1]}; {REMEDY}"
        )
    return np.frombuffer(content, column.dtype).reshape(-1, *column.shape(1)[1:])


def _chunk(rows: np.ndarray, name: str, column: Column, rows_per_chunk: int) -> np.ndarray:
    """Return a column of these records as a whole chunk: the last one is filled up."""
    numbers = np.full(column.shape(rows_per_chunk), column.empty, column.dtype)
    numbers[: len(rows)] = rows[name]
    return numbers


def is_group_file(name: str) -> bool:
    """Return whether a generation's group has a file of this name: names are read from inventories."""
    return name == "zarr.json" or (
        name.partition("/")[0] in COLUMNS and _IN_COLUMN.fullmatch(name.partition("/")[2]) is not None
    )


def group_metadata(inventory: Inventory, samples: int, fingerprint: Fingerprint) -> dict[str, bytes]:
    """Return the files of a generation's group except the chunks."""
    return _metadata(inventory.generation, samples, inventory.rows_per_chunk, fingerprint)


def _chunk_key(name: str, chunk: int) -> str:
    return f"{name}/c/{chunk}/0" if COLUMNS[name].width else f"{name}/c/{chunk}"


def _metadata(generation: Generation, samples: int, rows_per_chunk: int, fingerprint: Fingerprint) -> dict[str, bytes]:
    """Return the group's files except the chunks, as zarr writes them."""
    attributes = {
        "format": FORMAT,
        "version": VERSION,
        "generation": generation.number,
        "fingerprint": fingerprint.to_json(),
        "runs": {str(code): name for code, name in sorted(generation.runs.items())},
    }
    content: dict[str, Any] = {}
    zarr.create_group(MemoryStore(content), zarr_format=3, attributes=attributes)
    return {name: buffer.to_bytes() for name, buffer in content.items()} | _of_arrays(samples, rows_per_chunk)


@lru_cache(maxsize=8)
def _of_arrays(samples: int, rows_per_chunk: int) -> dict[str, bytes]:
    content: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(content), zarr_format=3)
    for name, column in COLUMNS.items():
        group.create_array(
            name,
            shape=column.shape(samples),
            chunks=column.shape(rows_per_chunk),
            dtype=column.dtype,
            fill_value=column.empty,
            compressors=None,
            filters=None,
            # Not the array's own name, which xarray keeps for coordinates.
            dimension_names=["sample", f"{name}_component"] if column.width else ["sample"],
            attributes={"units": column.unit, "long_name": column.meaning},
        )
    return {name: buffer.to_bytes() for name, buffer in content.items() if "/" in name}


def _inventory(
    generation: Generation,
    rows_per_chunk: int,
    fingerprint: Fingerprint,
    files: Mapping[str, tuple[int, str]],
) -> bytes:
    return to_bytes(
        {
            "format": FORMAT,
            "version": VERSION,
            "generation": generation.number,
            "line": generation.line,
            "absorbed": sorted(generation.absorbed),
            "fingerprint": fingerprint.to_json(),
            "history": list(generation.history[-MAX_HISTORY:]),
            "runs": names_to_json(generation.runs),
            "rows_per_chunk": rows_per_chunk,
            "files": {name: list(entry) for name, entry in sorted(files.items())},
        }
    )
