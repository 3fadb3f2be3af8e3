"""Records of a damaged generation, from whatever else of the store can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from store.errors import StoreError
from store.fits import log as history
from store.fits.fingerprint import Fingerprint
from store.fits.format.generations import (
    Inventory,
    chunk_bytes,
    load_generation,
    read_chunk,
    write_generation,
)
from store.fits.format.layout import (
    Layout,
    Manifest,
    claim_generation,
    generation_name,
    inventory_name,
    move_current,
)
from store.fits.format.segments import read_segment
from store.fits.format.state import load_tagged, merge_segment
from store.fits.records import COLUMNS, Fits, Source, empty_rows
from store.fits.repair.checksums import Check, has_checksum, holds_sealed
from store.fits.runs import now_ms
from store.fits.table import FitTable

if TYPE_CHECKING:
    from store.fits.format.tags import Tag


def manifest_from_generations(layout: Layout) -> Manifest | None:
    """What store.json said: each generation has the fingerprint, and arrays of as many records as there are samples."""
    for number in reversed(layout.generation_numbers()):
        try:
            content = layout.files.read(inventory_name(number))
            metadata = layout.files.read(f"{generation_name(number)}/score/zarr.json")
        except FileNotFoundError:
            continue
        if holds_sealed(content):
            found = json.loads(content)
            size, checksum = found["files"]["score/zarr.json"]
            if has_checksum(checksum, size)(metadata):
                fingerprint = Fingerprint.from_json(found["fingerprint"], where=inventory_name(number))
                return Manifest(json.loads(metadata)["shape"][0], fingerprint)
    return None


def rebuilt_chunk(
    layout: Layout, manifest: Manifest, inventory: Inventory, name: str, check: Check, tags: Iterable[Tag]
) -> bytes | None:
    """A chunk as it was, made again of another state and the updates between the two; None if that isn't what was written."""
    column, _, place = name.partition("/c/")
    if not place or column not in COLUMNS:
        return None
    size, chunk = inventory.rows_per_chunk, int(place.partition("/")[0])
    for rows in _states(layout, manifest, inventory, tags):
        content = chunk_bytes(rows[chunk * size : (chunk + 1) * size], column, size)
        if check(content):
            return content
    return None


def _states(
    layout: Layout, manifest: Manifest, inventory: Inventory, tags: Iterable[Tag]
) -> Iterator[np.ndarray]:
    """Records as they may have been when a generation was written, all (n,) of store.fits.records.ROW."""
    generation = inventory.generation
    segments = layout.segment_names(generation.line, generation.number)
    absorbed = [name for name in segments if name in generation.absorbed]
    for number in layout.generation_numbers():
        if number != generation.number:
            try:
                other, rows = load_generation(
                    layout, number, samples=manifest.samples, fingerprint=manifest.fingerprint
                )
            except (StoreError, OSError):
                continue
            yield rows
            if other.line == generation.line:
                table = FitTable(rows)
                for some in (absorbed, segments):
                    _merge_readable(layout, manifest, table, some)
                    yield table.rows
    for tag in tags:
        try:
            yield load_tagged(layout, manifest, tag).table.rows
        except (StoreError, OSError):
            continue


def _merge_readable(layout: Layout, manifest: Manifest, table: FitTable, names: Iterable[str]) -> None:
    for name in names:
        try:
            segment = read_segment(layout, name, samples=manifest.samples, fingerprint=manifest.fingerprint)
        except (StoreError, OSError):
            continue
        merge_segment(table, segment)


@dataclass(frozen=True)
class Salvaged:
    """What is left of a generation. damaged: samples of whose records a part is gone; of these `lost` had or may have had
    a fit and have none now, `earlier` have a fit that an earlier state or a segment still held.

    write: makes it the current generation, and returns its number.
    """

    damaged: tuple[int, ...]
    lost: tuple[int, ...]
    earlier: tuple[int, ...]
    write: Callable[[], int]


def salvaged(
    layout: Layout, manifest: Manifest, inventory: Inventory, missing: list[str], tags: Iterable[Tag]
) -> Salvaged:
    """The generation with whole records as they are, and each damaged one replaced by the best that is known of its sample in
    the same epoch, else by none. Where epochs are gone, by none, of an epoch after all that are known: a fit that was taken
    back does not return."""
    generation, size = inventory.generation, inventory.rows_per_chunk
    rows, gone = _readable(layout, manifest, inventory, missing)
    damaged = np.zeros(manifest.samples, bool)
    for chunk in {int(place.partition("/")[0]) for places in gone.values() for place in places}:
        damaged[chunk * size : (chunk + 1) * size] = True
    epochs_known = "epoch" not in gone
    known = FitTable(empty_rows(manifest.samples))
    if epochs_known:
        known.rows["epoch"][damaged] = rows["epoch"][damaged]
        for other in _states(layout, manifest, inventory, tags):
            places = np.flatnonzero(damaged & (other["epoch"] == rows["epoch"]))
            known.merge(places, Fits.of_rows(other[places]))
    else:
        known.rows["epoch"][damaged] = int(rows["epoch"].max()) + 1
    had = damaged & ((rows["source"] != int(Source.NONE)) | np.full(manifest.samples, "source" in gone))
    rows[damaged] = known.rows[damaged]
    fitted = rows["source"] != int(Source.NONE)
    lost, earlier = np.flatnonzero(had & ~fitted), np.flatnonzero(damaged & fitted)

    def write() -> int:
        number = claim_generation(layout, generation.number)
        if number is None:
            raise StoreError(f"{layout.location}: another process changed the store meanwhile; try again")
        entry = history.entry("salvage", "spin-pipe", now_ms(), generation=number, lost=len(lost))
        new = replace(generation, number=number, history=(*generation.history, entry))
        write_generation(
            layout,
            new,
            samples=manifest.samples,
            fingerprint=manifest.fingerprint,
            rows_of=lambda part: rows[part],
        )
        if not move_current(layout, generation.number, number):
            raise StoreError(f"{layout.location}: another process changed the store meanwhile; try again")
        return number

    return Salvaged(
        tuple(np.flatnonzero(damaged).tolist()), tuple(lost.tolist()), tuple(earlier.tolist()), write
    )


def _readable(
    layout: Layout, manifest: Manifest, inventory: Inventory, missing: list[str]
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """A generation's records without the missing files, and which chunks are gone, by column."""
    folder, size = generation_name(inventory.generation.number), inventory.rows_per_chunk
    rows, gone = empty_rows(manifest.samples), dict[str, list[str]]()
    for name, expected in inventory.files.items():
        column, _, place = name.partition("/c/")
        if not place or column not in COLUMNS:
            continue
        if name in missing:
            gone.setdefault(column, []).append(place)
            continue
        numbers = read_chunk(layout.files, f"{folder}/{name}", expected, COLUMNS[column])
        start = int(place.partition("/")[0]) * size
        part = rows[column][start : start + size]
        part[...] = numbers[: len(part)]
    return rows, gone
