"""Commands that make, read and write data: synth, preprocess, export-fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.commands.common import DATA, WORKERS, Group, chosen_datasets, data_folder
from pipelines.failures import UsageError


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
@WORKERS
def synth(
    out: Path, people: int, test_people: int, seed: int, truth_share: float, workers: int | None
) -> None:
    """Make the embedded world: ray-cast people with known bodies, as a COCO data set.

    \b
    Example:
      spin-pipe synth --out raw/world --people 300 --test-people 60
    """
    from pipelines.progress import progress, say
    from pipelines.ray_session import cpu_count
    from pipelines.synth import synthesize

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


@click.group(cls=Group)
def preprocess() -> None:
    """Read a raw data set into data/annotations/NAME.parquet."""


def _add_reader(reader: str, module: Any) -> None:
    about = f"{module.ABOUT}.\n\n\b\nExpects:\n" + "\n".join(f"  {line}" for line in module.TREE.splitlines())
    example = f"\n\n\b\nExample:\n  spin-pipe preprocess {reader} --root DIR --name mine"

    @preprocess.command(reader, help=about + example, short_help=module.ABOUT)
    @DATA
    @click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="The raw data set's folder.",
    )
    @click.option("--name", default=reader, show_default=True, help="What to call it from now on.")
    @click.option("--split", type=click.Choice(module.SPLITS), default=module.SPLITS[0], show_default=True)
    @click.option(
        "--openpose",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of OpenPose detections, if elsewhere.",
    )
    @click.option(
        "--min-body-joints", type=click.IntRange(0, 12), default=12, show_default=True,
        help="Set people with fewer of the 12 limb joints aside (12 as published).",
    )  # fmt: skip
    def command(
        data: Path, root: Path, name: str, split: str, openpose: Path | None, min_body_joints: int
    ) -> None:
        from pipelines import journal
        from pipelines.preprocess import preprocess as run
        from pipelines.progress import say
        from pipelines.readers.base import ReaderOptions

        if openpose is not None and not openpose.is_dir():
            raise UsageError(f"--openpose {openpose}: no such folder")
        folder = data_folder(data)
        target = folder.annotations(name)
        with journal.recorded(folder.journal, "preprocess", dataset=name, root=str(root)) as entry:
            done = run(folder, reader, root, name, ReaderOptions(split, min_body_joints, openpose))
            entry |= {"people": done.people, "set_aside": sum(done.refused.values())}
        say(f"{target}: {done.people} people in {done.images} images")
        say(f"  {done.with_openpose} with an OpenPose detection, {done.with_truth} with a known body")
        for reason, count in done.refused.items():
            say(f"  set aside {count}: {reason}")
        if done.refused_list:
            say(f"  each of them is listed in {done.refused_list}")


def _add_readers() -> None:
    from pipelines.readers import READERS

    for reader, module in READERS.items():
        _add_reader(reader, module)


_add_readers()


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
