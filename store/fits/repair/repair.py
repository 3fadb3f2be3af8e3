"""Damage to a store, undone where something else holds the truth; where nothing does, said before anything is given up.

Where the bytes of a damaged file may still be: in a file of another generation with the same checksum, in a copy of the store,
in the file itself if one bit of it flipped, in what the file was made of (a chunk: earlier generations, tags and segments).
What is put back has the checksum that was written down for it. What has no such source is refused, or, with `accept_loss`, set
aside in the store's folder `damaged`; samples whose records are gone have no fit then, and are fitted anew.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from store.errors import FitStoreNotFoundError, FormatVersionError, RecordError, StoreError
from store.files.base import open_files
from store.fits.fingerprint import require_same
from store.fits.format.fencing import FENCES
from store.fits.format.generations import Inventory, group_metadata, read_inventory
from store.fits.format.layout import (
    CURRENT,
    MANIFEST,
    SEGMENTS,
    TAGS,
    Layout,
    Manifest,
    current_line,
    generation_name,
    inventory_name,
    read_current,
    read_manifest,
)
from store.fits.format.segments import checksum_in_name, read_segment
from store.fits.format.tags import Tag, read_tag_file, tag_file
from store.fits.repair import checksums as mending
from store.fits.repair.repair_files import GIVE_COPY, Outcome, RepairFiles, ranges
from store.fits.repair.salvage import manifest_from_generations, rebuilt_chunk, salvaged

if TYPE_CHECKING:
    from store.files.base import Files


def repair(
    location: str | Path, *, copy: str | Path | None = None, accept_loss: bool = False
) -> list[Outcome]:
    """Mends what verify finds. `copy` is a copy of the store, of whatever age. Writers may go on.

    Raises FitStoreNotFoundError; FormatVersionError if store.json is beyond mending: then nothing can be judged;
    FingerprintMismatchError or RecordError if the copy is of another store.
    """
    files = open_files(location)
    if not files.exists(MANIFEST) and not files.children("generations"):
        read_manifest(Layout(files))  # raises
    with files.exclusive():
        return _Repair(files, None if copy is None else open_files(copy), accept_loss).run()


class _Repair(RepairFiles):
    """One run, in the order in which later parts rely on earlier ones."""

    def __init__(self, files: Files, copy: Files | None, accept_loss: bool) -> None:
        super().__init__(files, copy, accept_loss)
        self.tags: dict[str, Tag] = {}
        self.inventories: dict[int, Inventory] = {}
        self.manifest: Manifest

    def run(self) -> list[Outcome]:
        self.manifest = self._mend_manifest()
        if self.copy is not None:
            self._check_copy(self.copy)
        self._mend_tags()
        self._mend_fences()
        self._mend_inventories()
        current = self._mend_current()
        for number in sorted(self.inventories):
            self._mend_group(number, current)
        if current in self.inventories:
            self._mend_segments(current)
        return self.outcomes

    def _check_copy(self, copy: Files) -> None:
        other = read_manifest(Layout(copy))
        require_same(self.manifest.fingerprint, other.fingerprint, where=copy.location)
        if other.samples != self.manifest.samples:
            raise RecordError(
                f"{copy.location}: a copy of another store: it has {other.samples} samples, expected {self.manifest.samples}"
            )

    # ---- small files ------------------------------------------------------------------------------------------------

    def _mend_manifest(self) -> Manifest:
        try:
            return read_manifest(self.layout)
        except (FormatVersionError, FitStoreNotFoundError):
            content = self._bytes(MANIFEST)
            if mending.holds_sealed(content):
                raise  # of a later version: not damage
            rebuilt = manifest_from_generations(self.layout)
            if rebuilt is not None:
                self._put(MANIFEST, rebuilt.to_bytes(), "made again from what a generation says")
            elif not self._mend_sealed(MANIFEST, content):
                raise
        return read_manifest(self.layout)

    def _mend_tags(self) -> None:
        names = [f"{TAGS}/{name}" for name in self.files.children(TAGS) if name.endswith(".json")]
        for file in names:
            content = self._bytes(file)
            if not mending.holds_sealed(content) and not self._mend_sealed(file, content):
                what = f"which state tag {_stem(file)!r} names is not known any more"
                self._give_up(file, f"{what}; it can't be restored")
        for pin in self.files.temporaries(TAGS):
            if not mending.holds_sealed(self._bytes(pin)):
                self._remove(pin, "a tag under way; its maker will begin again")
        for file in names:
            with suppress(StoreError, OSError):
                self.tags[_stem(file)] = read_tag_file(self.layout, file)

    def _mend_fences(self) -> None:
        for name in self.files.children(FENCES):
            file = f"{FENCES}/{name}"
            content = self._bytes(file)
            if not mending.holds_sealed(content) and not self._mend_sealed(file, content):
                what = (
                    "which workers of a run are its newest; until it starts workers again, all are believed"
                )
                self._give_up(file, what)

    def _mend_inventories(self) -> None:
        numbers = set(self.layout.generation_files()) | {tag.generation for tag in self.tags.values()}
        with suppress(StoreError):
            numbers.add(read_current(self.layout))
        for number in sorted(numbers):
            name = inventory_name(number)
            try:
                found = read_inventory(self.layout, number, fingerprint=self.manifest.fingerprint)
            except StoreError as error:
                content = self._bytes(name)
                if isinstance(error, FormatVersionError) or mending.holds_sealed(content):
                    self._say(name, "refused", str(error))
                    continue
                if not self._mend_sealed(name, content):
                    what = f"nothing else says what generation {number} holds, so its records can't be judged"
                    self._say(name, "refused", f"{what}; {GIVE_COPY}")
                    continue
                found = read_inventory(self.layout, number, fingerprint=self.manifest.fingerprint)
            self.inventories[number] = found

    def _mend_current(self) -> int | None:
        with suppress(StoreError):
            return read_current(self.layout)
        whole = sorted(self.inventories)

        def is_line(content: bytes) -> bool:
            return any(content == current_line(number) for number in whole)

        flipped = mending.line_with_one_bit_turned_back(self._bytes(CURRENT), is_line)
        if flipped is not None:
            self._put(CURRENT, flipped[0], f"one flipped bit turned back (byte {flipped[1]})")
        elif not whole:
            self._say(CURRENT, "refused", f"which generation is current can't be known; {GIVE_COPY}")
            return None
        else:
            number, note = whole[-1], ""
            generation = self.inventories[number].generation
            begun = generation.line == number and not self.layout.segment_names(number, number)
            if len(whole) > 1 and begun and number:
                # A restore that may not have been finished. Tags stay, so it can be done again; updates could not.
                entry = generation.history[-1] if generation.history else {}
                number = whole[-2]
                note = f"; if the restore of tag {entry.get('tag')!r} had been finished, do it again"
            self._put(CURRENT, current_line(number), f"points to generation {number}, the newest{note}")
        return read_current(self.layout)

    def _fits_here(self, name: str, content: bytes) -> bool:
        """Whether a copy's inventory is of the generation that is here: most of it, or of what it names, is here."""
        if self.copy is None or not name.startswith("generations/"):
            return True
        here = np.frombuffer(self._bytes(name), np.uint8)
        if len(here) == len(content) and np.mean(here == np.frombuffer(content, np.uint8)) > 0.75:
            return True
        number = int(_stem(name))
        with suppress(StoreError):
            found = read_inventory(Layout(self.copy), number, fingerprint=self.manifest.fingerprint)
            folder, there = generation_name(number), set(self.files.descendants(generation_name(number)))
            same = [
                mending.has_checksum(crc, size)(self._bytes(f"{folder}/{file}"))
                for file, (size, crc) in found.files.items()
                if file in there
            ]
            return not same or 2 * sum(same) > len(same)
        return False

    # ---- generations ------------------------------------------------------------------------------------------------

    def _mend_group(self, number: int, current: int | None) -> None:
        folder, inventory = generation_name(number), self.inventories[number]
        for name in sorted(set(self.files.descendants(folder)) - set(inventory.files)):
            self._set_aside(f"{folder}/{name}", "removed", "does not belong here")
        missing = []
        for name, (size, checksum) in inventory.files.items():
            check = mending.has_checksum(checksum, size)
            if not check(self._bytes(f"{folder}/{name}")) and not self._mend_group_file(number, name, check):
                missing.append(name)
        if not missing:
            return
        needing = [tag.name for tag in self.tags.values() if tag.generation == number]
        if number != current and not needing and current is not None and number < current:
            self.files.remove_tree(folder, inventory_name(number))
            del self.inventories[number]
            self._say(folder, "removed", "neither the state nor a tag needs it")
        elif number != current:
            self._give_up_tags(needing, f"generation {number} can't be mended ({', '.join(missing)})")
            if self.accept_loss:
                self.files.remove_tree(folder, inventory_name(number))
                del self.inventories[number]
        else:
            self._salvage(number, missing, needing)

    def _mend_group_file(self, number: int, name: str, check: mending.Check) -> bool:
        folder, inventory = generation_name(number), self.inventories[number]
        for other in self.inventories.values():
            if other is not inventory and other.files.get(name) == inventory.files[name]:
                twin = f"{generation_name(other.generation.number)}/{name}"
                if self._put_if(f"{folder}/{name}", self._bytes(twin), check, f"taken from {twin}"):
                    return True
        copied = self._copied(f"{folder}/{name}")
        if copied is not None and self._put_if(f"{folder}/{name}", copied, check, "taken from the copy"):
            return True
        if "/c/" not in name:
            made = group_metadata(inventory, self.manifest.samples, self.manifest.fingerprint)[name]
            if self._put_if(f"{folder}/{name}", made, check, "made again"):
                return True
        flipped = mending.one_bit_turned_back(self._bytes(f"{folder}/{name}"), inventory.files[name][1])
        if flipped is not None:
            text = f"one flipped bit turned back (byte {flipped[1]})"
            return self._put_if(f"{folder}/{name}", flipped[0], check, text)
        rebuilt = rebuilt_chunk(self.layout, self.manifest, inventory, name, check, self.tags.values())
        if rebuilt is None:
            return False
        return self._put_if(
            f"{folder}/{name}", rebuilt, check, "made again of an earlier state and the updates since"
        )

    def _salvage(self, number: int, missing: list[str], needing: list[str]) -> None:
        inventory = self.inventories[number]
        saved = salvaged(self.layout, self.manifest, inventory, missing, self.tags.values())
        if not self.accept_loss:
            for name in missing:
                what = f"the records of samples {ranges(saved.damaged)} can't be told any more"
                text = f"{what}; {GIVE_COPY}, or --accept-loss keeps all others and has these fitted anew"
                self._say(f"{generation_name(number)}/{name}", "refused", text, saved.damaged)
            self._give_up_tags(needing, f"generation {number} can't be mended")
            return
        made = saved.write()
        for name in missing:
            text = (
                f"samples {ranges(saved.lost)} have no fit now; {ranges(saved.earlier)} have an earlier one"
            )
            self._say(f"{generation_name(number)}/{name}", "lost", text, saved.damaged)
        self._give_up_tags(needing, f"generation {number} can't be mended")
        self.files.remove_tree(generation_name(number), inventory_name(number))
        del self.inventories[number]
        self.inventories[made] = read_inventory(self.layout, made, fingerprint=self.manifest.fingerprint)

    # ---- segments ---------------------------------------------------------------------------------------------------

    def _mend_segments(self, current: int) -> None:
        current = read_current(self.layout)  # a salvage has moved it
        generation = self.inventories[current].generation
        there = self.layout.segment_names(0, 10**9)
        wanted = {name for tag in self.tags.values() for name in tag.segments}
        samples, fingerprint = self.manifest.samples, self.manifest.fingerprint
        for name in sorted({*there, *wanted}):
            try:
                read_segment(self.layout, name, samples=samples, fingerprint=fingerprint)
                continue
            except (StoreError, FileNotFoundError):
                content = self._bytes(f"{SEGMENTS}/{name}")
            folder = int(name.partition("/")[0])
            in_state = folder >= generation.line and name not in generation.absorbed and name in there
            needing = [tag.name for tag in self.tags.values() if name in tag.segments]
            if not in_state and not needing:
                self._remove(f"{SEGMENTS}/{name}", "neither the state nor a tag needs it")
            elif not self._mend_segment(name, content):
                self._lose_segment(name, content, in_state, needing)

    def _mend_segment(self, name: str, content: bytes) -> bool:
        checksum = checksum_in_name(name)
        if checksum is None:
            return False
        file, check = f"{SEGMENTS}/{name}", mending.has_checksum(checksum)
        copied = self._copied(file)
        if copied is not None and self._put_if(file, copied, check, "taken from the copy"):
            return True
        flipped = mending.one_bit_turned_back(content, checksum)
        return flipped is not None and self._put_if(
            file, flipped[0], check, f"one flipped bit turned back (byte {flipped[1]})"
        )

    def _lose_segment(self, name: str, content: bytes, in_state: bool, needing: list[str]) -> None:
        samples = _readable_ids(content, self.manifest.samples)
        of = f"of samples {ranges(samples)} (as far as can be read)" if samples else "of unknown samples"
        self._give_up_tags(needing, f"it needs {name}, which can't be mended")
        if in_state:
            text = f"the updates in it, {of}: fits made or taken back in it are as they were before"
            self._give_up(f"{SEGMENTS}/{name}", text, samples)
        elif content:
            self._give_up(f"{SEGMENTS}/{name}", f"updates {of}, which only tags need", samples)

    def _give_up_tags(self, names: list[str], why: str) -> None:
        for name in names:
            self._give_up(tag_file(name), f"tag {name!r} can't be restored: {why}")
            if self.accept_loss:
                del self.tags[name]


def _stem(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".json")


def _readable_ids(content: bytes, samples: int) -> tuple[int, ...]:
    """The sample numbers that a damaged segment seems to name."""
    try:
        ids = pa.ipc.open_file(pa.BufferReader(content)).read_all().column("id").to_numpy()
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return ()
    return tuple(np.unique(ids[(ids >= 0) & (ids < samples)]).tolist())
