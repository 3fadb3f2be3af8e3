"""Commands that make and write data: synth, export-fits."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import DATA, WORKERS, chosen_datasets, data_folder
from pipelines.failures import UsageError
from pipelines.layouts import LAYOUTS


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write."
)
@click.option("--people", type=click.IntRange(1), default=300, show_default=True, help="People to train on.")
@click.option(
    "--test-people", type=click.IntRange(1), default=60, show_default=True, help="People to measure on."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--truth-share", type=click.FloatRange(0, 1), default=0.0, show_default=True,
    help="Share of the training people whose true body is given, as Human3.6M's is.",
)  # fmt: skip
@click.option(
    "--layout", type=click.Choice(list(LAYOUTS)),
    help="Write the raw tree of a published data set instead, in its file formats, to try its reader on.",
)  # fmt: skip
@WORKERS
def synth(
    out: Path, people: int, test_people: int, seed: int, truth_share: float, layout: str | None,
    workers: int | None,
) -> None:  # fmt: skip
    """Make the embedded world: ray-cast people with known bodies, as a COCO data set.

    \b
    Examples:
      spin-pipe synth --out raw/world --people 300 --test-people 60
      spin-pipe synth --out raw/3dpw --people 20 --layout 3dpw
    """
    from pipelines.progress import progress, say
    from pipelines.ray_session import cpu_count
    from pipelines.synth import synthesize
    from pipelines.synth_layout import synthesize_layout

    if layout is not None:
        made = synthesize_layout(out, layout, people=people, seed=seed)
        say(f"{out}: a raw tree in the layout of {layout}{'' if made else ' (made earlier)'}")
        return
    with progress(0, "synth", "img") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = synthesize(
            out, people=people, test_people=test_people, seed=seed, truth_share=truth_share,
            processes=workers or cpu_count(), progress=update,
        )  # fmt: skip
    train, test = summary.train_people, summary.test_people
    say(
        f"{out}: {train} people to train on, {test} to measure on{' (made earlier)' if summary.reused else ''}"
    )
    say(f"  next: spin-pipe preprocess coco --root {out} --name NAME")


@click.command("export-fits")
@click.argument("datasets", nargs=-1, metavar="[DATASET]...")
@DATA
@click.option("--tag", help="A tagged state instead of the newest, for example 'static'.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write, for one data set."
)
def export_fits(datasets: tuple[str, ...], data: Path, tag: str | None, out: Path | None) -> None:
    """Final fits as .npz: pose (N, 72), betas (N, 10), valid_fit (N), in sample order.

    \b
    Example:
      spin-pipe export-fits world
    """
    from pipelines import journal
    from pipelines.export import export_fits as run
    from pipelines.progress import say

    folder = data_folder(data)
    names = chosen_datasets(folder, datasets)
    if out is not None and len(names) > 1:
        raise UsageError("--out names one file; give one DATASET with it")
    for name in names:
        with journal.recorded(folder.journal, "export-fits", dataset=name, tag=tag) as entry:
            done = run(folder, name, out or folder.exported(name), tag=tag)
            entry |= {"valid": done.valid, "samples": done.samples}
        say(f"{done.path}: {done.samples} samples, {done.valid} valid, {done.without_fit} without a fit")
