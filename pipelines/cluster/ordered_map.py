"""A function over many pieces of work, by all cores or a cluster, with the results in the pieces' order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from time import monotonic as _now
from typing import Any, TypeVar

from pipelines.cluster.nodes import require_seen
from pipelines.cluster.session import cpu_count, ray_session
from pipelines.cluster.waiting import in_order

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# About what a local Ray and its workers need to start: work that takes no longer is done by then.
_ALONE_S = 8.0
_AHEAD = 3  # pieces handed out per worker: enough that none waits, few enough that memory stays flat


def ordered_map(
    function: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    *,
    workers: int | None = None,
    address: str | None = None,
    seen: Sequence[Path] = (),
) -> Iterator[Result]:
    """`function` of each piece, in order; pieces are drawn as they are needed, so a generator of them streams.

    One piece, or one worker, runs in this process; more run as Ray tasks, which start a piece again if its process dies. If
    neither `workers` nor `address` is asked for, this process begins, and Ray gets what is left after `_ALONE_S`.
    `seen`: what every node of a cluster must see. StageError that names the nodes which don't.
    """
    remaining = iter(pieces)
    if workers is None and address is None:
        begin = _now()
        while _now() - begin < _ALONE_S:
            alone = list(_take(remaining, 1))
            if not alone:
                return
            yield function(alone[0])
    first = list(_take(remaining, 2))
    asked, workers = workers, workers or cpu_count()
    if len(first) < 2 or (workers == 1 and address is None):
        yield from map(function, chain(first, remaining))
        return
    with ray_session(address, cpus=None if address else workers):
        import ray

        if address is not None:
            require_seen(*seen)
            workers = asked or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task: Any = ray.remote(num_cpus=1, max_retries=2)(lambda piece: function(piece))
        yield from in_order(task.remote, chain(first, remaining), _AHEAD * workers, "the work", {"CPU": 1})


def _take(items: Iterator[Piece], count: int) -> Iterator[Piece]:
    for _, item in zip(range(count), items):
        yield item
