"""The command that says how good fits are: quality."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import DATA, FITS, chosen_datasets, data_folder
from pipelines.errors import UsageError


@click.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET]...")
@DATA
@FITS
@click.option("--tag", help="A tagged state instead of the newest, for example 'static'.")
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Table to write, a row for each sample of one data set.",
)
def quality(datasets: tuple[str, ...], data: Path, tag: str | None, csv_file: Path | None) -> None:
    """How good the fits are: verdicts and their reasons, losses, scores, coverage, and which starts won.

    \b
    Example:
      spin-pipe quality world --csv world.csv
    """
    from pipelines.inspection.quality import as_text, measure_quality, write_csv
    from pipelines.progress import say

    folder = data_folder(data)
    names = chosen_datasets(folder, datasets)
    if csv_file is not None and len(names) > 1:
        raise UsageError("--csv names one file; give one DATASET with it")
    for name in names:
        measured = measure_quality(folder, name, tag=tag)
        click.echo(as_text(measured))
        if csv_file is not None:
            write_csv(measured, csv_file)
            say(f"{csv_file}: {len(measured.annotations)} samples")
