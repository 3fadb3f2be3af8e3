"""The nodes of a cluster: where the store's actor runs, and whether every node sees the same files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from pipelines.errors import StageError

_ANSWER_S = 60.0  # for a node to report what it sees


def on_driver_node() -> Any:
    """Return where the store's actor runs: on the driver's node, or on another one if that is lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def require_seen(*paths: Path) -> None:
    """Raise StageError if a node of the cluster does not see these files and folders as this process does; the error names it.

    A folder counts as seen if its first entry is the same: an empty mount point is not the file system that belongs there.
    """
    import ray
    from ray.exceptions import NodeDiedError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask: Any = ray.remote(num_cpus=0, max_retries=0)(lambda wanted: [_fingerprint(path) for path in wanted])
    absolute = [str(path.absolute()) for path in paths]
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            name="require_seen",
        ).remote(absolute): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"]
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    if silent:
        raise StageError(
            f"node {_names(asked[a] for a in silent)}: no answer within {_ANSWER_S:.0f} s; `ray status` shows its state"
        )
    here = [_fingerprint(path) for path in absolute]
    answers = {}
    for answer in answered:
        with contextlib.suppress(TaskUnschedulableError, NodeDiedError):  # lost meanwhile: it runs nothing
            answers[answer] = ray.get(answer)
    for i, path in enumerate(absolute):
        unseen = [asked[a] for a, found in answers.items() if here[i] is None or found[i] != here[i]]
        if unseen:
            raise StageError(
                f"{path}: not seen from node {_names(unseen)}, or not the same there; mount the same file system under the "
                "same path on every node, or stop that node"
            )


def _fingerprint(path: str) -> tuple[str, int] | None:
    """Return what can be compared between machines: a file's size, a folder's first entry; None if there is nothing."""
    try:
        return (min(os.listdir(path), default=""), -1) if os.path.isdir(path) else ("", os.stat(path).st_size)
    except OSError:
        return None


def _names(addresses: Any) -> str:
    return ", ".join(sorted(set(addresses)))
