"""One module a data set: what is known of each person in it, in spin-pipe's terms.

`base.Reader` lists what such a module has. Adding a data set means writing one and naming it in DATASETS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from pipelines.readers.base import Note, Person, Reader, ReaderOptions, Rejected

TRAIN, EVALUATION, OWN = "train", "evaluation", "own"


@dataclass(frozen=True)
class Dataset:
    """A data set, or one split of it, by the name it has from `preprocess` on.

    `use`: what the field uses it for. `split` is empty if the user may choose among the reader's.
    """

    name: str
    module: str  # of this package
    use: str
    split: str = ""
    root: str = ""  # whose --root it is, if not its own name's
    min_body_joints: int = 12  # as published

    @property
    def reader(self) -> Reader:
        return cast(Reader, import_module(f"pipelines.readers.{self.module}"))

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split,) if self.split else self.reader.SPLITS

    @property
    def root_name(self) -> str:
        return self.root or self.name


DATASETS: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset("h36m", "h36m.reader", TRAIN, split="train"),
        Dataset("lsp-orig", "lsp.original", TRAIN),
        Dataset("mpii", "mpii", TRAIN),
        Dataset("lspet", "lsp.extended", TRAIN, min_body_joints=0),
        Dataset("coco", "coco.reader", TRAIN),
        Dataset("mpi-inf-3dhp", "mpi_inf_3dhp.reader", TRAIN, split="train"),
        Dataset("h36m-p1", "h36m.reader", EVALUATION, split="p1", root="h36m"),
        Dataset("h36m-p2", "h36m.reader", EVALUATION, split="p2", root="h36m"),
        Dataset("3dpw", "pw3d", EVALUATION, split="test"),
        Dataset("lsp", "lsp.evaluation", EVALUATION),
        Dataset("mpi-inf-3dhp-valid", "mpi_inf_3dhp.reader", EVALUATION, split="valid", root="mpi-inf-3dhp"),
        Dataset("custom", "custom.reader", OWN, min_body_joints=6),
    )
}
"""In the order in which they are listed. Names of the published data sets are those of the published options."""

TRAINING_SETS = tuple(d.name for d in DATASETS.values() if d.use == TRAIN)


def read_all(reader: Reader, root: Path, options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield all people in a data set, part by part, in this process."""
    for part in reader.parts(root, options):
        yield from (outcome for outcome in reader.read(root, part, options) if not isinstance(outcome, Note))
