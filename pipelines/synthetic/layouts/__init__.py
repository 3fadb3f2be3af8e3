"""Raw trees of the embedded world in the layouts of the published data sets: files of their true formats, with known truth.

With them the readers run end to end without any data set's licence, and a user who has yet to obtain one can try
everything. A layout is a module with `ABOUT` and `write(out, world, people, seed)`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from spin.world import World


class Layout(Protocol):
    """A module of this package.

    `write` fills an empty folder with at least `people` people; what it writes depends on its arguments alone. Next to the
    data set's own files it leaves `truth.npz`, which no reader looks at (see `truth.write_truth`).
    """

    ABOUT: str

    def write(self, out: Path, world: World, people: int, seed: int) -> None: ...


LAYOUTS = {
    "h36m": "h36m",
    "lsp-orig": "lsp_original",
    "mpii": "mpii",
    "lspet": "lspet",
    "coco": "coco",
    "mpi-inf-3dhp": "mpi_inf_3dhp",
    "3dpw": "pw3d",
    "lsp": "lsp",
}
"""Module by name, as `spin-pipe synth --layout` takes it."""


def layout(name: str) -> Layout:
    return cast(Layout, import_module(f"pipelines.synthetic.layouts.{LAYOUTS[name]}"))
