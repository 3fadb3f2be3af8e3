"""fetch-data against a server of this machine: interrupted, cut short, wrong, absent and malicious archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.download.archives import ARCHIVES, Archive, Fetched, fetch, read_checksums, record_of
from pipelines.download.http import DownloadError, checked_url, download
from pipelines.errors import StageError, UsageError


@dataclass
class Mirror:
    """What the server has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    url: str = ""
    ends_after: list[int] = field(default_factory=list)  # bytes of each answer; then whole answers
    ranges: bool = True
    etag: str = '"1"'
    length: int | None = None  # said instead of the true one
    fails: list[int] = field(default_factory=list)  # status codes of the first answers
    redirect: str = ""
    asked: list[str] = field(default_factory=list)  # Range of each request, or ''


class Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        mirror = self.mirror
        mirror.asked.append(self.headers.get("Range", ""))
        if mirror.redirect:
            self.send_response(302)
            self.send_header("Location", mirror.redirect)
            self.end_headers()
            return
        if mirror.fails:
            self.send_error(mirror.fails.pop(0))
            return
        content = mirror.files.get(self.path.rpartition("/")[2])
        if content is None:
            self.send_error(404)
            return
        first = 0
        same = self.headers.get("If-Range") == mirror.etag
        if mirror.ranges and same and "Range" in self.headers:
            first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if mirror.etag:
            self.send_header("ETag", mirror.etag)
        if mirror.length != -1:
            self.send_header("Content-Length", str(mirror.length or len(content) - first))
        self.end_headers()
        last = first + mirror.ends_after.pop(0) if mirror.ends_after else len(content)
        self.wfile.write(content[first:last])

    def log_message(self, format: str, *args: object) -> None:
        pass


def serving(mirror: Mirror) -> Iterator[Mirror]:
    handler = type("Bound", (Handler,), {"mirror": mirror})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}/spin"
    yield mirror
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def packed(files: dict[str, bytes], extra: list[tuple[tarfile.TarInfo, bytes]] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info, content in extra or []:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


NOISE = np.random.default_rng(0).bytes(300_000)
FILES = {
    "data.tar.gz": packed({"data/J_regressor_extra.npy": b"extra", "data/gmm_08.pkl": NOISE}),
    "static_fits.tar.gz": packed({"static_fits/coco_fits.npy": b"fits", "static_fits/lspet_fits.npy": NOISE}),
    "dataset_extras.tar.gz": packed({"./dataset_extras/coco_2014_train.npz": b"coco"}),
    "model_checkpoint.pt": b"\x80\x02" + NOISE,
    "spin_fits.tar.gz": packed({"coco.npz": b"final"}),
}


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    yield from serving(Mirror(dict(FILES)))


@pytest.fixture
def second() -> Iterator[Mirror]:
    yield from serving(Mirror(dict(FILES), etag='"2"'))


def get(data: Path, name: str, *mirrors: Mirror, **options) -> Fetched:
    return fetch(
        data, ARCHIVES[name], tuple(m.url for m in mirrors), lambda done, total: None, pause_s=0, **options
    )


def tree(data: Path) -> set[str]:
    return {
        p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file() and ".fetch" not in p.parts
    }


def command(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["fetch-data", *arguments])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_all_archives_come_to_the_published_places(mirror: Mirror, tmp_path: Path) -> None:
    code, said = command("--data", str(tmp_path), "--base-url", mirror.url)
    assert code == 0, said
    assert tree(tmp_path) - {"journal.jsonl"} == {
        "J_regressor_extra.npy", "gmm_08.pkl", "static_fits/coco_fits.npy", "static_fits/lspet_fits.npy",
        "dataset_extras/coco_2014_train.npz", "model_checkpoint.pt",
    }  # fmt: skip
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE
    assert not list((tmp_path / ".fetch").glob("*.part*"))
    asked = len(mirror.asked)
    code, said = command("--data", str(tmp_path), "--base-url", mirror.url)
    assert code == 0
    assert said.count("there already") == 4
    assert len(mirror.asked) == asked
    (tmp_path / "gmm_08.pkl").unlink()
    assert not get(tmp_path, "data", mirror).earlier
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE


def test_what_is_not_in_the_published_script_comes_only_if_named(mirror: Mirror, tmp_path: Path) -> None:
    assert command("spin_fits", "--data", str(tmp_path), "--base-url", mirror.url)[0] == 0
    assert tree(tmp_path) - {"journal.jsonl"} == {"spin_fits/coco.npz"}


def test_listing_fetches_nothing_and_says_what_is_there(mirror: Mirror, tmp_path: Path) -> None:
    data = tmp_path / "data"
    get(data, "data", mirror)
    asked = len(mirror.asked)
    code, said = command("--list", "--data", str(data), "--base-url", mirror.url)
    assert code == 0
    assert len(mirror.asked) == asked
    states = {
        line.split()[0]: line.split()[1]
        for line in said.splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    }
    assert states["data"] == "there"
    assert states["static_fits"] == "missing"
    assert states["SMPL_NEUTRAL.pkl"] == "missing"
    assert states["coco"] == "not"
    assert "smplify.is.tue.mpg.de" in said
    assert "custom" not in states


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


def test_the_beginning_of_another_file_is_not_gone_on_from(
    mirror: Mirror, second: Mirror, tmp_path: Path
) -> None:
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


def test_a_checkpoint_must_look_like_one(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["model_checkpoint.pt"] = b"<html>"
    with pytest.raises(StageError, match="is no PyTorch checkpoint"):
        get(tmp_path, "model_checkpoint", mirror)
    assert tree(tmp_path) == set()


def test_files_of_ones_own_are_kept_unless_asked(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "gmm_08.pkl").write_bytes(b"mine")
    (tmp_path / "J_regressor_extra.npy").write_bytes(b"extra")
    done = get(tmp_path, "data", mirror)
    assert done.kept == ("gmm_08.pkl",)
    assert (tmp_path / "gmm_08.pkl").read_bytes() == b"mine"
    assert get(tmp_path, "data", mirror).earlier
    assert get(tmp_path, "data", mirror, again=True).kept == ()
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE


def test_sums_are_checked(mirror: Mirror, second: Mirror, tmp_path: Path) -> None:
    mirror.files["data.tar.gz"] = packed({"data/gmm_08.pkl": b"other"})
    listed = tmp_path / "SHA256SUMS"
    listed.write_text(f"{hashlib.sha256(FILES['data.tar.gz']).hexdigest()}  spin/data.tar.gz\n")
    data = tmp_path / "data"
    with pytest.raises(StageError, match="is another file: SHA-256"):
        get(data, "data", mirror, checksums=read_checksums(listed))
    assert get(data, "data", mirror, second, checksums=read_checksums(listed)).url.startswith(second.url)
    listed.write_text("data.tar.gz 12\n")
    with pytest.raises(UsageError, match="--checksums"):
        read_checksums(listed)


def test_without_a_network_it_is_said_once_for_each_address(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
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


def test_an_archive_that_fails_does_not_stop_the_others(mirror: Mirror, tmp_path: Path) -> None:
    del mirror.files["static_fits.tar.gz"]
    code, said = command("--data", str(tmp_path), "--base-url", mirror.url)
    assert code == 1
    assert "1 of 4 archives could not be fetched: static_fits.tar.gz" in said
    assert (tmp_path / "dataset_extras" / "coco_2014_train.npz").is_file()


def test_wrong_commands(tmp_path: Path) -> None:
    for url in ("file:///etc", "ftp://x/y", "nowhere", "http://", "http://[::"):
        with pytest.raises(UsageError, match="expected an address"):
            checked_url(url)
    assert "no archive is called 'everything'" in command("everything", "--data", str(tmp_path))[1]


def test_what_a_killed_run_was_unpacking_goes(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / ".fetch" / ".tmp-killed" / "static_fits").mkdir(parents=True)
    get(tmp_path, "data", mirror)
    assert not list((tmp_path / ".fetch").glob(".tmp-*"))


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("n" * 300,)])
def test_names_that_no_folder_can_hold_make_the_next_mirror_be_tried(
    mirror: Mirror, second: Mirror, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Breaks if the archive's fault is taken for the disk's."""
    good = second.files["data.tar.gz"]
    mirror.files["data.tar.gz"] = packed({f"data/{name}": b"x" for name in names})
    assert get(tmp_path, "data", mirror, second).url.startswith(second.url)
    second.files["data.tar.gz"] = good


def test_a_note_that_is_damaged_is_no_note(mirror: Mirror, tmp_path: Path) -> None:
    get(tmp_path, "data", mirror)
    note = tmp_path / ".fetch" / "data.json"
    for content in ("", "[]", json.dumps({"files": 3})):
        note.write_text(content)
        assert record_of(tmp_path, ARCHIVES["data"]) is None
    assert not get(tmp_path, "data", mirror).earlier


def test_each_archive_has_a_place_of_its_own() -> None:
    for archive in ARCHIVES.values():
        assert isinstance(archive, Archive)
        assert archive.folder == ("" if archive.name in ("data", "model_checkpoint") else archive.name)
