"""A server of this machine that misbehaves as asked, and archives for it to serve."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.download.archives import ARCHIVES, Fetched, fetch


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


def get(data: Path, name: str, *mirrors: Mirror, **options) -> Fetched:
    return fetch(data, ARCHIVES[name], tuple(m.url for m in mirrors), lambda done, total: None, pause_s=0, **options)


def tree(data: Path) -> set[str]:
    return {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file() and ".fetch" not in p.parts}


def command(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["fetch-data", *arguments])
    return done.exit_code, f"{done.output}{done.exception or ''}"
