"""Stores that earlier versions made open as they are, and become today's when they are compacted."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits

from store import Fits, FitStore
from store.fits.records import COLUMNS

SAMPLES = 60
ALL = np.arange(SAMPLES)
COLUMNS_OF = {
    1: ["pose", "betas", "camera", "loss", "score", "source", "step", "improvements"],
    2: [name for name, column in COLUMNS.items() if column.since <= 2],
}


def sealed(content: dict) -> dict:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**content, "crc32_of_rest": f"{zlib.crc32(text.encode()):08x}"}


def write_store(root: Path, version: int, fits: Fits, ids: np.ndarray, updates: Fits) -> None:
    """By the specification of that version: a generation, a segment since, and a tag for the two."""
    for folder in ("generations", "segments/000003", "tags"):
        (root / folder).mkdir(parents=True)
    parts = {name: np.ascontiguousarray(getattr(fits, name)) for name in COLUMNS_OF[version]}
    attributes = sealed(
        {
            "format": "spin-pipe-fits-generation",
            "version": version,
            "generation": 3,
            "line": 0,
            "absorbed": ["000002/w-0-0.arrow"],
            "fingerprint": FINGERPRINT.to_json(),
            "crc32": {name: f"{zlib.crc32(array.tobytes()):08x}" for name, array in parts.items()},
        }
    )
    group = zarr.create_group(root / "generations" / "000003.zarr", zarr_format=3, attributes=attributes)
    for name, array in parts.items():
        chunks = (4096, *array.shape[1:])
        made = group.create_array(
            name, shape=array.shape, chunks=chunks, dtype=array.dtype, fill_value=COLUMNS[name].empty
        )
        made[...] = array
    arrays, fields = [pa.array(ids)], [pa.field("id", pa.int64(), nullable=False)]
    for name in COLUMNS_OF[version]:
        flat = pa.array(np.ascontiguousarray(getattr(updates, name)).reshape(-1))
        kind, width = flat.type, COLUMNS[name].width
        if width:
            kind = pa.list_(pa.field("item", kind, nullable=False), width)
            flat = pa.FixedSizeListArray.from_arrays(flat, type=kind)
        arrays.append(flat)
        fields.append(pa.field(name, kind, nullable=False))
    metadata = {"format": "spin-pipe-fits-segment", "version": str(version), "generation": "3"}
    schema = pa.schema(fields, {**metadata, "fingerprint": FINGERPRINT.to_text()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(pa.record_batch(arrays, schema=schema))
    content = sink.getvalue().to_pybytes()
    name = f"000003/train-0123456789abcdef-{zlib.crc32(content):08x}.arrow"
    (root / "segments" / name).write_bytes(content)
    tag = {"format": "spin-pipe-fits-tag", "version": 1, "generation": 3, "segments": [name]}
    (root / "tags" / "then.json").write_text(json.dumps(sealed(tag)))
    manifest = {"format": "spin-pipe-fits", "version": 1, "samples": SAMPLES}
    manifest["fingerprint"] = FINGERPRINT.to_json()  # type: ignore[assignment]
    (root / "store.json").write_text(json.dumps(sealed(manifest)))
    (root / "CURRENT").write_text(f"000003 {zlib.crc32(b'000003'):08x}\n")


def known_to(version: int, fits: Fits) -> Fits:
    lacking = {name: COLUMNS[name].empty for name in COLUMNS if name not in COLUMNS_OF[version]}
    return changed_fits(fits, **lacking)


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_opens_and_is_migrated_by_compaction(
    version: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    fits, ids = known_to(version, random_fits(SAMPLES, rng)), ALL[10:20]
    updates = changed_fits(known_to(version, random_fits(10, rng)), score=-1)
    write_store(tmp_path / "fits", version, fits, ids, updates)
    expected = changed_fits(fits)
    for name in COLUMNS:
        getattr(expected, name)[ids] = getattr(updates, name)
    store = FitStore.open(tmp_path / "fits", fingerprint=FINGERPRINT)
    assert same_bits(store.get(ALL), expected)
    # Today's updates go on top of it, before it is migrated and afterwards; the old tag keeps its state.
    later = changed_fits(random_fits(5, rng), score=-2)
    store.merge(ALL[:5], later)
    store.flush()
    assert store.reset(ALL[30:31]) == 1
    for name in COLUMNS:
        getattr(expected, name)[:5] = getattr(later, name)
        getattr(expected, name)[30] = 1 if name == "epoch" else COLUMNS[name].empty
    assert same_bits(FitStore.open(tmp_path / "fits").get(ALL), expected)
    assert store.compact() == 4
    assert (tmp_path / "fits" / "generations" / "000004.json").exists()
    migrated = FitStore.open(tmp_path / "fits")
    assert same_bits(migrated.get(ALL), expected)
    migrated.restore("then")
    assert same_bits(migrated.get(ALL[30:31]), fits.take(slice(30, 31)))


def test_compaction_migrates_where_there_is_nothing_to_absorb(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fits = known_to(1, random_fits(SAMPLES, rng))
    write_store(tmp_path / "fits", 1, fits, ALL[:0], fits.take(slice(0)))
    store = FitStore.open(tmp_path / "fits")
    assert store.compact() == 4 and store.compact() == 4
    assert same_bits(FitStore.open(tmp_path / "fits").get(ALL), fits)
