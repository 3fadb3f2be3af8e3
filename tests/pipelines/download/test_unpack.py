"""Archives that are damaged, malicious, or impossible to unpack."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from pipelines.download.archives import ARCHIVES, record_of
from pipelines.errors import StageError
from tests.pipelines.mirror import FILES, NOISE, Mirror, get, packed, tree

WRONG: dict[str, tuple[bytes, str]] = {
    "cut short": (FILES["data.tar.gz"][:-1000], "damaged"),
    "without its checksum": (FILES["data.tar.gz"][:-8], "damaged"),
    "a byte changed": (FILES["data.tar.gz"][:90_000] + b"\0" + FILES["data.tar.gz"][90_001:], "damaged"),
    "a web page": (b"<html>please log in</html>", "damaged, or not a .tar.gz"),
    "empty": (packed({}), "holds no file"),
    "compressed noise": (gzip.compress(NOISE), "damaged"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_archive_leaves_nothing_and_the_next_mirror_is_tried(
    mirror: Mirror, second: Mirror, tmp_path: Path, case: str
) -> None:
    content, message = WRONG[case]
    mirror.files["data.tar.gz"] = content
    with pytest.raises(StageError, match=message):
        get(tmp_path, "data", mirror)
    assert tree(tmp_path) == set()
    assert not list((tmp_path / ".fetch").glob(".tmp-*"))
    assert record_of(tmp_path, ARCHIVES["data"]) is None
    done = get(tmp_path, "data", mirror, second)
    assert done.url.startswith(second.url)
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def climbing(name: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = 4
    return info, b"evil"


MALICIOUS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "climbs": ([climbing("data/../../evil")], "leaves the folder"),
    "climbs at once": ([climbing("../evil")], "leaves the folder"),
    "absolute": ([climbing("/tmp/evil")], "absolute"),
    "backslash": ([climbing("..\\evil")], "absolute or foreign"),
    "symlink out": ([special("data/out", tarfile.SYMTYPE, "/etc"), climbing("data/out/evil")], "is a link"),
    "symlink within": ([special("data/in", tarfile.SYMTYPE, "J_regressor_extra.npy")], "is a link"),
    "hard link": ([special("data/hard", tarfile.LNKTYPE, "/etc/passwd")], "is a link"),
    "device": ([special("data/null", tarfile.CHRTYPE)], "device"),
    "fifo": ([special("data/pipe", tarfile.FIFOTYPE)], "device"),
}


@pytest.mark.parametrize("case", MALICIOUS)
def test_nothing_leaves_the_folder(mirror: Mirror, tmp_path: Path, case: str) -> None:
    members, message = MALICIOUS[case]
    mirror.files["data.tar.gz"] = packed({"data/J_regressor_extra.npy": b"extra"}, members)
    data = tmp_path / "a" / "data"
    with pytest.raises(StageError, match=message):
        get(data, "data", mirror)
    assert tree(data) == set()
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"data"}
    assert not Path("/tmp/evil").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("n" * 300,)])
def test_names_that_no_folder_can_hold_make_the_next_mirror_be_tried(
    mirror: Mirror, second: Mirror, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Breaks if the archive's fault is taken for the disk's."""
    good = second.files["data.tar.gz"]
    mirror.files["data.tar.gz"] = packed({f"data/{name}": b"x" for name in names})
    assert get(tmp_path, "data", mirror, second).url.startswith(second.url)
    second.files["data.tar.gz"] = good


def test_what_a_killed_run_was_unpacking_goes(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / ".fetch" / ".tmp-killed" / "static_fits").mkdir(parents=True)
    get(tmp_path, "data", mirror)
    assert not list((tmp_path / ".fetch").glob(".tmp-*"))
