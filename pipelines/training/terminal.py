"""What a person sees of a training on the terminal: a bar, a table that grows, and what went wrong with images.

It follows the run's files, which works wherever the workers run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines import journal
from pipelines.folders import RunFolder
from pipelines.progress import progress, say

_SHOWN = 5  # skipped images that are named on the terminal
_HEADING_EVERY = 20  # rows
# Title, where it comes from in the metrics, how it is written. Losses before their weights; seconds of a step.
_COLUMNS = (
    ("step", "step", "{:d}"),
    ("epoch", "epoch", "{:d}"),
    ("loss", "loss/total", "{:.2f}"),
    ("2D", "loss/keypoints", "{:.4f}"),
    ("3D", "loss/joints", "{:.4f}"),
    ("pose", "loss/pose", "{:.4f}"),
    ("betas", "loss/betas", "{:.3f}"),
    ("img/s", "images_per_s", "{:.1f}"),
    ("improved", "fits/improved", "{:.0%}"),
    ("valid", "fits/valid", "{:.0%}"),
    ("load s", "seconds/load", "{:.3f}"),
    ("forward s", "seconds/forward", "{:.3f}"),
    ("fit s", "seconds/fit", "{:.3f}"),
    ("backward s", "seconds/backward", "{:.3f}"),
    ("store s", "seconds/store", "{:.3f}"),
)
_WIDTHS = (8, 5, 8, 8, 8, 8, 8, 7, 8, 6, 7, 9, 6, 10, 7)


def heading() -> str:
    return " ".join(f"{title:>{width}}" for (title, _, _), width in zip(_COLUMNS, _WIDTHS))


def row(metrics: dict[str, Any]) -> str:
    """A line of the table, of a line of metrics.jsonl."""
    cells = (written.format(metrics[name]) if name in metrics else "" for _, name, written in _COLUMNS)
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS))


@contextmanager
def live_table(run: RunFolder, steps: int) -> Iterator[None]:
    """Shows how the run goes while the block is running."""
    over = threading.Event()
    # Elsewhere than on a terminal the table is enough.
    with progress(steps, f"train {run.root.name}", "step", only_live=True) as bar:

        def follow() -> None:
            # A resumed run shows what is new.
            shown, skipped = len(journal.read(run.metrics)), 0
            rows = 0
            while True:
                ended = over.wait(0.5)
                lines = journal.read(run.metrics)
                if len(lines) < shown:
                    shown = 0
                for line in lines[shown:]:
                    if rows % _HEADING_EVERY == 0:
                        say(heading())
                    say(row(line))
                    rows += 1
                shown = len(lines)
                if lines:
                    bar.update(lines[-1]["step"] - bar.n)
                problems = [line["problem"] for line in journal.read(run.skipped)]
                for problem in problems[skipped:_SHOWN]:
                    say(f"skipped: {problem}")
                if len(problems) > _SHOWN >= skipped:
                    say(f"skipped: more of them are listed in {run.skipped}")
                skipped = len(problems)
                if ended:
                    return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
