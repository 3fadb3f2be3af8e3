"""The command that makes data: synth."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import WORKERS
from pipelines.progress import progress, say
from pipelines.synthetic.coco_world import synthesize
from pipelines.synthetic.layouts import LAYOUTS
from pipelines.synthetic.published import synthesize_layout


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option("--people", type=click.IntRange(1), default=300, show_default=True, help="People to train on.")
@click.option("--test-people", type=click.IntRange(1), default=60, show_default=True, help="People to measure on.")
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
    say("body: the open body, of which all people are made")
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
            workers=workers, progress=update,
        )  # fmt: skip
    train, test = summary.train_people, summary.test_people
    say(f"{out}: {train} people to train on, {test} to measure on{' (made earlier)' if summary.reused else ''}")
    say(f"  next: spin-pipe preprocess coco --root {out} --name NAME")
