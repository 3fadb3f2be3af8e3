"""A checksum inside a JSON object, so that a flipped bit can't turn one valid statement into another."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from store.errors import FormatVersionError

if TYPE_CHECKING:
    from store.files.base import Files

KEY = "crc32_of_rest"


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the object with the CRC-32 of its canonical JSON (sorted keys, no spaces, ASCII) added."""
    return {**content, KEY: _checksum(content)}


def is_sealed(content: dict[str, Any]) -> bool:
    """Return whether the object is unchanged since it was sealed."""
    rest = {key: value for key, value in content.items() if key != KEY}
    return content.get(KEY) == _checksum(rest)


def to_bytes(content: dict[str, Any]) -> bytes:
    """Return a sealed object as the content of a file."""
    return (json.dumps(sealed(content), indent=1) + "\n").encode()


def read_sealed(files: Files, name: str, *, format_name: str, version: int) -> dict[str, Any]:
    """Return a sealed object of this format and version. Raises FormatVersionError, naming the file; FileNotFoundError."""
    where = files.where(name)
    try:
        content = json.loads(files.read(name))
    except ValueError as error:
        raise FormatVersionError(f"{where}: damaged, or not JSON ({error}); restore it from a copy") from error
    if not isinstance(content, dict):
        raise FormatVersionError(f"{where}: expected a JSON object, found {type(content).__name__}")
    found = (content.get("format"), content.get("version"))
    if found != (format_name, version):
        raise FormatVersionError(f"{where}: expected {format_name} version {version}, found {found[0]} version {found[1]}")
    if not is_sealed(content):
        raise FormatVersionError(f"{where}: damaged: its checksum does not match; restore it from a copy")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True, separators=(',', ':')).encode()):08x}"
