"""Progress on the terminal, and a few lines of it in log files."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(total: int, what: str, unit: str, *, only_live: bool = False) -> tqdm:
    """Return a progress bar on a terminal; elsewhere a line every ten seconds, or with `only_live` nothing."""
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        mininterval=0.2 if live else 10.0,
        file=sys.stderr,
        ascii=not live,
        dynamic_ncols=live,
        leave=True,
        disable=only_live and not live,
    )


def say(text: str) -> None:
    """Print a line on the terminal, above a bar if one is running."""
    tqdm.write(text, file=sys.stderr)
