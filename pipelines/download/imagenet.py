"""ImageNet weights of the backbones, as torchvision publishes them: downloaded once into the data folder, and checked."""

from __future__ import annotations

import hashlib
import socket
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.download.http import DownloadError
from store.files.atomic import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.folders import DataFolder

CHOICE = "imagenet"  # the value of --backbone-weights that asks for them
PLACE = "https://download.pytorch.org/models"
TIMEOUT_S = 60.0
# torchvision's first ones (IMAGENET1K_V1), from which the published training starts. A name ends with the beginning of the
# file's SHA-256.
FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
}


def imagenet_weights(data: DataFolder, backbone: str, *, place: str = PLACE, file: str | None = None) -> Path:
    """Return the file with a backbone's weights. Download it unless it is in the data folder and whole.

    Raise DownloadError if it can't be downloaded, or is another file than it should be.
    """
    from torch.hub import download_url_to_file

    file = file or FILES[backbone]
    path, url = data.backbones / file, f"{place}/{file}"
    prefix = file.removesuffix(".pth").rpartition("-")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / "lock"):  # a second run waits, rather than download it too
        # torch.hub.load_state_dict_from_url would take a damaged file that is there for a good one
        if path.is_file() and _sha256(path).startswith(prefix):
            return path
        try:
            with _answers_within(TIMEOUT_S):
                download_url_to_file(url, str(path), prefix)
        except RuntimeError as error:
            raise DownloadError(
                f"{url}: what came is another file, its SHA-256 doesn't begin as its name does; try again"
            ) from error
        except (OSError, HTTPException) as error:
            raise DownloadError(
                f"{url}: can't be reached or written ({error}); without a connection, get that file elsewhere and name it "
                "with --backbone-weights FILE"
            ) from error
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def _answers_within(seconds: float) -> Iterator[None]:
    """End what waits longer than this for a server's next bytes: torch's download has no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
