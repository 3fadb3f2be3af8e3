"""Download one file over HTTP: continue where it stopped, and check that it is complete."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.errors import StageError, UsageError
from store.files.atomic import write_file

ATTEMPTS = 4  # without a byte in between
PAUSE_S = 0.5  # before the second attempt; doubled before each further one
TIMEOUT_S = 30.0  # of silence
_BLOCK = 1 << 20
_AGENT = "spin-pipe"
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}

Update = Callable[[int, int], None]
"""Called with the bytes that there are, and will be (0 if that is not known)."""


class DownloadError(StageError):
    """A file can't be downloaded from an address; the part that came stays."""


@dataclass(frozen=True)
class _Beginning:
    """Which file a partial one is the beginning of. `validator`: its ETag, or when it was changed; '' if neither is known."""

    url: str
    validator: str
    size: int


class _Interrupted(Exception):
    """Worth another attempt."""


def checked_url(url: str) -> str:
    """Return the address. Raise UsageError unless it begins with http:// or https://."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    except ValueError:
        pass
    raise UsageError(f"{url}: expected an address that begins with http:// or https://")


def download(url: str, path: Path, update: Update, *, pause_s: float = PAUSE_S, timeout_s: float = TIMEOUT_S) -> None:
    """Fill `path`, which may hold the beginning of the file from an earlier run.

    A beginning is kept if the server confirms that it is of the same file; else start again. Raise DownloadError if the
    server has no such file, or stops answering; the beginning then stays for the next time.
    """
    checked_url(url)
    silent, furthest = 0, _size(path)
    while True:
        try:
            _continue(url, path, update, timeout_s)
            return
        except _Interrupted as interruption:
            # Further than ever, not than the last time: a server that takes back what it gave would never end.
            silent = 0 if _size(path) > furthest else silent + 1
            furthest = max(furthest, _size(path))
            if silent >= ATTEMPTS:
                raise DownloadError(f"{url}: {interruption}") from interruption
        time.sleep(pause_s * 2**silent / 2)


def _continue(url: str, path: Path, update: Update, timeout_s: float) -> None:
    """Make one request. Raise _Interrupted if another may complete the file."""
    beginning = _beginning(path)
    have = _size(path) if beginning and beginning.url == url and beginning.validator else 0
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if have and beginning:
        headers |= {"Range": f"bytes={have}-", "If-Range": beginning.validator}
    try:
        with _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as answer:
            size = _accept(url, path, have, answer)
            _receive(answer, path, size, update)
    except urllib.error.HTTPError as error:
        if error.code == 416 and beginning and have == beginning.size:
            return
        if error.code == 416:
            forget(path)
            raise _Interrupted("the server's file is shorter than what there is of it") from error
        message = f"the server answers {error.code} {error.reason}"
        if error.code in _TRANSIENT:
            raise _Interrupted(message) from error
        raise DownloadError(f"{url}: {message}") from error
    except urllib.error.URLError as error:
        raise _Interrupted(f"can't be reached ({error.reason})") from error
    except (TimeoutError, http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
        raise _Interrupted(f"the connection broke off ({type(error).__name__}: {error})") from error


def _opener() -> urllib.request.OpenerDirector:
    """HTTP alone: a server can't redirect to files of this machine, or to other protocols."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _accept(url: str, path: Path, have: int, answer: Any) -> int:
    """Prepare `path` for what the server sends. Return the whole file's size, 0 if unknown."""
    headers = answer.headers
    validator = headers.get("ETag") or headers.get("Last-Modified") or ""
    if validator.startswith("W/"):
        validator = headers.get("Last-Modified") or ""  # a weak one doesn't promise the same bytes
    length = headers.get("Content-Length") or ""
    if answer.status == 206:
        span, _, total = (headers.get("Content-Range") or "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(have) or not total.isdigit():
            forget(path)
            raise _Interrupted(f"the server sends {headers.get('Content-Range')!r} of the file, from {have} was asked for")
        size = int(total)
    else:
        path.unlink(missing_ok=True)
        have, size = 0, int(length) if length.isdigit() else 0
    free = shutil.disk_usage(path.parent).free
    if size - have > free:
        raise DownloadError(f"{url}: {size - have} bytes to come, {free} are free in {path.parent}; make room")
    write_file(_note_of(path), json.dumps(asdict(_Beginning(url, validator, size))).encode())
    return size


def _receive(answer: Any, path: Path, size: int, update: Update) -> None:
    with path.open("ab") as handle:
        done = handle.tell()
        update(done, size)
        while block := answer.read(_BLOCK):
            handle.write(block)
            done += len(block)
            update(done, size)
    if size and done < size:
        raise _Interrupted(f"the connection ended after {done} of {size} bytes")
    if size and done > size:
        forget(path)
        raise _Interrupted(f"the server sent {done} bytes of a file of {size}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _beginning(path: Path) -> _Beginning | None:
    try:
        return _Beginning(**json.loads(_note_of(path).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def forget(path: Path) -> None:
    """Remove a file, or the beginning of one, with what is noted of it."""
    path.unlink(missing_ok=True)
    _note_of(path).unlink(missing_ok=True)
