"""Opens the files of a place: a local folder, or s3://BUCKET/PREFIX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import UnusableNameError

if TYPE_CHECKING:
    from store.files.base import Files

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,62})(?:/([A-Za-z0-9_=+.-]+(?:/[A-Za-z0-9_=+.-]+)*))?/?")


def open_files(location: str | Path) -> Files:
    """Return the files at a local folder or at s3://BUCKET/PREFIX. Raises UnusableNameError for other URLs."""
    if is_url(location):
        from store.files.s3 import ObjectFiles  # only then: its client takes a while to import

        return ObjectFiles(*bucket_and_prefix(str(location)))
    from store.files.local import LocalFiles

    return LocalFiles(Path(location))


def is_url(location: str | Path) -> bool:
    return "://" in str(location)


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Return the bucket and the prefix of s3://BUCKET/PREFIX. Raises UnusableNameError."""
    found = _URL.fullmatch(url)
    prefix = (found[2] or "") if found else ""
    if not found or {".", ".."} & set(prefix.split("/")):
        raise UnusableNameError(
            f"{url}: expected a folder or s3://BUCKET/PREFIX, of letters, digits and _ = + . - between slashes"
        )
    return found[1], prefix
