"""Work that waits for a place on a cluster: that is said, and it doesn't wait for ever."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.failures import StageError
from pipelines.progress import say

SILENT_S = 30.0  # without a result, until a line says why
NO_PLACE_S = (
    900.0  # without nodes for the work, until the command ends; a new machine may take minutes to come
)
_LOOK_S = 5.0


class Waiting:
    """One stretch of waiting, for `count` places at once. `asked`: what each needs, by Ray's names, as {"CPU": 1}.

    `begun`: by time.monotonic(), if not now.
    """

    def __init__(
        self, what: str, asked: Mapping[str, float], *, count: int = 1, begun: float | None = None
    ) -> None:
        self._what, self._asked, self._count = what, asked, count
        self._begun = self._place_seen = time.monotonic() if begun is None else begun
        self._said = ""

    def look(self) -> None:
        """Says what the work waits for, when that is worth a line. StageError if no node has had a place for too long."""
        now = time.monotonic()
        wanted = f"{self._count} × {_amounts(self._asked)}" if self._count > 1 else _amounts(self._asked)
        if _places(self._asked) >= self._count:
            self._place_seen = now
            text = "all of it in use, by this command or by others" if _in_use(self._asked) else ""
        else:
            if now - self._place_seen >= NO_PLACE_S:
                raise StageError(
                    f"{self._what}: waited {NO_PLACE_S / 60:g} minutes for {wanted}, and the cluster has {_there()}; "
                    "add nodes (`ray status` shows them), then run the same command again (train: with --resume)"
                )
            text = f"goes on when nodes with that come, ends after {NO_PLACE_S / 60:g} minutes without"
        if text and text != self._said and now - self._begun >= SILENT_S:
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


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places(asked: Mapping[str, float]) -> int:
    """How many there would be if nothing else was done on the nodes."""
    return sum(min(int(node.get(name, 0) // amount) for name, amount in asked.items()) for node in _nodes())


def _in_use(asked: Mapping[str, float]) -> bool:
    import ray

    free = ray.available_resources()
    return any(free.get(name, 0) < amount for name, amount in asked.items())


def _there() -> str:
    nodes = _nodes()
    amounts = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    return f"{_amounts(amounts)} on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"


def _amounts(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in amounts.items())
