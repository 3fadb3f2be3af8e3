"""ImageNet weights of the backbones, as torchvision publishes them: downloaded once into the data folder, and checked."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.download.http import DownloadError, download, forget
from pipelines.progress import progress
from store.files.atomic import locked

if TYPE_CHECKING:
    from pipelines.folders import DataFolder

CHOICE = "imagenet"  # the value of --backbone-weights that asks for them
PLACE = "https://download.pytorch.org/models"
# torchvision's first ones (IMAGENET1K_V1), from which the published training starts. A name ends with the beginning of the
# file's SHA-256.
FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
}


def imagenet_weights(
    data: DataFolder, backbone: str, *, place: str = PLACE, file: str | None = None, pause_s: float = 0.5
) -> Path:
    """The file with a backbone's weights; downloaded unless it is in the data folder and whole.

    DownloadError if it can't be had, or is another file than it should be.
    """
    file = file or FILES[backbone]
    path = data.backbones / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / "lock"):  # a second run waits, rather than write to the same file
        if path.is_file() and _is_whole(path, file):
            return path
        part = path.with_name(f"{file}.part")
        with progress(0, file, "B") as bar:

            def update(done: int, total: int) -> None:
                bar.total = total or None
                bar.update(done - bar.n)

            try:
                download(f"{place}/{file}", part, update, pause_s=pause_s)
            except DownloadError as error:
                raise DownloadError(
                    f"{error}; without a connection, get that file elsewhere and name it with --backbone-weights FILE"
                ) from error
        if not _is_whole(part, file):
            forget(part)
            raise DownloadError(
                f"{place}/{file}: what came is another file, its SHA-256 doesn't begin as its name says; try again"
            )
        os.replace(part, path)
        forget(part)
    return path


def _is_whole(path: Path, file: str) -> bool:
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    return found.startswith(file.removesuffix(".pth").rpartition("-")[2])
