"""Salvage: the records of a damaged generation that can still be read, there or elsewhere in the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from store.errors import StoreError
from store.fits import log
from store.fits.fingerprint import Fingerprint
from store.fits.format.generations import Inventory, load_generation, read_chunk, write_generation
from store.fits.format.layout import (
    Layout,
    Manifest,
    claim_generation,
    generation_name,
    inventory_name,
    move_current,
)
from store.fits.format.segments import read_segment
from store.fits.format.state import load_tagged
from store.fits.records import COLUMNS, Fits, Source, empty_rows
from store.fits.repair.checksums import has_checksum, holds_sealed
from store.fits.runs import now_ms
from store.fits.table import FitTable

if TYPE_CHECKING:
    from store.fits.format.tags import Tag


def manifest_from_generations(layout: Layout) -> Manifest | None:
    """Return what store.json held: each generation has the fingerprint, and arrays with one record per sample."""
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


@dataclass(frozen=True)
class Salvaged:
    """What is left of a generation.

    damaged: samples whose records have lost a part. Of these `lost` had or may have had a fit and have none now; `earlier` have
    a fit that an earlier state or a segment still held. write: makes this the current generation, and returns its number.
    """

    damaged: tuple[int, ...]
    lost: tuple[int, ...]
    earlier: tuple[int, ...]
    write: Callable[[], int]


def salvage(layout: Layout, manifest: Manifest, inventory: Inventory, missing: list[str], tags: Iterable[Tag]) -> Salvaged:
    """Keep the whole records of a generation, and replace each damaged one by the best other record of its sample.

    Only records of the same epoch are taken: a retracted fit does not return. Where epochs are lost, the sample has no fit, and
    its epoch is after all known ones.
    """
    size = inventory.rows_per_chunk
    rows, gone = _readable(layout, manifest, inventory, missing)
    damaged = np.zeros(manifest.samples, bool)
    for chunk in {int(place.partition("/")[0]) for places in gone.values() for place in places}:
        damaged[chunk * size : (chunk + 1) * size] = True
    others = FitTable(empty_rows(manifest.samples))
    if "epoch" in gone:
        others.rows["epoch"][damaged] = int(rows["epoch"].max()) + 1
    else:
        others.rows["epoch"][damaged] = rows["epoch"][damaged]
        for ids, records in _other_records(layout, manifest, inventory, tags):
            chosen = damaged[ids] & (records["epoch"] == rows["epoch"][ids])
            others.merge(ids[chosen], Fits.of_rows(records[chosen]))
    had = damaged & ((rows["source"] != int(Source.NONE)) | np.full(manifest.samples, "source" in gone))
    rows[damaged] = others.rows[damaged]
    fitted = rows["source"] != int(Source.NONE)
    lost, earlier = np.flatnonzero(had & ~fitted), np.flatnonzero(damaged & fitted)
    return Salvaged(
        tuple(np.flatnonzero(damaged).tolist()),
        tuple(lost.tolist()),
        tuple(earlier.tolist()),
        lambda: _write(layout, manifest, inventory, rows, len(lost)),
    )


def _write(layout: Layout, manifest: Manifest, inventory: Inventory, rows: np.ndarray, lost: int) -> int:
    """Make these rows the current generation in place of a damaged one, and return its number."""
    old = inventory.generation
    number = claim_generation(layout, old.number)
    if number is not None:
        entry = log.entry("salvage", "spin-pipe", now_ms(), generation=number, lost=lost)
        write_generation(
            layout,
            replace(old, number=number, history=(*old.history, entry)),
            samples=manifest.samples,
            fingerprint=manifest.fingerprint,
            rows_of=lambda part: rows[part],
        )
    if number is None or not move_current(layout, old.number, number):
        raise StoreError(f"{layout.location}: another process changed the store; run the same command again")
    return number


def _other_records(
    layout: Layout, manifest: Manifest, inventory: Inventory, tags: Iterable[Tag]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield records outside a generation: sample numbers, and rows of store.fits.records.ROW. Skip what can't be read."""
    samples, fingerprint, everyone = manifest.samples, manifest.fingerprint, np.arange(manifest.samples)
    generation = inventory.generation
    for number in layout.generation_numbers():
        if number != generation.number:
            try:
                yield (
                    everyone,
                    load_generation(layout, number, samples=samples, fingerprint=fingerprint)[1],
                )
            except (StoreError, OSError):
                continue
    for name in layout.segment_names(generation.line, generation.number):
        try:
            segment = read_segment(layout, name, samples=samples, fingerprint=fingerprint)
        except (StoreError, OSError):
            continue
        yield segment.ids, segment.rows()
    for tag in tags:
        try:
            yield everyone, load_tagged(layout, manifest, tag).table.rows
        except (StoreError, OSError):
            continue


def _readable(
    layout: Layout, manifest: Manifest, inventory: Inventory, missing: list[str]
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Return a generation's records without the missing files, and which chunks are missing, by column."""
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


def readable_ids(content: bytes, samples: int) -> tuple[int, ...]:
    """Return the sample numbers that a damaged segment seems to name."""
    try:
        ids = pa.ipc.open_file(pa.BufferReader(content)).read_all().column("id").to_numpy()
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return ()
    return tuple(np.unique(ids[(ids >= 0) & (ids < samples)]).tolist())


def ranges(samples: tuple[int, ...]) -> str:
    """Return ascending numbers as text: '3, 5-9'; 'none'."""
    if not samples:
        return "none"
    ids = np.array(samples)
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
