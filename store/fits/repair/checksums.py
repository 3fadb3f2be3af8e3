"""Checks of bytes against the checksum that was written down for them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable

from store.files.checksummed_json import is_sealed

Check = Callable[[bytes], bool]


def has_checksum(checksum: str, size: int | None = None) -> Check:
    """Return a check whether bytes have this CRC-32 (hex), and length."""
    return lambda content: f"{zlib.crc32(content):08x}" == checksum and size in (None, len(content))


def holds_sealed(content: bytes) -> bool:
    """Return whether bytes are a JSON object with the right checksum in it."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and is_sealed(found)
