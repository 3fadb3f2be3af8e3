"""The command that runs another one on a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.cluster.jobs import follow, job_client, last_line
from pipelines.errors import StageError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient  # ray is imported once its environment is set


# What follows COMMAND is the command's own.
@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--address", help="The cluster's job server.  [default: http://127.0.0.1:8265]")
@click.option("--folder", help="Where the command runs, on the cluster.  [default: the folder you are in]")
@click.option("--no-wait", is_flag=True, help="Print the job's name and leave it running.")
@click.option("--status", metavar="JOB", help="Print the state of a job.")
@click.option("--logs", metavar="JOB", help="Follow a job's log until it ends.")
@click.option("--stop", metavar="JOB", help="Stop a job.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
def submit(
    address: str | None, folder: str | None, no_wait: bool, status: str | None, logs: str | None, stop: str | None,
    command: tuple[str, ...],
) -> None:  # fmt: skip
    """Run a spin-pipe COMMAND as a job on a running Ray cluster, and follow its log.

    The exit code is the command's. Ctrl-C leaves the job running. Data must be where every node sees them: docs/cluster.md.

    \b
    Examples:
      spin-pipe submit --folder /shared fit-static world
      spin-pipe submit --folder /shared --no-wait train world --run first --workers 4
      spin-pipe submit --logs raysubmit_Kq9W2eV7
    """
    if sum(map(bool, (status, logs, stop, command))) != 1:
        raise UsageError("submit: expected a COMMAND, or one of --status, --logs, --stop with a job's name")
    words = _words(command) if command else []
    client = job_client(address)
    try:
        if status:
            info = client.get_job_info(status)
            code = "" if info.driver_exit_code is None else f", exit code {info.driver_exit_code}"
            click.echo(f"{status}: {info.status.value.lower()}{code}")
        elif stop:
            stopping = client.stop_job(stop)
            click.echo(f"{stop}: stopping" if stopping else f"{stop}: had ended already")
        elif logs:
            _follow(client, logs)
        else:
            place = shlex.quote(folder or str(Path.cwd()))
            job = client.submit_job(entrypoint=f"cd {place} && exec {shlex.join(['spin-pipe', *words])}")
            click.echo(job if no_wait else f"job {job}", err=not no_wait)
            if not no_wait:
                _follow(client, job)
    except (RuntimeError, OSError) as error:
        # The client raises these with the server's message, or when the server is gone.
        raise StageError(f"the job server says: {last_line(error)}") from error


def _words(command: tuple[str, ...]) -> list[str]:
    """Return the words of a known command, with the option to use the cluster that it runs on."""
    cli = click.get_current_context().find_root().command
    assert isinstance(cli, click.Group)
    words = list(command[1:] if command[0] == "spin-pipe" else command)
    found = cli.commands.get(words[0]) if words else None
    if found is None or found is submit:
        raise UsageError(f"submit {' '.join(words)}: expected a command of spin-pipe, as `submit fit-static world`")
    below = found.commands.get(words[1]) if isinstance(found, click.Group) and len(words) > 1 else found
    takes = below is not None and any("--address" in p.opts for p in below.params)
    if takes and not any(word.partition("=")[0] == "--address" for word in words):
        words += ["--address", "auto"]
    return words


def _follow(client: JobSubmissionClient, job: str) -> None:
    try:
        code = follow(client, job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\njob {job} keeps running; --logs {job} follows it, --stop {job} ends it", err=True)
        code = 130
    raise SystemExit(code)
