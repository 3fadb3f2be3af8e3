"""The log of a store: entries that generations carry on, and those of its segments and tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from store.fits.format.generations import Generation
from store.fits.format.segments import RESET, SegmentInfo
from store.fits.format.tags import Tag

Entry = dict[str, Any]


def entry(operation: str, writer: str, time_ms: int, **more: Any) -> Entry:
    return {"time_ms": time_ms, "operation": operation, "writer": writer, **more}


def of_compaction(infos: Mapping[str, tuple[SegmentInfo, int]], writer: str, time_ms: int, generation: int) -> list[Entry]:
    """Return a generation's entries for the segments it absorbs: one for each reset, one for all others."""
    merged = [(info, records) for info, records in infos.values() if info.operation != RESET]
    resets = [of_segment(info, records) for info, records in infos.values() if info.operation == RESET]
    times = [info.time_ms for info, _ in merged]
    compaction = entry(
        "compact",
        writer,
        time_ms,
        generation=generation,
        segments=len(infos),
        records=sum(records for _, records in merged),
        writers=sorted({info.writer for info, _ in merged}),
        runs=sorted({name for info, _ in merged for name in info.runs.values()}),
        from_ms=min(times, default=0),
        to_ms=max(times, default=0),
    )
    return [*sorted(resets, key=_time), compaction]


def of_segment(info: SegmentInfo, records: int) -> Entry:
    more: Entry = {"where": info.where} if info.operation == RESET else {"runs": sorted(info.runs.values())}
    return entry(info.operation, info.writer, info.time_ms, records=records, **more)


def of_store(generation: Generation, infos: Mapping[str, tuple[SegmentInfo, int]], tags: Iterable[Tag]) -> list[Entry]:
    """Return all entries, oldest first."""
    entries = [dict(past) for past in generation.history]
    entries += [of_segment(info, records) for info, records in infos.values()]
    entries += [
        entry(
            "tag",
            tag.writer,
            tag.time_ms,
            tag=tag.name,
            generation=tag.generation,
            segments=len(tag.segments),
        )
        for tag in tags
    ]
    return sorted(entries, key=_time)


def _time(entry: Entry) -> int:
    return int(entry.get("time_ms", 0))
