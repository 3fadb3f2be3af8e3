"""The command that makes the report."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines import journal
from pipelines.commands.common import (
    DATA,
    DATASET_OPTION,
    DATASETS,
    FITS,
    LOG_DIR,
    Option,
    chosen_datasets,
    data_folder,
)
from pipelines.errors import UsageError
from pipelines.folders import RunFolder, which_body
from pipelines.progress import progress, say
from pipelines.report import build_report


@click.command()
@DATASETS
@DATASET_OPTION
@click.option("--run", "name", cls=Option, also=("--name",), help="The run to show; without it, the fits alone.")
@DATA
@FITS
@LOG_DIR
@click.option("--compare", "other_name", help="Another run, to show next to it.")
@click.option("--before", default="static", show_default=True, help="Tag of the fits to compare with.")
@click.option(
    "--samples", type=click.IntRange(1), default=12, show_default=True,
    help="People pictured of each kind: best, random, worst, most improved, of each reason.",
)  # fmt: skip
@click.option(
    "--rows", type=click.IntRange(1), default=20_000, show_default=True,
    help="The largest number of samples listed; a page of 10,000 has some 10 MB.",
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Page to write (default: in the run's folder).",
)
def report(
    name: str | None, datasets: tuple[str, ...], data: Path, log_dir: Path, other_name: str | None, before: str,
    samples: int, rows: int, out: Path | None,
) -> None:  # fmt: skip
    """Make one HTML page: fits to filter, sort and look at, before and after training; curves, numbers, timings.

    DATASET: what to show. Default: the run's data sets, or the only one.

    \b
    Examples:
      spin-pipe report --run first
      spin-pipe report --run second --compare first
    """
    folder = data_folder(data)
    run = None if name is None else RunFolder.of(log_dir, name)
    if run is not None and not run.config.is_file():
        raise UsageError(f"there is no run {run.root}; `spin-pipe train --run {name}` makes one")
    if other_name is not None and run is None:
        raise UsageError("--compare: give --run, the run to compare with it")
    other = None if other_name is None else RunFolder.of(log_dir, other_name)
    if other is not None and not other.config.is_file():
        raise UsageError(f"--compare: there is no run {other.root}")
    chosen = chosen_datasets(folder, datasets) if datasets or run is None else None
    output = out or (folder.root / "report.html" if run is None else run.root / "report.html")
    say(which_body(folder))
    with journal.recorded(folder.journal, "report", name=name), progress(0, "report", "picture") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        done = build_report(
            folder, run, datasets=chosen, output=output, samples=samples, rows=rows, before=before, other=other,
            progress=update,
        )  # fmt: skip
    say(f"{output}: open it in a browser ({done.size_bytes / 1e6:.1f} MB)")
