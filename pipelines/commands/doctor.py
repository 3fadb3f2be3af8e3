"""The command that checks the machine; it imports nothing that may be broken."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from pipelines.inspection.doctor import examine


@click.command()
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("data"), show_default=True,
    envvar="SPIN_PIPE_DATA", help="The data folder, whose disk and body are checked.",
)  # fmt: skip
@click.option("--no-ray", is_flag=True, help="Do not start Ray.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(data: Path, no_ray: bool, as_json: bool) -> None:
    """Check this machine and installation; say what to do where something falls short.

    The exit code is 1 if something essential is missing.

    \b
    Example:
      spin-pipe doctor --no-ray
    """
    checks = examine(data, ray=not no_ray)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            state = "ok         " if check.ok else "falls short"
            remedy = "" if check.ok else f"; remedy: {check.remedy}"
            click.echo(f"{state}  {check.name}: {check.found}{remedy}")
    if any(check.essential and not check.ok for check in checks):
        raise SystemExit(1)
