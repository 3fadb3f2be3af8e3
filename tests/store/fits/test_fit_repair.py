"""Damage to any file is found, named, and repaired where another file holds the bytes; nothing is lost without being asked."""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits
from places import Place

from store import FingerprintMismatchError, Fits, FitStore, FitStoreNotFoundError, RecordError
from store.errors import OutsideError, StoreError
from store.files.checksummed_json import to_bytes
from store.files.open import open_files
from store.fits.repair.repair import Outcome, repair
from store.fits.repair.salvage import ranges
from store.fits.repair.verify import verify

SAMPLES = 50
ALL = np.arange(SAMPLES)
TAGS = ("early", "late")
RANDOM = random.Random(5)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here, so nothing has to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generations, tags on each, segments absorbed but kept and not, one of them a retraction."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("base") / "fits"
    store = FitStore.create(folder, samples=SAMPLES, fingerprint=FINGERPRINT)
    store.merge(ALL[:40], changed_fits(random_fits(40, rng), source=1))
    store.tag("early")
    store.compact()
    store.merge(ALL[:10], changed_fits(random_fits(10, rng), score=-1))
    store.tag("late")
    store.reset(ALL[20:25], where="by hand")
    store.merge(ALL[10:15], changed_fits(random_fits(5, rng), score=-2))
    store.flush()
    store.set_fence("first", "a")
    assert verify(folder).whole
    return folder


def paths(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name != "lock")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: (folder / path).read_bytes() for path in paths(folder)}


def state(folder: Path) -> dict[str, Fits]:
    store = FitStore.open(folder)
    return {"": store.get(ALL), **{tag: store.at(tag).get(ALL) for tag in store.tags()}}


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[RANDOM.randrange(len(content))] ^= 1 << RANDOM.randrange(8)
    return bytes(changed)


def smeared(content: bytes) -> bytes:
    """Some bytes of it are others."""
    changed = bytearray(content)
    start = RANDOM.randrange(max(1, len(content) - 8))
    changed[start : start + 8] = bytes(b ^ 0xA5 for b in changed[start : start + 8])
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "smeared": smeared,
    "cut": lambda content: content[: len(content) // 2],
    "missing": lambda content: None,
}


def damage(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def test_with_a_copy_any_damage_to_any_file_is_repaired(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fits"
    shutil.copytree(base, folder)
    before = contents(folder)
    for place, path in enumerate(before):
        kind = list(DAMAGE)[place % 3]
        if kind == "missing" and path.parts[0] in ("tags", "fences"):
            kind = "cut"  # a tag that is gone is not missed
        if kind == "missing" and path.suffix == ".arrow":
            kind = "smeared"  # nor is a segment that no tag needs
        damage(folder / path, DAMAGE[kind](before[path]))
        outcomes = repair(folder, copy=base)
        assert [outcome.action for outcome in outcomes] == ["repaired"], f"{path} {kind}: {outcomes}"
        assert contents(folder) == before, path
    shutil.rmtree(folder / "generations" / "000001.zarr")
    (folder / "generations" / "000000.json").unlink()
    repair(folder, copy=base)
    assert contents(folder) == before


def test_without_a_copy_damage_is_repaired_or_not_and_nothing_is_lost(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fits"
    shutil.copytree(base, folder)
    before = contents(folder)
    actions: dict[str, set[str]] = {}
    for path, content in before.items():
        worse = smeared(content)
        (folder / path).write_bytes(worse)
        outcomes = repair(folder)
        assert outcomes and {o.action for o in outcomes} <= {"repaired", "unrepaired"}, f"{path}: {outcomes}"
        assert path.as_posix() in {outcome.file for outcome in outcomes}
        left = contents(folder)
        if all(outcome.action == "repaired" for outcome in outcomes):
            assert left == before, path
        else:
            assert left == {**before, path: worse}, f"{path}: not repaired, and yet changed"
            assert all("--from" in outcome.text for outcome in outcomes), outcomes
            (folder / path).write_bytes(content)
        actions.setdefault(path.parts[0], set()).update(o.action for o in outcomes)
    assert actions["CURRENT"] == actions["store.json"] == {"repaired"}
    assert actions["tags"] == actions["fences"] == actions["segments"] == {"unrepaired"}
    assert actions["generations"] == {"repaired", "unrepaired"}


def test_salvage_finds_lost_records_in_an_earlier_state_and_the_updates_since(base: Path, tmp_path: Path) -> None:
    """Generation 1 is generation 0 and the segment that the tag on generation 0 kept."""
    folder = tmp_path / "fits"
    shutil.copytree(base, folder)
    before, whole = contents(folder), state(folder)
    in_group = [path for path in before if path.parts[:2] == ("generations", "000001.zarr")]
    chunks = [path for path in in_group if "c" in path.parts and path.parts[2] != "epoch"]
    for path in chunks:
        (folder / path).write_bytes(smeared(before[path]))
    assert {o.action for o in repair(folder)} == {"unrepaired"}
    lost = [o for o in repair(folder, accept_loss=True) if o.file.startswith("generations/")]
    assert len(lost) == len(chunks) and {o.action for o in lost} == {"lost"}
    assert "samples 40-49 have no fit now; 0-39 have an earlier one" in lost[0].text
    after = state(folder)
    assert same_bits(after[""], whole[""]) and same_bits(after["early"], whole["early"])
    assert "late" not in after and verify(folder).whole


def listed(outcomes: list[Outcome]) -> set[int]:
    return {sample for outcome in outcomes for sample in outcome.samples}


def test_accepted_loss_keeps_everything_else_and_says_whose_fits_are_gone(base: Path, tmp_path: Path) -> None:
    """Every file in turn, with no copy: what differs afterwards is reported."""
    plain = tmp_path / "plain"
    shutil.copytree(base, plain)
    store = FitStore.open(plain)
    for tag in TAGS:
        store.untag(tag)
    store.gc()
    store.tag("only")
    before, whole = contents(plain), state(plain)
    lost = 0
    for place, (path, content) in enumerate(before.items()):
        folder = tmp_path / str(place)
        shutil.copytree(plain, folder)
        (folder / path).write_bytes(smeared(content))
        outcomes = repair(folder, accept_loss=True)
        assert path.as_posix() in {outcome.file for outcome in outcomes}
        if [outcome.action for outcome in outcomes] == ["unrepaired"]:
            assert path.name == "000001.json", path
            shutil.rmtree(folder)
            continue
        assert verify(folder).whole, f"{path}: {outcomes}"
        after = state(folder)
        if path.suffix != ".arrow":  # of whose samples only what can be read is listed
            old, new = whole[""], after[""]
            differs = [i for i in ALL if not same_bits(old.take(ALL[i : i + 1]), new.take(ALL[i : i + 1]))]
            assert set(differs) <= listed(outcomes), f"{path}: {differs}"
        if "only" in after:
            assert same_bits(after["only"], whole["only"])
        else:
            assert any(o.file == "tags/only.json" and o.action == "lost" for o in outcomes)
        lost += any(outcome.action == "lost" for outcome in outcomes)
        shutil.rmtree(folder)
    assert lost > 10


def test_a_lost_chunk_takes_only_its_samples_and_they_can_be_fitted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.fits.format.generations.ROWS_PER_CHUNK", 16)
    rng = np.random.default_rng(1)
    store = FitStore.create(tmp_path / "fits", samples=SAMPLES, fingerprint=FINGERPRINT)
    fits = changed_fits(random_fits(SAMPLES, rng), score=1)
    store.merge(ALL, fits)
    store.reset(ALL[16:18])
    store.compact()
    store.merge(ALL[20:22], changed_fits(fits.take(slice(20, 22)), score=0))
    store.flush()
    now = state(store.path)[""]
    chunk = store.path / "generations" / "000001.zarr" / "pose" / "c" / "1" / "0"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    refused = repair(store.path)
    assert refused[0].samples == tuple(range(16, 32)) and "16-31" in refused[0].text
    repair(store.path, accept_loss=True)
    left = state(store.path)[""]
    kept = np.r_[0:16, 20:22, 32:SAMPLES]
    assert same_bits(left.take(kept), now.take(kept))
    gone = np.r_[18:20, 22:32]
    assert (left.source[gone] == 0).all() and left.epoch[16:18].tolist() == [1, 1]
    again = FitStore.open(store.path)
    offers = changed_fits(fits.take(gone), score=50, epoch=left.epoch[gone])
    assert again.merge(gone, offers).all()
    assert not again.merge(ALL[16:18], fits.take(slice(16, 18))).any(), "what was retracted stays so"


def test_a_copy_of_another_store_is_refused(base: Path, tmp_path: Path) -> None:
    before = contents(base)
    with pytest.raises(FitStoreNotFoundError):
        repair(base, copy=tmp_path)
    FitStore.create(tmp_path / "a", samples=SAMPLES, fingerprint=replace(FINGERPRINT, body="smpl:1"))
    with pytest.raises(FingerprintMismatchError):
        repair(base, copy=tmp_path / "a")
    FitStore.create(tmp_path / "b", samples=SAMPLES + 1, fingerprint=FINGERPRINT)
    with pytest.raises(RecordError, match="another store"):
        repair(base, copy=tmp_path / "b")
    assert contents(base) == before


def test_what_nothing_needs_is_removed(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fits"
    shutil.copytree(base, folder)
    whole = state(folder)[""]
    kept = [path for path in paths(folder) if path.parts[:2] == ("segments", "000000")]
    (folder / "tags" / "early.json").unlink()
    (folder / kept[0]).write_bytes(b"nothing")
    outcomes = repair(folder)
    assert [(o.file, o.action) for o in outcomes] == [(kept[0].as_posix(), "removed")]
    assert same_bits(state(folder)[""], whole)


def test_a_whole_store_is_left_alone_and_ranges_are_short(base: Path) -> None:
    before = contents(base)
    assert repair(base) == [] and contents(base) == before
    assert ranges((3, 5, 6, 7, 9)) == "3, 5-7, 9" and ranges(()) == "none"


def test_wherever_a_store_lies_it_is_repaired_from_a_copy_or_by_itself(place: Place) -> None:
    rng = np.random.default_rng(2)
    store = FitStore.create(place.location("fits"), samples=SAMPLES, fingerprint=FINGERPRINT)
    store.merge(ALL, random_fits(SAMPLES, rng))
    store.compact()
    store.merge(ALL, random_fits(SAMPLES, rng))
    store.tag("now")
    place.put(place.location("copy"), "note", b"of today")
    files, copy = open_files(store.location), open_files(place.location("copy"))
    names = [name for name in files.descendants("") if name != "lock" and not name.endswith(".claim")]
    written = {name: files.read(name) for name in names}
    for name, content in written.items():
        copy.write(name, content)
    for name, content in written.items():
        files.write(name, smeared(content))
    outcomes = repair(store.location, copy=copy.location)
    assert {outcome.action for outcome in outcomes} == {"repaired"} and verify(store.location).whole
    assert {name: files.read(name) for name in names} == written
    for name in ("CURRENT", "store.json"):
        files.write(name, flipped(written[name]))
        assert [(o.file, o.action) for o in repair(store.location)] == [(name, "repaired")]
    assert {name: files.read(name) for name in names} == written


# ---- stores made to do harm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "pose/c/0/../../../../../../outside",
        "/outside",
        "pose/c/../../x",
        "other/c/0",
        "pose/c/0\\..\\x",
        "../CURRENT",
        "pose/c/1/2",
    ],
)
def test_a_name_in_an_inventory_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "a" / "b" / "fits", tmp_path / "outside"
    outside.write_bytes(b"mine")
    FitStore.create(root, samples=5, fingerprint=FINGERPRINT)
    (path,) = (root / "generations").glob("*.json")
    content = json.loads(path.read_text())
    content.pop("crc32_of_rest")
    chunk = b"theirs"
    content["files"][name] = [len(chunk), f"{zlib.crc32(chunk):08x}"]
    path.write_bytes(to_bytes(content))
    with pytest.raises(StoreError, match="which no generation has"):
        FitStore.open(root)
    for accept_loss in (False, True):
        with suppress(StoreError):
            repair(root, accept_loss=accept_loss)
    assert outside.read_bytes() == b"mine"
    assert {p.name for p in tmp_path.iterdir()} == {"a", "outside"} and {p.name for p in root.parent.iterdir()} == {"fits"}


@pytest.mark.parametrize("link", ["tags", "segments", "generations/000000.zarr/pose"])
def test_a_link_out_of_the_store_is_not_followed(tmp_path: Path, link: str) -> None:
    root, outside = tmp_path / "fits", tmp_path / "outside"
    FitStore.create(root, samples=5, fingerprint=FINGERPRINT)
    outside.mkdir()
    shutil.rmtree(root / link)
    (root / link).symlink_to(outside)
    with pytest.raises(OutsideError, match="remove the link"):
        store = FitStore.open(root)
        store.tag("a")
        store.merge(np.arange(5), random_fits(5, np.random.default_rng(0)))
        store.flush()
        repair(root)
    assert not list(outside.iterdir())
