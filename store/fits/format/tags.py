"""Tags: names for states. What a tag needs is never removed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from store.errors import FormatVersionError, TagNotFoundError, UnusableNameError
from store.files.atomic import TEMPORARY
from store.files.base import unique
from store.files.checksummed_json import read_sealed, to_bytes
from store.fits.format.layout import TAGS, Layout, is_segment_name

FORMAT = "spin-pipe-fits-tag"
VERSION = 1

_PIN = f"{TEMPORARY}pin-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Tag:
    """A state: a generation, and the segments ('FOLDER/FILE', sorted) merged into it.

    time_ms: when it was named, since 1970 UTC, and writer: by whom; 0 and '' if that is not known.
    """

    name: str
    generation: int
    segments: tuple[str, ...]
    time_ms: int = field(default=0, compare=False)
    writer: str = field(default="", compare=False)


def check_tag_name(name: str) -> str:
    """Return the name. Raises UnusableNameError."""
    if not _NAME.fullmatch(name):
        raise UnusableNameError(
            f"tag {name!r}: use letters, digits, dots, dashes and underscores, a letter or digit first, at most 128"
        )
    return name


def tag_file(name: str) -> str:
    return f"{TAGS}/{check_tag_name(name)}.json"


def write_tag(layout: Layout, tag: Tag) -> bool:
    """Write a tag, and return whether it did: False if there is another tag of that name."""
    return layout.files.create(tag_file(tag.name), _to_bytes(tag))


@contextmanager
def pinned(layout: Layout, tag: Tag) -> Iterator[Callable[[], bool]]:
    """Keep what a tag is going to need. Yield a function that returns whether it is still kept.

    A pin is removed after some time, whether its writer has died or is only very slow.
    """
    name = f"{TAGS}/{_PIN}{unique()}.json"
    layout.files.write(name, _to_bytes(tag))
    try:
        yield lambda: layout.files.exists(name)
    finally:
        layout.files.remove(name)


def all_tags(layout: Layout) -> list[Tag]:
    """Return all tags and pins. Raises FormatVersionError."""
    files = [tag_file(name) for name in tag_names(layout)]
    files += [name for name in layout.files.temporaries(TAGS) if name.startswith(f"{TAGS}/{_PIN}")]

    def read(file: str) -> Tag | None:
        try:
            return read_tag_file(layout, file)
        except FileNotFoundError:
            return None  # removed since

    with ThreadPoolExecutor(layout.files.concurrency) as pool:
        return [tag for tag in pool.map(read, files) if tag is not None]


def read_tag(layout: Layout, name: str) -> Tag:
    """Return a tag. Raises TagNotFoundError, or FormatVersionError if the file is not a tag."""
    try:
        return read_tag_file(layout, tag_file(name))
    except FileNotFoundError as error:
        known = ", ".join(tag_names(layout)) or "none"
        raise TagNotFoundError(f"{layout.location} has no tag {name!r}; its tags: {known}") from error


def _to_bytes(tag: Tag) -> bytes:
    return to_bytes(
        {
            "format": FORMAT,
            "version": VERSION,
            "generation": tag.generation,
            "segments": list(tag.segments),
            "time_ms": tag.time_ms,
            "writer": tag.writer,
        }
    )


def read_tag_file(layout: Layout, file: str) -> Tag:
    """Return a tag by its file's name. Raises FileNotFoundError, FormatVersionError."""
    where = layout.files.where(file)
    content = read_sealed(layout.files, file, format_name=FORMAT, version=VERSION)
    generation, segments = content.get("generation"), content.get("segments")
    if not isinstance(generation, int) or not isinstance(segments, list):
        raise FormatVersionError(f"{where}: a tag must have a generation and segments, found {sorted(content)}")
    if any(not is_segment_name(segment) for segment in segments):
        raise FormatVersionError(f"{where}: expected names of segments, found another name; restore the file from a copy")
    made, writer = content.get("time_ms", 0), content.get("writer", "")
    name = file.rpartition("/")[2].removesuffix(".json")
    return Tag(name, generation, tuple(segments), int(made), str(writer))


def tag_names(layout: Layout) -> list[str]:
    """Return all tags' names, sorted."""
    stems = [name.removesuffix(".json") for name in layout.files.children(TAGS) if name.endswith(".json")]
    return sorted(stem for stem in stems if _NAME.fullmatch(stem))
