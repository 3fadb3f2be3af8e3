"""Tags: names for states. What a tag needs is never removed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from store.durable import write_file
from store.errors import FormatVersionError, TagNotFoundError, UnusableNameError
from store.layout import Layout, is_segment_name
from store.seal import read_sealed, to_bytes

FORMAT = "spin-pipe-fits-tag"
VERSION = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Tag:
    """A state: a generation, and the segments ('FOLDER/FILE', sorted) merged into it."""

    name: str
    generation: int
    segments: tuple[str, ...]


def check_tag_name(name: str) -> str:
    """Raises UnusableNameError."""
    if not _NAME.fullmatch(name):
        raise UnusableNameError(
            f"tag {name!r}: use letters, digits, dots, dashes and underscores, a letter or digit first, "
            "at most 128"
        )
    return name


def write_tag(layout: Layout, tag: Tag) -> None:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "generation": tag.generation,
        "segments": list(tag.segments),
    }
    path = layout.tags / f"{check_tag_name(tag.name)}.json"
    write_file(path, to_bytes(content))


def read_tag(layout: Layout, name: str) -> Tag:
    """Raises TagNotFoundError, or FormatVersionError if the file is not a tag."""
    path = layout.tags / f"{check_tag_name(name)}.json"
    try:
        content = read_sealed(path, format_name=FORMAT, version=VERSION)
    except FileNotFoundError as error:
        known = ", ".join(tag_names(layout)) or "none"
        raise TagNotFoundError(f"{layout.root} has no tag {name!r}; its tags: {known}") from error
    generation, segments = content.get("generation"), content.get("segments")
    if not isinstance(generation, int) or not isinstance(segments, list):
        raise FormatVersionError(
            f"{path}: a tag must have a generation and segments, found {sorted(content)}"
        )
    if any(not is_segment_name(segment) for segment in segments):
        raise FormatVersionError(
            f"{path}: the tag names something that is no segment; restore it from a backup"
        )
    return Tag(name, generation, tuple(segments))


def tag_names(layout: Layout) -> list[str]:
    """All tags' names, sorted."""
    return sorted(path.stem for path in layout.tags.glob("*.json") if _NAME.fullmatch(path.stem))
