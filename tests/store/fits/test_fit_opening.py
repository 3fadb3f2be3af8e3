"""What opening and creating a store check: place, format, version and fingerprint."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fit_samples import FINGERPRINT, random_fits
from fit_store_cases import ALL, SAMPLES
from places import Place

from store import (
    FingerprintMismatchError,
    FitStore,
    FitStoreExistsError,
    FitStoreNotFoundError,
    FormatVersionError,
    RecordError,
    StoreError,
)
from store.files.open import open_files
from store.fits.repair.repair import repair


def test_a_mismatch_says_which_part_differs_and_what_to_run(store: FitStore) -> None:
    other = replace(FINGERPRINT, body="smpl:9f", score_rule="expected:2")
    with pytest.raises(FingerprintMismatchError) as caught:
        FitStore.open(store.location, fingerprint=other)
    text = str(caught.value)
    for part in (
        "body model: stored 'open:1a2b', now 'smpl:9f'",
        "score rule: stored 'loss:1'",
        "fit-static",
    ):
        assert part in text
    assert "objective:" not in text and "\n" not in text and isinstance(caught.value, ValueError)
    assert FINGERPRINT.differences(FINGERPRINT) == {}


def test_a_segment_or_generation_of_another_store_is_refused(place: Place, store: FitStore) -> None:
    foreign = FitStore.create(
        place.location("foreign"), samples=SAMPLES, fingerprint=replace(FINGERPRINT, annotations="mpii:1")
    )
    foreign.merge(ALL, random_fits(SAMPLES, np.random.default_rng(0)))
    foreign.flush()
    theirs, ours = open_files(foreign.location), open_files(store.location)
    (segment,) = place.names(foreign.location, "segments/*/*")
    ours.write(segment, theirs.read(segment))
    with pytest.raises(FingerprintMismatchError, match=r"segments/000000/.*annotations: stored 'coco:5e6f'"):
        FitStore.open(store.location)
    ours.remove(segment)
    ours.write("generations/000000.json", theirs.read("generations/000000.json"))
    with pytest.raises(FingerprintMismatchError, match=r"000000\.json"):
        FitStore.open(store.location)


def test_open_and_create_check_the_place(place: Place, store: FitStore) -> None:
    with pytest.raises(FitStoreNotFoundError, match="fit-static") as caught:
        FitStore.open(place.location("none"))
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(FitStoreExistsError, match="not empty"):
        FitStore.create(store.location, samples=3, fingerprint=FINGERPRINT)
    with pytest.raises(RecordError, match="has 40 samples, expected 41"):
        FitStore.open_or_create(store.location, samples=41, fingerprint=FINGERPRINT)
    with pytest.raises(RecordError, match="at least one sample"):
        FitStore.create(place.location("new"), samples=0, fingerprint=FINGERPRINT)
    foreign = place.location("foreign")
    place.put(foreign, "thesis.tex", b"")
    with pytest.raises(FitStoreExistsError, match="not empty"):
        FitStore.open_or_create(foreign, samples=3, fingerprint=FINGERPRINT)
    again = FitStore.open_or_create(store.location, samples=SAMPLES, fingerprint=FINGERPRINT)
    assert again.samples == SAMPLES


def test_an_empty_folder_may_become_a_store(tmp_path: Path) -> None:
    assert FitStore.open_or_create(tmp_path, samples=3, fingerprint=FINGERPRINT).samples == 3


def test_a_later_version_is_refused(store: FitStore) -> None:
    files = open_files(store.location)
    files.write("store.json", json.dumps({**json.loads(files.read("store.json")), "version": 2}).encode())
    with pytest.raises(FormatVersionError, match="expected spin-pipe-fits version 1, found spin-pipe-fits version 2"):
        FitStore.open(store.location)
    files.write("store.json", b"{")
    with pytest.raises(FormatVersionError, match="not JSON"):
        FitStore.open(store.location)


@pytest.mark.parametrize("part", ["generations", "segments"])
def test_a_later_version_of_a_part_is_refused(
    part: str, place: Place, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"store.fits.format.{part}.VERSION", 4)
    store = FitStore.create(place.location("fits"), samples=SAMPLES, fingerprint=FINGERPRINT)
    store.merge(ALL, random_fits(SAMPLES, rng))
    store.flush()
    monkeypatch.undo()
    with pytest.raises(StoreError, match=f"{store.location}/{part}/.*expected .*3.*found .*4") as caught:
        FitStore.open(store.location)
    assert "earlier" not in str(caught.value)


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_is_refused_in_one_line(version: int, store: FitStore) -> None:
    """Generations of versions 1 and 2 had no inventory, only the group's attributes."""
    files, name = open_files(store.location), "generations/000000.zarr/zarr.json"
    group = json.loads(files.read(name))
    group["attributes"]["version"] = version
    files.write(name, json.dumps(group).encode())
    files.remove("generations/000000.json")
    expected = f"expected spin-pipe-fits-generation version 3, found version {version}, .*fit-static"
    with pytest.raises(FormatVersionError, match=expected) as caught:
        FitStore.open(store.location)
    assert "\n" not in str(caught.value) and store.location in str(caught.value)
    refused = {outcome.file: outcome.text for outcome in repair(store.location)}
    assert re.search(expected, refused["generations/000000.json"])
