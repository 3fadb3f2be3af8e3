"""Fences: which of the workers that a run has started may offer fits. Stored, so that a restarted service knows."""

from __future__ import annotations

from store.errors import FormatVersionError
from store.files.checksummed_json import read_sealed, to_bytes
from store.fits.format.layout import Layout
from store.fits.runs import run_code

FORMAT = "spin-pipe-fits-fence"
VERSION = 1
FENCES = "fences"


def fence_file(run: str) -> str:
    """Return the file's name, by the run's code: a run's name may hold any character."""
    return f"{FENCES}/{run_code(run):016x}.json"


def read_fence(layout: Layout, run: str) -> str:
    """Return a run's fence, '' if there is none. Raises FormatVersionError if the file is damaged."""
    file = fence_file(run)
    try:
        content = read_sealed(layout.files, file, format_name=FORMAT, version=VERSION)
    except FileNotFoundError:
        return ""
    fence = content.get("fence")
    if not isinstance(fence, str):
        raise FormatVersionError(f"{layout.files.where(file)}: a fence must be a text, found {fence!r}")
    return fence


def write_fence(layout: Layout, run: str, fence: str) -> None:
    """Replace the run's fence, durably. Of two services of one run the later counts."""
    content = {"format": FORMAT, "version": VERSION, "run": run, "fence": fence}
    layout.files.write(fence_file(run), to_bytes(content))
