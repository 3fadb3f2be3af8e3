"""What a reader makes of the trees of LSP, HR-LSPET, MPII and COCO."""

from __future__ import annotations

from pathlib import Path

from pipelines.readers import DATASETS, read_all
from pipelines.readers.base import Person, ReaderOptions, Rejected

STILLS = ("lsp-orig", "lspet", "mpii", "coco", "lsp")


LEEDS = ("lsp-orig", "lspet", "lsp")


PEOPLE = 10


def outcomes(name: str, root: Path, min_body_joints: int = 0, **extra: object) -> list[Person | Rejected]:
    options = ReaderOptions(DATASETS[name].splits[0], min_body_joints, data=root / "none", extra=extra)
    return list(read_all(DATASETS[name].reader, root, options))


def people_of(name: str, root: Path, min_body_joints: int = 0, **extra: object) -> list[Person]:
    return [o for o in outcomes(name, root, min_body_joints, **extra) if isinstance(o, Person)]


def reasons(name: str, root: Path, min_body_joints: int = 0) -> dict[str, str]:
    return {o.source: o.reason for o in outcomes(name, root, min_body_joints) if isinstance(o, Rejected)}
