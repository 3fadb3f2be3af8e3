"""spin-pipe pack: packed crops of data sets that are preprocessed."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines import journal
from pipelines.commands.common import ADDRESS, DATA, DATASETS, WORKERS, chosen_datasets, data_folder
from pipelines.errors import UsageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.pack import PackConfig
from pipelines.preprocessing.pack import pack as pack_crops
from pipelines.progress import say
from spin.errors import TrainingError
from spin.training.config import AugmentationConfig
from store.crops import PackedCrops

_SHOWN = 5  # unreadable images that are named on the terminal


@click.command()
@DATASETS
@DATA
@click.option(
    "--img-res", type=click.IntRange(32, 512), default=224, show_default=True,
    help="Largest crop that training will cut from them, px.",
)  # fmt: skip
@click.option("--rot-factor", type=float, default=30.0, show_default=True, help="As in training.")
@click.option("--scale-factor", type=float, default=0.25, show_default=True, help="As in training.")
@click.option("--quality", type=click.IntRange(50, 100), default=90, show_default=True, help="The JPEGs'.")
@WORKERS
@ADDRESS
def pack(
    datasets: tuple[str, ...], data: Path, img_res: int, rot_factor: float, scale_factor: float, quality: int,
    workers: int | None, address: str | None,
) -> None:  # fmt: skip
    """Pack what training needs of each person's image into one file, which it then reads instead of the images.

    \b
    Example:
      spin-pipe pack world          data/annotations/world.parquet  ->  data/annotations/world.crops

    Training finds the file by itself. Remove it to train from the images again.
    """
    folder = data_folder(data)
    try:
        augmentation = AugmentationConfig(rotation_deg=rot_factor, scale=scale_factor)
    except TrainingError as error:
        raise UsageError(str(error)) from error
    for name in chosen_datasets(folder, datasets):
        run_pack(folder, name, PackConfig(img_res, augmentation, quality), workers=workers, address=address)


def run_pack(folder: DataFolder, name: str, config: PackConfig, *, workers: int | None, address: str | None) -> None:
    """Pack one data set, and print what that cost and saved."""
    with journal.recorded(folder.journal, "pack", dataset=name, quality=config.quality) as entry:
        done = pack_crops(folder, name, config, workers=workers, address=address)
        entry |= {"rows": done.rows, "unreadable": done.unreadable, "bytes": done.bytes}
    say(f"{folder.crops(name)}: {done.rows - done.unreadable} crops, {done.bytes / 1e6:,.1f} MB")
    say(f"  the images they are from: {done.image_bytes / 1e6:,.1f} MB")
    say(
        f"  training crops differ by {done.mean_absolute_difference:.2f} grey levels from those cut from the "
        f"images (PSNR {done.psnr_db:.1f} dB; {done.compared} compared)"
    )
    if done.unreadable:
        say(f"  {done.unreadable} without a crop, which training will not use:")
        for problem in list(PackedCrops(folder.crops(name)).problems.values())[:_SHOWN]:
            say(f"    {problem}")
