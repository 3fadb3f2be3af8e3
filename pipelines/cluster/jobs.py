"""Jobs on a cluster: the client of its job server, and a job's log followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.errors import StageError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOB_SERVER = "http://127.0.0.1:8265"
_LAST_LINES = 5
_ENDED_S = 10.0  # from the end of a job's log to its exit code
_TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file of the cluster's token"


def job_client(address: str | None) -> JobSubmissionClient:
    """Return a client of the job server of a running cluster. Raise StageError if none answers."""
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or JOB_SERVER
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"--address {address}: expected the job server's address, as {JOB_SERVER}")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    os.environ["RAY_API_SERVER_ADDRESS"] = address  # the client prefers it to its argument
    try:
        client = JobSubmissionClient(address)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
        return client
    except AuthenticationError as error:
        raise StageError(f"the job server at {address} does not accept the token, or got none; {_TOKEN}") from error
    except (ConnectionError, RuntimeError) as error:
        raise StageError(
            f"no Ray job server answers at {address} ({last_line(error)}); check that the cluster is running, with "
            "ray[default], and that the tunnel to it is open (`ray dashboard cluster.yaml`)"
        ) from error


def last_line(error: Exception) -> str:
    """Return the last line of an error's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> int:
    """Write the job's log as it grows, and return its exit code when it has ended. Raise StageError if Ray ended it."""
    from aiohttp import ClientError

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            write(text)

    client.get_job_info(job)  # raises if there is no such job
    with contextlib.suppress(ClientError, RuntimeError):  # interrupted, as the job's state shows below
        asyncio.run(tail())
    end = time.monotonic() + _ENDED_S
    info = client.get_job_info(job)
    while not info.status.is_terminal() and time.monotonic() < end:
        time.sleep(0.5)
        info = client.get_job_info(job)
    if not info.status.is_terminal():
        raise StageError(f"job {job}: the connection to its log was lost; the job continues, --logs {job} follows it")
    if info.driver_exit_code is not None:
        # Ended by a signal: as a shell reports it.
        return info.driver_exit_code if info.driver_exit_code >= 0 else 128 - info.driver_exit_code
    if info.status == "SUCCEEDED":
        return 0
    lines = (info.message or "").strip().splitlines()[-_LAST_LINES:]
    raise StageError(f"job {job}: {str(info.status).lower()}; {' / '.join(lines) or 'Ray reports no more'}")
