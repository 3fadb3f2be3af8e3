"""Bytes that were written, found again: in another file that must hold the same, in a copy, or by turning one bit back.

Every file of a store has a checksum, its own or in an inventory, so whatever is found is known to be right.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator

from store.files.checksummed_json import is_sealed

MAX_FLIP_BYTES = 65_536
"""Of longer files other damage would too often look as if one bit had been flipped: 8 bits a byte in 2^32 checksums."""
MAX_SEALED_FLIP_BYTES = 32_768
"""Of JSON every bit is tried."""

Check = Callable[[bytes], bool]


def has_checksum(checksum: str, size: int | None = None) -> Check:
    """Whether bytes have this CRC-32 (hex), and length."""
    return lambda content: f"{zlib.crc32(content):08x}" == checksum and size in (None, len(content))


def holds_sealed(content: bytes) -> bool:
    """Whether bytes are a JSON object with the right checksum in it."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and is_sealed(found)


def one_bit_turned_back(content: bytes, checksum: str) -> tuple[bytes, int] | None:
    """The bytes that have this checksum and differ from `content` in one bit, and that bit's byte; None if there are none.

    What one bit does to a CRC depends only on its distance from the end, and differs for every bit of a file this short.
    """
    if len(content) > MAX_FLIP_BYTES:
        return None
    wanted = zlib.crc32(content) ^ int(checksum, 16)
    changes = [_TABLE[1 << bit] for bit in range(8)]
    for place in range(len(content) - 1, -1, -1):
        if wanted in changes:
            return _flipped(content, place, changes.index(wanted)), place
        changes = [_TABLE[change & 0xFF] ^ (change >> 8) for change in changes]
    return None


def sealed_with_one_bit_turned_back(content: bytes) -> tuple[bytes, int] | None:
    """As one_bit_turned_back, of JSON whose checksum is inside and may be what was damaged."""
    if len(content) > MAX_SEALED_FLIP_BYTES:
        return None
    for place in range(len(content)):
        for bit in range(8):
            flipped = _flipped(content, place, bit)
            if holds_sealed(flipped):
                return flipped, place
    return None


def line_with_one_bit_turned_back(content: bytes, check: Check) -> tuple[bytes, int] | None:
    """As one_bit_turned_back, of a few bytes that `check` knows."""
    found: Iterator[tuple[bytes, int]] = (
        (_flipped(content, place, bit), place) for place in range(len(content[:64])) for bit in range(8)
    )
    return next((pair for pair in found if check(pair[0])), None)


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytes([content[place] ^ (1 << bit)])
    return content[:place] + changed + content[place + 1 :]


_TABLE = [zlib.crc32(bytes([value]), 0xFFFFFFFF) ^ 0xFFFFFFFF for value in range(256)]
