"""What a cluster of several machines needs and one machine doesn't: files that all of them see, and jobs from afar."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import StageError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOB_SERVER = "http://127.0.0.1:8265"
_LAST_LINES = 5
_ANSWER_S = 60.0  # for a node to say what it sees
_ENDED_S = 10.0  # from the end of a job's log to its exit code
_TOKEN = "the cluster's token goes in RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"


def beside_driver() -> Any:
    """Where the store's actor is to run: on the driver's node, or elsewhere if that one is lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def require_seen(*paths: Path) -> None:
    """StageError that names the nodes of the cluster which don't see these files and folders as this process does.

    A folder counts as seen if it begins with the same entry: an empty mount point is not the file system that belongs there.
    """
    import ray
    from ray.exceptions import NodeDiedError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask: Any = ray.remote(num_cpus=0, max_retries=0)(lambda wanted: [_looks(path) for path in wanted])
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
    here = [_looks(path) for path in absolute]
    answers = {}
    for answer in answered:
        with contextlib.suppress(
            TaskUnschedulableError, NodeDiedError
        ):  # lost meanwhile: it needs to see nothing
            answers[answer] = ray.get(answer)
    for place, path in enumerate(absolute):
        blind = [
            asked[a] for a, found in answers.items() if here[place] is None or found[place] != here[place]
        ]
        if blind:
            raise StageError(
                f"{path}: not seen from node {_names(blind)}, or not the same there; mount the same file system under the "
                "same path on every node, or end that node"
            )


def _looks(path: str) -> tuple[str, int] | None:
    """What is comparable between machines: a file's size, a folder's first entry; None if nothing is there."""
    try:
        return (min(os.listdir(path), default=""), -1) if os.path.isdir(path) else ("", os.stat(path).st_size)
    except OSError:
        return None


def _names(addresses: Any) -> str:
    return ", ".join(sorted(set(addresses)))


def job_client(address: str | None) -> JobSubmissionClient:
    """The job server of a running cluster. StageError if none answers."""
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or JOB_SERVER
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"--address {address}: expected the job server's, as {JOB_SERVER}")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    os.environ["RAY_API_SERVER_ADDRESS"] = address  # which the client believes more than its argument
    try:
        client = JobSubmissionClient(address)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
        return client
    except AuthenticationError as error:
        raise StageError(f"the job server at {address} wants a token, or another one; {_TOKEN}") from error
    except (ConnectionError, RuntimeError) as error:
        raise StageError(
            f"no Ray job server answers at {address} ({last_line(error)}); is the cluster up, with ray[default], and the "
            "tunnel to it open (`ray dashboard cluster.yaml`)?"
        ) from error


def last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> int:
    """Writes the job's log as it grows; its exit code when it has ended. StageError if Ray ended it."""

    from aiohttp import ClientError

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            write(text)

    client.get_job_info(job)  # says so if there is no such job
    with contextlib.suppress(ClientError, RuntimeError):  # broken off, as the job's state shows below
        asyncio.run(tail())
    end = time.monotonic() + _ENDED_S
    info = client.get_job_info(job)
    while not info.status.is_terminal() and time.monotonic() < end:
        time.sleep(0.5)
        info = client.get_job_info(job)
    if not info.status.is_terminal():
        raise StageError(
            f"job {job}: the connection to its log broke off; it goes on, --logs {job} follows it"
        )
    if info.driver_exit_code is not None:
        # Ended by a signal: as a shell has it.
        return info.driver_exit_code if info.driver_exit_code >= 0 else 128 - info.driver_exit_code
    if info.status == "SUCCEEDED":
        return 0
    lines = (info.message or "").strip().splitlines()[-_LAST_LINES:]
    raise StageError(f"job {job}: {str(info.status).lower()}; {' / '.join(lines) or 'Ray says no more'}")
