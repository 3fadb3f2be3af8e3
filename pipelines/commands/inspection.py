"""The commands that show what there is, and how good its fits are: info and quality."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import DATA, DATASETS, FITS, LOG_DIR, chosen_datasets, data_folder
from pipelines.errors import UsageError
from pipelines.folders import which_body
from pipelines.inspection import info as contents
from pipelines.inspection.quality import as_text, measure_quality, write_csv
from pipelines.progress import say


@click.command()
@click.argument("dataset", required=False)
@DATA
@FITS
@LOG_DIR
@click.option("--sample", type=int, metavar="K", help="Show one sample of the data set: its numbers, and its picture.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture to write [default: DATASET-K.png].",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(dataset: str | None, data: Path, log_dir: Path, sample: int | None, out: Path | None, as_json: bool) -> None:
    """Show what there is: data sets and their fits, runs, the body in use; or one data set or sample in detail.

    \b
    Examples:
      spin-pipe info
      spin-pipe info world
      spin-pipe info world --sample 12 --out sample.png
    """
    folder = data_folder(data)
    if sample is not None and dataset is None:
        raise UsageError(f"--sample {sample}: name its data set: spin-pipe info DATASET --sample {sample}")
    if out is not None and (sample is None or out.suffix.lower() != ".png"):
        raise UsageError(f"--out {out}: the picture of a --sample, with a name that ends in .png")
    if dataset is not None:
        say(which_body(folder))
    if dataset is None:
        content, text = contents.overview(folder, log_dir), contents.overview_text
    else:
        chosen_datasets(folder, (dataset,))
        if sample is None:
            content, text = contents.details(folder, dataset), contents.details_text
        else:
            content, text = contents.sample_info(folder, dataset, sample), contents.sample_text
    click.echo(contents.as_json(content) if as_json else text(content))
    if dataset is not None and sample is not None:
        picture = out or Path(f"{dataset}-{sample}.png")
        contents.write_picture(folder, dataset, sample, picture)
        say(f"{picture}: the sample's picture")


@click.command()
@DATASETS
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
    """Show how good the fits are: verdicts and their reasons, losses, scores, coverage, and which starts won.

    \b
    Example:
      spin-pipe quality world --csv world.csv
    """
    folder = data_folder(data)
    names = chosen_datasets(folder, datasets)
    if csv_file is not None and len(names) > 1:
        raise UsageError("--csv names one file; give one DATASET with it")
    say(which_body(folder))
    for name in names:
        measured = measure_quality(folder, name, tag=tag)
        click.echo(as_text(measured))
        if csv_file is not None:
            write_csv(measured, csv_file)
            say(f"{csv_file}: {len(measured.annotations)} samples")
