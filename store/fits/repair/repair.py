"""Repair of a damaged store: puts back what another file still holds, and loses nothing without being asked.

The bytes of a damaged file may still be in a copy of the store, or in a file of another generation with the same checksum;
store.json, CURRENT and the arrays' metadata follow from the generations. All that is put back has the checksum that was written
down for it. The rest stays unrepaired, or, with `accept_loss`, moves to the store's folder `damaged`; samples whose records
are lost have no fit then, and the next fit-static makes one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.errors import FitStoreNotFoundError, FormatVersionError, RecordError, StoreError
from store.files.open import open_files
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
from store.fits.repair.checksums import Check, has_checksum, holds_sealed
from store.fits.repair.salvage import manifest_from_generations, ranges, readable_ids, salvage

if TYPE_CHECKING:
    from store.files.base import Files

DAMAGED = "damaged"
GIVE_COPY = "give a copy of the store with --from PATH"


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged or missing file.

    action: 'repaired', it is what was written; 'removed', nothing needs it; 'lost', with what is lost; 'unrepaired', with what
    would be lost and what to do. samples: those concerned, where they are known.
    """

    file: str
    action: str
    text: str
    samples: tuple[int, ...] = ()


def repair(location: str | Path, *, copy: str | Path | None = None, accept_loss: bool = False) -> list[Outcome]:
    """Repair what verify finds. `copy` is a copy of the store, of any age. Writers may go on.

    Raises FitStoreNotFoundError; FormatVersionError if store.json can't be repaired, as nothing else can be checked then;
    FingerprintMismatchError or RecordError if the copy is of another store.
    """
    files = open_files(location)
    if not files.exists(MANIFEST) and not files.children("generations"):
        read_manifest(Layout(files))  # raises
    with files.exclusive():
        return _Repair(files, None if copy is None else open_files(copy), accept_loss).run()


class _Repair:
    """One run, in the order in which later parts rely on earlier ones."""

    def __init__(self, files: Files, copy: Files | None, accept_loss: bool) -> None:
        self.files, self.copy, self.accept_loss = files, copy, accept_loss
        self.layout = Layout(files)
        self.outcomes: list[Outcome] = []
        self.tags: dict[str, Tag] = {}
        self.inventories: dict[int, Inventory] = {}
        self.manifest: Manifest

    def run(self) -> list[Outcome]:
        self.manifest = self._repair_manifest()
        if self.copy is not None:
            self._check_copy(self.copy)
        self._repair_tags()
        self._repair_fences()
        self._repair_inventories()
        current = self._repair_current()
        for number in sorted(self.inventories):
            self._repair_group(number, current)
        if current in self.inventories:
            self._repair_segments()
        return self.outcomes

    def _check_copy(self, copy: Files) -> None:
        other = read_manifest(Layout(copy))
        require_same(self.manifest.fingerprint, other.fingerprint, where=copy.location)
        if other.samples != self.manifest.samples:
            raise RecordError(
                f"{copy.location}: a copy of another store: it has {other.samples} samples, expected {self.manifest.samples}"
            )

    # ---- small files ------------------------------------------------------------------------------------------------

    def _repair_manifest(self) -> Manifest:
        try:
            return read_manifest(self.layout)
        except (FormatVersionError, FitStoreNotFoundError):
            if holds_sealed(self._bytes(MANIFEST)):
                raise  # of a later version: not damage
            rebuilt = manifest_from_generations(self.layout)
            if rebuilt is not None:
                self._put(MANIFEST, rebuilt.to_bytes(), "written again from a generation's inventory")
            elif not self._copy_sealed(MANIFEST):
                raise
        return read_manifest(self.layout)

    def _repair_tags(self) -> None:
        names = [f"{TAGS}/{name}" for name in self.files.children(TAGS) if name.endswith(".json")]
        for file in names:
            if not holds_sealed(self._bytes(file)) and not self._copy_sealed(file):
                self._lose(file, f"which state tag {_stem(file)!r} names; it can't be restored")
        for pin in self.files.temporaries(TAGS):
            if not holds_sealed(self._bytes(pin)):
                self._remove(pin, "an unfinished tag; its writer will begin again")
        for file in names:
            with suppress(StoreError, OSError):
                self.tags[_stem(file)] = read_tag_file(self.layout, file)

    def _repair_fences(self) -> None:
        for name in self.files.children(FENCES):
            file = f"{FENCES}/{name}"
            if not holds_sealed(self._bytes(file)) and not self._copy_sealed(file):
                self._lose(
                    file,
                    "which workers of a run are its newest; until it starts workers again, offers of all are taken",
                )

    def _repair_inventories(self) -> None:
        numbers = set(self.layout.generation_files()) | {tag.generation for tag in self.tags.values()}
        with suppress(StoreError):
            numbers.add(read_current(self.layout))
        for number in sorted(numbers):
            name = inventory_name(number)
            try:
                found = read_inventory(self.layout, number, fingerprint=self.manifest.fingerprint)
            except StoreError as error:
                if isinstance(error, FormatVersionError) or holds_sealed(self._bytes(name)):
                    self._note(name, "unrepaired", str(error))
                    continue
                if not self._copy_sealed(name):
                    what = f"no other file has the checksums of generation {number}, so its records can't be checked"
                    self._note(name, "unrepaired", f"{what}; {GIVE_COPY}")
                    continue
                found = read_inventory(self.layout, number, fingerprint=self.manifest.fingerprint)
            self.inventories[number] = found

    def _repair_current(self) -> int | None:
        with suppress(StoreError):
            return read_current(self.layout)
        whole = sorted(self.inventories)
        if not whole:
            self._note(CURRENT, "unrepaired", f"no generation can be read that could be current; {GIVE_COPY}")
            return None
        number, note = whole[-1], ""
        generation = self.inventories[number].generation
        begun = generation.line == number and not self.layout.segment_names(number, number)
        if len(whole) > 1 and begun and number:
            # A restore that may not have been finished. Tags stay, so it can be done again; updates could not.
            entry = generation.history[-1] if generation.history else {}
            number = whole[-2]
            note = f"; if the restore of tag {entry.get('tag')!r} was finished, do it again"
        self._put(CURRENT, current_line(number), f"points to generation {number}, the newest{note}")
        return read_current(self.layout)

    # ---- generations ------------------------------------------------------------------------------------------------

    def _repair_group(self, number: int, current: int | None) -> None:
        folder, inventory = generation_name(number), self.inventories[number]
        for name in sorted(set(self.files.descendants(folder)) - set(inventory.files)):
            self._move_to_damaged(f"{folder}/{name}", "removed", "does not belong here")
        missing = []
        for name, (size, checksum) in inventory.files.items():
            check = has_checksum(checksum, size)
            if not check(self._bytes(f"{folder}/{name}")) and not self._repair_group_file(number, name, check):
                missing.append(name)
        if not missing:
            return
        needing = [tag.name for tag in self.tags.values() if tag.generation == number]
        if number != current and not needing and current is not None and number < current:
            self._remove_generation(number)
            self._note(folder, "removed", "neither the state nor a tag needs it")
        elif number != current:
            self._lose_tags(needing, f"generation {number} can't be repaired ({', '.join(missing)})")
            if self.accept_loss:
                self._remove_generation(number)
        else:
            self._salvage(number, missing, needing)

    def _repair_group_file(self, number: int, name: str, check: Check) -> bool:
        folder, inventory = generation_name(number), self.inventories[number]
        for other in self.inventories.values():
            if other is not inventory and other.files.get(name) == inventory.files[name]:
                twin = f"{generation_name(other.generation.number)}/{name}"
                if self._put_if(f"{folder}/{name}", self._bytes(twin), check, f"taken from {twin}"):
                    return True
        if self._put_if(f"{folder}/{name}", self._copied(f"{folder}/{name}"), check, "taken from the copy"):
            return True
        if "/c/" in name:
            return False
        made = group_metadata(inventory, self.manifest.samples, self.manifest.fingerprint)[name]
        return self._put_if(f"{folder}/{name}", made, check, "written again")

    def _salvage(self, number: int, missing: list[str], needing: list[str]) -> None:
        saved = salvage(self.layout, self.manifest, self.inventories[number], missing, self.tags.values())
        for name in missing:
            if self.accept_loss:
                text = f"samples {ranges(saved.lost)} have no fit now; {ranges(saved.earlier)} have an earlier one"
                action = "lost"
            else:
                text = f"the records of samples {ranges(saved.damaged)} can't be read; "
                text += f"{GIVE_COPY}, or --accept-loss keeps all others"
                action = "unrepaired"
            self._note(f"{generation_name(number)}/{name}", action, text, saved.damaged)
        made = saved.write() if self.accept_loss else None
        self._lose_tags(needing, f"generation {number} can't be repaired")
        if made is not None:
            self._remove_generation(number)
            self.inventories[made] = read_inventory(self.layout, made, fingerprint=self.manifest.fingerprint)

    def _remove_generation(self, number: int) -> None:
        self.files.remove_tree(generation_name(number), inventory_name(number))
        del self.inventories[number]

    # ---- segments ---------------------------------------------------------------------------------------------------

    def _repair_segments(self) -> None:
        generation = self.inventories[read_current(self.layout)].generation  # a salvage has moved it
        there = self.layout.segment_names(0, 10**9)
        wanted = {name for tag in self.tags.values() for name in tag.segments}
        samples, fingerprint = self.manifest.samples, self.manifest.fingerprint
        for name in sorted({*there, *wanted}):
            try:
                read_segment(self.layout, name, samples=samples, fingerprint=fingerprint)
                continue
            except (StoreError, FileNotFoundError):
                pass
            folder = int(name.partition("/")[0])
            in_state = folder >= generation.line and name not in generation.absorbed and name in there
            needing = [tag.name for tag in self.tags.values() if name in tag.segments]
            if not in_state and not needing:
                self._remove(f"{SEGMENTS}/{name}", "neither the state nor a tag needs it")
            elif not self._copy_segment(name):
                self._lose_segment(name, in_state, needing)

    def _copy_segment(self, name: str) -> bool:
        file, checksum = f"{SEGMENTS}/{name}", checksum_in_name(name)
        if checksum is None:
            return False
        return self._put_if(file, self._copied(file), has_checksum(checksum), "taken from the copy")

    def _lose_segment(self, name: str, in_state: bool, needing: list[str]) -> None:
        content = self._bytes(f"{SEGMENTS}/{name}")
        samples = readable_ids(content, self.manifest.samples)
        of = f"of samples {ranges(samples)} (as far as can be read)" if samples else "of unknown samples"
        self._lose_tags(needing, f"it needs {name}, which can't be repaired")
        if in_state:
            text = f"the updates in it, {of}: fits made or retracted in it are as before it"
            self._lose(f"{SEGMENTS}/{name}", text, samples)
        elif content:
            self._lose(f"{SEGMENTS}/{name}", f"updates {of}, which only tags need", samples)

    # ---- what is done to a file, and noted ---------------------------------------------------------------------------

    def _bytes(self, name: str) -> bytes:
        """Return a file's content, empty if there is none."""
        try:
            return self.files.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def _copied(self, name: str) -> bytes | None:
        if self.copy is None:
            return None
        try:
            return self.copy.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _copy_sealed(self, name: str) -> bool:
        """Take a JSON object with its checksum inside from the copy, and return whether there was one."""
        found = self._copied(name)
        if found is None or not holds_sealed(found) or not self._is_of_this_store(name, found):
            return False
        self._put(name, found, "taken from the copy")
        return True

    def _is_of_this_store(self, name: str, content: bytes) -> bool:
        """Return whether a copy's inventory is of the generation here: most of it, or of the files it names, is the same."""
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
                has_checksum(crc, size)(self._bytes(f"{folder}/{file}"))
                for file, (size, crc) in found.files.items()
                if file in there
            ]
            return not same or 2 * sum(same) > len(same)
        return False

    def _put_if(self, name: str, content: bytes | None, check: Check, how: str) -> bool:
        if content is None or not check(content):
            return False
        self._put(name, content, how)
        return True

    def _put(self, name: str, content: bytes, how: str) -> None:
        self.files.write(name, content)
        self._note(name, "repaired", how)

    def _remove(self, name: str, why: str) -> None:
        self.files.remove(name)
        self._note(name, "removed", why)

    def _lose(self, name: str, what: str, samples: tuple[int, ...] = ()) -> None:
        """Lose what a file held if that is accepted, else note that it would be lost."""
        if self.accept_loss:
            self._move_to_damaged(name, "lost", what, samples)
        else:
            text = f"would be lost: {what}; {GIVE_COPY}, or --accept-loss moves the file to {DAMAGED}/"
            self._note(name, "unrepaired", text, samples)

    def _lose_tags(self, names: list[str], why: str) -> None:
        for name in names:
            self._lose(tag_file(name), f"tag {name!r} can't be restored: {why}")
            if self.accept_loss:
                del self.tags[name]

    def _move_to_damaged(self, name: str, action: str, text: str, samples: tuple[int, ...] = ()) -> None:
        aside = f"{DAMAGED}/{name.replace('/', '--')}"
        self.files.write(aside, self._bytes(name))
        self.files.remove(name)
        self._note(name, action, f"{text}; its bytes are in {aside}", samples)

    def _note(self, file: str, action: str, text: str, samples: tuple[int, ...] = ()) -> None:
        self.outcomes.append(Outcome(file, action, text, samples))


def _stem(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".json")
