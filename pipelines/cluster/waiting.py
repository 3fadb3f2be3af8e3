"""Work that waits for a place on a cluster: that is said, and it doesn't wait for ever."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipelines.errors import StageError
from pipelines.progress import say

Item = TypeVar("Item")

SILENT_S = 30.0  # without a result and without nodes for the work, until a line says so
BUSY_S = 120.0  # the same where there are nodes, which may as well be at this command's own work
NO_PLACE_S = 900.0  # without nodes for the work, until the command ends; a new machine may take minutes to come
_LOOK_S = 5.0


class Waiting:
    """One stretch of waiting, for `count` places at once. `asked`: what each needs, by Ray's names, as {"CPU": 1}.

    `begun`: by time.monotonic(), if not now.
    """

    def __init__(self, what: str, asked: Mapping[str, float], *, count: int = 1, begun: float | None = None) -> None:
        self._what, self._asked, self._count = what, asked, count
        self._begun = self._place_seen = time.monotonic() if begun is None else begun
        self._said = ""

    def _in_use(self) -> bool:
        import ray

        free = ray.available_resources()
        return any(free.get(name, 0) < self._count * amount for name, amount in self._asked.items())

    def look(self) -> None:
        """Says what the work waits for, when that is worth a line. StageError if no node has had a place for too long."""
        now = time.monotonic()
        wanted = f"{self._count} × {_amounts(self._asked)}" if self._count > 1 else _amounts(self._asked)
        if _places(self._asked) >= self._count:
            self._place_seen = now
            text = "all of it in use, by this command or by others" if self._in_use() else ""
            patience = BUSY_S
        else:
            if now - self._place_seen >= NO_PLACE_S:
                raise StageError(
                    f"{self._what}: waited {NO_PLACE_S / 60:g} minutes for {wanted}, and the cluster has {_there()}; "
                    "add nodes (`ray status` shows them), then run the same command again (train: with --resume)"
                )
            patience = SILENT_S
            text = f"goes on when nodes with that come, ends after {NO_PLACE_S / 60:g} minutes without"
        if text and text != self._said and now - self._begun >= patience:
            say(
                f"{self._what}: nothing done for {now - self._begun:.0f} s; it needs {wanted}, the cluster has {_there()}: "
                f"{text}"
            )
            self._said = text


def first_done(references: Sequence[Any], what: str, asked: Mapping[str, float]) -> Any:
    """The first of the references that is done, as `ray.wait` has it; meanwhile says what it waits for. StageError."""
    import ray

    waiting = Waiting(what, asked)
    while True:
        done, _ = ray.wait(list(references), num_returns=1, timeout=_LOOK_S, fetch_local=False)
        if done:
            return done[0]
        waiting.look()


def in_order(
    start: Callable[[Item], Any], items: Iterable[Item], at_once: int, what: str, asked: Mapping[str, float]
) -> Iterator[Any]:
    """The results of the Ray tasks that `start` makes of the items, in the items' order; at most `at_once` run or wait.

    Items are drawn as they are needed. StageError as `first_done`.
    """
    import ray

    left, begun, done = iter(items), deque[Any](), set[Any]()
    while True:
        # Results that wait for an earlier one are held back: no more of them than that again.
        room = min(at_once - len(begun) + len(done), 2 * at_once - len(begun))
        begun += [start(item) for _, item in zip(range(room), left)]
        if not begun:
            return
        if begun[0] in done:
            done.remove(begun[0])
            yield ray.get(begun.popleft())
        else:
            done.add(first_done([b for b in begun if b not in done], what, asked))


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places(asked: Mapping[str, float]) -> int:
    """How many there would be if nothing else was done on the nodes."""
    return sum(min(int(node.get(name, 0) // amount) for name, amount in asked.items()) for node in _nodes())


def _there() -> str:
    nodes = _nodes()
    amounts = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    return f"{_amounts(amounts)} on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"


def _amounts(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in amounts.items())
