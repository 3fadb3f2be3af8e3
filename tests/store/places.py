"""Where the tests of the fit store put their stores."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from store.files.open import is_url, open_files


@dataclass(frozen=True)
class Place:
    """Where stores are made: a folder, or an object store."""

    top: str

    def location(self, name: str) -> str:
        return f"{self.top}/{name}"

    def put(self, location: str, name: str, content: bytes) -> None:
        """A file that somebody else left there."""
        if not is_url(location):
            Path(location).mkdir(parents=True, exist_ok=True)
        open_files(location).write(name, content)

    def names(self, location: str, pattern: str) -> list[str]:
        """What matches the pattern, at its depth, whether it is a file or what files lie in."""
        depth = pattern.count("/") + 1
        names = {"/".join(name.split("/")[:depth]) for name in open_files(location).descendants("")}
        return sorted(name for name in names if fnmatch(name, pattern) and not name.endswith(".claim"))
