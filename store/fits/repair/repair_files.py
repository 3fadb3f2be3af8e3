"""What a repair does to the files of a store, and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from store.fits.format.layout import Layout
from store.fits.repair import checksums as mending

if TYPE_CHECKING:
    from store.files.base import Files

DAMAGED = "damaged"
GIVE_COPY = "give a copy of the store with --from PATH"


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged or missing file: 'mended', as it was written; 'removed', as nothing needs it; 'lost', with
    what is lost; 'refused', with what would be and what can be done. samples: those concerned, where they are known."""

    file: str
    action: str
    text: str
    samples: tuple[int, ...] = ()


class RepairFiles:
    """A damaged store and, if there is one, its copy; what is done to it is noted in `outcomes`."""

    def __init__(self, files: Files, copy: Files | None, accept_loss: bool) -> None:
        self.files, self.copy, self.accept_loss = files, copy, accept_loss
        self.layout = Layout(files)
        self.outcomes: list[Outcome] = []

    def _bytes(self, name: str) -> bytes:
        """A file's content, empty if there is none."""
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

    def _put_if(self, name: str, content: bytes, check: mending.Check, how: str) -> bool:
        right = check(content)
        if right:
            self._put(name, content, how)
        return right

    def _put(self, name: str, content: bytes, how: str) -> None:
        self.files.write(name, content)
        self._say(name, "mended", how)

    def _remove(self, name: str, why: str) -> None:
        self.files.remove(name)
        self._say(name, "removed", why)

    def _give_up(self, name: str, what: str, samples: tuple[int, ...] = ()) -> None:
        """Refuses to lose something, or loses it."""
        if self.accept_loss:
            self._set_aside(name, "lost", what, samples)
        else:
            text = f"lost would be: {what}; {GIVE_COPY}, or --accept-loss sets the file aside"
            self._say(name, "refused", text, samples)

    def _set_aside(self, name: str, action: str, text: str, samples: tuple[int, ...] = ()) -> None:
        aside = f"{DAMAGED}/{name.replace('/', '--')}"
        self.files.write(aside, self._bytes(name))
        self.files.remove(name)
        self._say(name, action, f"{text}; its bytes are in {aside}", samples)

    def _say(self, file: str, action: str, text: str, samples: tuple[int, ...] = ()) -> None:
        self.outcomes.append(Outcome(file, action, text, samples))

    def _mend_sealed(self, name: str, content: bytes) -> bool:
        """A JSON object with its checksum inside."""
        found = self._copied(name)
        if found is not None and mending.holds_sealed(found) and self._fits_here(name, found):
            self._put(name, found, "taken from the copy")
            return True
        flipped = mending.sealed_with_one_bit_turned_back(content)
        if flipped is not None:
            self._put(name, flipped[0], f"one flipped bit turned back (byte {flipped[1]})")
        return flipped is not None

    def _fits_here(self, name: str, content: bytes) -> bool:
        """Whether a copy's file is of what is here, as far as it can be told."""
        return True


def ranges(samples: tuple[int, ...]) -> str:
    """Ascending numbers for people: '3, 5-9'; 'none'."""

    def runs() -> Iterator[str]:
        ids = np.array(samples)
        for run in np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1):
            yield str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"

    return ", ".join(runs()) if samples else "none"
