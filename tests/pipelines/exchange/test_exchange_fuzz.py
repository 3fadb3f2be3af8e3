"""Files of the exchange formats, damaged: rows, refusals, or one line of error come out, and nothing is run."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import StageError
from pipelines.exchange.import_fits import import_fits
from pipelines.folders import DataFolder
from pipelines.readers import exchange_file
from pipelines.readers.base import Person, ReaderOptions
from spin.body import load_body
from store.annotations.table import Annotations
from store.errors import StoreError
from store.exchange import match_samples, read_fits_file
from store.fits.records import admissible
from store.fits.store import FitStore
from tests.pipelines.mutations import byte_mutations, json_mutations, outcomes_of
from tests.store.exchange_cases import WRITERS, annotations, damaged_arrays

BYTES, STRUCTURES = 90, 60  # mutations of each of seven formats
ODD = (1e300, -1e300, 1e-300, 1e30, -1.0, 0.0, 3e38, np.nan, np.inf, 500.0)
SAMPLES = ("4dhumans.npz", "dataset.npz")


def as_bytes(name: str, arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz or .npy of the arrays, objects included."""
    out = io.BytesIO()
    if name.endswith(".npy"):
        np.save(out, arrays.get("rows", np.zeros(0)), allow_pickle=True)
    else:
        np.savez(out, allow_pickle=True, **arrays)
    return out.getvalue()


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    content = np.load(path)
    return {"rows": content} if path.suffix == ".npy" else {name: content[name] for name in content.files}


def mutations(name: str, source: Path, witness: Path) -> Iterator[tuple[str, bytes]]:
    """Damage to the bytes, then to what they mean."""
    data, seed = source.read_bytes(), sum(name.encode())
    if source.suffix == ".json":
        yield from json_mutations(data, BYTES + STRUCTURES, seed)
        return
    yield from byte_mutations(data, BYTES, seed)
    arrays = arrays_of(source)
    for number in range(STRUCTURES):
        rng = np.random.default_rng([seed, number])
        yield f"arrays (seed {seed}, number {number})", as_bytes(name, damaged_arrays(arrays, rng, witness))


def read_fits(path: Path, what: str) -> bool:
    """Whether there were rows; AssertionError if something came out that may not."""
    try:
        found = read_fits_file(path)
    except StoreError as error:
        assert str(path) in str(error), what
        assert len(str(error).splitlines()) == 1, what
        return False
    assert len(found.valid) == len(found.pose) == len(found.betas), what
    assert np.isfinite(found.pose[found.valid]).all(), what
    assert np.isfinite(found.betas[found.valid]).all(), what
    assert set(np.flatnonzero(~found.valid)) <= set(found.problems), what
    if found.keys is not None:
        match_samples(found.keys, annotations())
    return True


@pytest.mark.parametrize("name", WRITERS)
def test_no_damage_leads_anywhere_but_to_one_line(tmp_path: Path, name: str) -> None:
    source, target, witness = tmp_path / name, tmp_path / "mutated" / name, tmp_path / "executed"
    target.parent.mkdir()
    WRITERS[name](source)
    usable = []
    for what, content in mutations(name, source, witness):
        target.write_bytes(content)
        usable.append(read_fits(target, what))
        if name in SAMPLES:
            options = ReaderOptions("all", extra={"file": target, "body": "SMPL"})
            exchange_file._read.cache_clear()
            outcome = outcomes_of(exchange_file, tmp_path, options, what)
            assert not isinstance(outcome, StageError) or str(target) in str(outcome), what
    assert any(usable) and not all(usable)  # damage that is always or never found tests nothing
    assert not witness.exists()


def test_an_undamaged_file_is_read(tmp_path: Path) -> None:
    """What the fuzz test would not notice: a reader that refuses everything."""
    for name in WRITERS:
        WRITERS[name](tmp_path / name)
        assert read_fits(tmp_path / name, name)
    for name in SAMPLES:
        options = ReaderOptions("all", extra={"file": tmp_path / name, "body": "SMPL"})
        people = outcomes_of(exchange_file, tmp_path, options)
        assert isinstance(people, list)
        assert all(isinstance(person, Person) for person in people)


@pytest.mark.parametrize("name", ["eft.json", "bedlam.npz", "final.npz"])
def test_odd_numbers_in_a_file_spoil_no_store(tmp_path: Path, name: str) -> None:
    """Files that can be read but hold nonsense, through matching, cameras and scores: only finite fits are kept."""
    data = DataFolder(tmp_path / "data")
    annotations().write(data.annotations("people"))
    source, target = tmp_path / name, tmp_path / f"odd-{name}"
    WRITERS[name](source)
    mine = load_body(data.body).fingerprint
    for number, odd in enumerate(ODD):
        rng = np.random.default_rng([7, number])
        if source.suffix == ".json":
            content = json.loads(source.read_text())
            content["meta"]["spin_pipe_body"] = mine
            for entry in content["data"]:
                key = ["parm_cam", "bbox_center", "parm_shape"][rng.integers(3)]
                entry[key][rng.integers(2)] = odd
            target.write_text(json.dumps(content))
        else:
            arrays = arrays_of(source) | {"spin_pipe_body": np.array(mine)}
            some = [n for n in arrays if arrays[n].dtype.kind == "f"]
            key = some[rng.integers(len(some))]
            arrays[key] = arrays[key].astype(np.float64)
            arrays[key].reshape(len(arrays[key]), -1)[:, rng.integers(2) if arrays[key].ndim > 1 else 0] = odd
            np.savez(target, **arrays)
        done = import_fits(data, "people", target)
        assert done.offered + sum(done.rejected.values()) == done.rows
    store = FitStore.open(data.fits("people"))
    assert admissible(store.get(np.flatnonzero(store.get(np.arange(5)).source))).all()


def test_annotations_stay_as_they_were(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    annotations().write(data.annotations("people"))
    before = data.annotations("people").read_bytes()
    WRITERS["static.npy"](tmp_path / "static.npy")
    import_fits(data, "people", tmp_path / "static.npy", same_body=True)
    assert data.annotations("people").read_bytes() == before
    assert len(Annotations.read(data.annotations("people"))) == 5
