"""Downloads that are interrupted, cut short, of another file, absent or redirected."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from pipelines.download.archives import ARCHIVES, fetch
from pipelines.download.http import DownloadError, download
from pipelines.errors import StageError
from tests.pipelines.mirror import FILES, NOISE, Mirror, get, packed, tree


@pytest.mark.parametrize("first", [1, 1000, 299_000])
def test_an_interrupted_download_goes_on_where_it_stopped(mirror: Mirror, tmp_path: Path, first: int) -> None:
    mirror.ends_after = [first, 50]
    done = get(tmp_path, "data", mirror)
    assert mirror.asked == ["", f"bytes={first}-", f"bytes={first + 50}-"]
    assert done.sha256 == hashlib.sha256(FILES["data.tar.gz"]).hexdigest()
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE


def test_a_later_run_goes_on_too(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ends_after = [1000]
    mirror.fails = []

    class Killed(BaseException):
        pass

    def killed(done: int, total: int) -> None:
        if done:
            raise Killed

    with pytest.raises(Killed):
        fetch(tmp_path, ARCHIVES["data"], (mirror.url,), killed, pause_s=0)
    assert get(tmp_path, "data", mirror).size == len(FILES["data.tar.gz"])
    assert mirror.asked == ["", "bytes=1000-"]


def test_the_beginning_of_another_file_is_not_gone_on_from(mirror: Mirror, second: Mirror, tmp_path: Path) -> None:
    """Neither after the file changed, nor from another mirror, nor where the server has no ranges."""
    mirror.ends_after = [1000]
    mirror.files["data.tar.gz"] = packed({"data/old": NOISE})
    part = tmp_path / "x.part"
    with pytest.raises(ValueError, match="stop"):
        download(f"{mirror.url}/data.tar.gz", part, lambda done, total: stop_at(done, 1000), pause_s=0)
    mirror.files, mirror.etag = dict(FILES), '"new"'
    download(f"{mirror.url}/data.tar.gz", part, lambda done, total: None, pause_s=0)
    assert part.read_bytes() == FILES["data.tar.gz"]
    part.write_bytes(b"beginning of something")
    download(f"{second.url}/data.tar.gz", part, lambda done, total: None, pause_s=0)
    assert second.asked == [""]
    assert part.read_bytes() == FILES["data.tar.gz"]
    second.ranges, second.ends_after = False, [5000]
    part.unlink()
    download(f"{second.url}/data.tar.gz", part, lambda done, total: None, pause_s=0)
    assert part.read_bytes() == FILES["data.tar.gz"]


def stop_at(done: int, limit: int) -> None:
    if done >= limit:
        raise ValueError("stop")


def test_a_complete_beginning_is_complete(mirror: Mirror, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    for _ in range(2):
        download(f"{mirror.url}/data.tar.gz", part, lambda done, total: None, pause_s=0)
    assert mirror.asked == ["", f"bytes={len(FILES['data.tar.gz'])}-"]
    assert part.read_bytes() == FILES["data.tar.gz"]


def test_a_busy_server_is_asked_again_an_absent_file_is_not(mirror: Mirror, tmp_path: Path) -> None:
    mirror.fails = [503, 503]
    assert get(tmp_path, "data", mirror).files
    mirror.asked.clear()
    del mirror.files["static_fits.tar.gz"]
    with pytest.raises(StageError, match=r"static_fits\.tar\.gz: .*404"):
        get(tmp_path, "static_fits", mirror)
    assert len(mirror.asked) == 1
    mirror.fails = [503] * 20
    with pytest.raises(StageError, match="503"):
        get(tmp_path, "dataset_extras", mirror)
    assert len(mirror.asked) == 5
    assert tree(tmp_path) == {"J_regressor_extra.npy", "gmm_08.pkl"}


def test_wrong_lengths_are_found(mirror: Mirror, tmp_path: Path) -> None:
    true = len(FILES["data.tar.gz"])
    mirror.length = true + 10  # the rest never comes
    with pytest.raises(StageError, match=f"of {true + 10} bytes|file is shorter"):
        get(tmp_path, "data", mirror)
    mirror.length = true - 10
    with pytest.raises(StageError, match="damaged"):
        get(tmp_path, "data", mirror)
    mirror.length, mirror.ends_after = -1, [true - 10]  # no length said: the archive itself tells
    with pytest.raises(StageError, match="damaged"):
        get(tmp_path, "data", mirror)
    assert tree(tmp_path) == set()
    assert get(tmp_path, "data", mirror).size == true


def test_without_a_network_it_is_said_once_for_each_address(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but no process listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StageError, match="can't be reached") as raised:
            fetch(tmp_path, ARCHIVES["data"], (url,), lambda done, total: None, pause_s=0)
    assert "\n" not in str(raised.value)
    assert tree(tmp_path) == set()


def test_a_server_can_not_redirect_to_files_of_this_machine(mirror: Mirror, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    for target in (secret.as_uri(), "ftp://127.0.0.1/x"):
        mirror.redirect = target
        with pytest.raises(DownloadError):
            download(f"{mirror.url}/data.tar.gz", tmp_path / "part", lambda done, total: None, pause_s=0)
        assert not (tmp_path / "part").exists()
