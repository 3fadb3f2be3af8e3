"""A small S3 server in memory, for tests: what a fit store asks of one, and the ways in which the real one lets clients down.

PUT, GET (ranges, too), HEAD, DELETE, multi-delete and list-type=2 with delimiter and pages; ETags, If-Match and If-None-Match
on PUT. Signatures are not verified, only whose they are. `python s3_server.py` serves until it is ended.
"""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

BUCKET, ACCESS_KEY, SECRET_KEY = "bucket", "test-key", "test-secret"
PAGE = 1000


@dataclass(frozen=True)
class Stored:
    content: bytes
    modified: float

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose key contains `key`, after `skip` of them.

    kind: 'error' (500), 'slow down' (503), 'conflict' (409), 'denied' (403); 'drop': the connection ends before anything was
    done; 'lost': it is done, but the answer doesn't arrive; 'wait': it is done late, by `seconds`.
    """

    kind: str
    method: str = ""
    key: str = ""
    times: int = 1
    skip: int = 0
    seconds: float = 0.0

    def strikes(self, method: str, key: str) -> bool:
        if self.times <= 0 or self.method not in ("", method) or self.key not in key:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Request:
    method: str
    key: str
    received: int
    sent: int


@dataclass
class S3:
    """The server's content, what it was asked, and what goes wrong with it.

    conditions: whether If-Match and If-None-Match are heeded; some that call themselves compatible don't.
    """

    port: int = 0
    objects: dict[str, Stored] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    conditions: bool = True
    latency_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What clients need."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1",
        }  # fmt: skip

    def clear(self) -> None:
        with self.lock:
            for part in (self.objects, self.faults, self.requests):
                part.clear()
        self.conditions, self.latency_s = True, 0.0

    def fault(self, method: str, key: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(method, key)), None)

    def names(self, prefix: str) -> list[str]:
        """Keys below a prefix, without it."""
        with self.lock:
            return sorted(key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))

    def age(self, prefix: str, seconds: float) -> None:
        """As if these objects had been written so much earlier."""
        with self.lock:
            for key in [key for key in self.objects if key.startswith(prefix)]:
                stored = self.objects[key]
                self.objects[key] = Stored(stored.content, stored.modified - seconds)


class Refusal(Exception):
    """An answer other than success: status and S3's code for it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


FAULTS = {
    "error": Refusal(500, "InternalError"), "slow down": Refusal(503, "SlowDown"),
    "conflict": Refusal(409, "ConditionalRequestConflict"), "denied": Refusal(403, "AccessDenied"),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and content in one packet, or every answer waits for the client's delayed acknowledgement.
    wbufsize = -1
    s3: S3

    def log_message(self, *arguments: object) -> None:
        pass

    def _handle(self) -> None:
        path, _, query = self.path.partition("?")
        bucket, _, key = urllib.parse.unquote(path.lstrip("/")).partition("/")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = key or asked.get("prefix", "")
        fault = self.s3.fault(self.command, name)
        if fault and fault.kind == "drop":
            self.close_connection = True
            return
        time.sleep(self.s3.latency_s + (fault.seconds if fault and fault.kind == "wait" else 0.0))
        try:
            if fault and fault.kind in FAULTS:
                raise FAULTS[fault.kind]
            self._check(bucket)
            status, headers, content = self._act(key, asked, body)
        except Refusal as refusal:
            status, headers = refusal.status, {"Content-Type": "application/xml"}
            content = f"<Error><Code>{refusal.code}</Code><Message>{refusal.code}</Message></Error>".encode()
        with self.s3.lock:
            self.s3.requests.append(Request(self.command, name, len(body), len(content)))
        if fault and fault.kind == "lost":
            self.close_connection = True
            return
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _handle

    def _check(self, bucket: str) -> None:
        if f"Credential={ACCESS_KEY}/" not in self.headers.get("Authorization", ""):
            raise Refusal(403, "InvalidAccessKeyId")
        if bucket != BUCKET:
            raise Refusal(404, "NoSuchBucket")

    def _act(self, key: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.command in ("GET", "HEAD"):
            return self._list(asked) if not key else self._get(key)
        with self.s3.lock:
            if self.command == "PUT" and key:
                return self._put(key, body)
            if self.command == "DELETE" and key:
                self.s3.objects.pop(key, None)
                return 204, {}, b""
            if self.command == "POST" and "delete" in asked:
                keys = [node.text or "" for node in ElementTree.fromstring(body).iter() if _is(node, "Key")]
                for each in keys:
                    self.s3.objects.pop(each, None)
                gone = "".join(f"<Deleted><Key>{escape(each)}</Key></Deleted>" for each in keys)
                return 200, {}, f"<DeleteResult>{gone}</DeleteResult>".encode()
        raise Refusal(501, "NotImplemented")

    def _put(self, key: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        there = self.s3.objects.get(key)
        if self.s3.conditions:
            wanted = self.headers.get("If-Match")
            if wanted is not None and there is None:
                raise Refusal(404, "NoSuchKey")
            if wanted is not None and there is not None and there.etag != wanted:
                raise Refusal(412, "PreconditionFailed")
            if self.headers.get("If-None-Match") == "*" and there is not None:
                raise Refusal(412, "PreconditionFailed")
        self.s3.objects[key] = stored = Stored(body, time.time())
        return 200, {"ETag": stored.etag}, b""

    def _get(self, key: str) -> tuple[int, dict[str, str], bytes]:
        stored = self.s3.objects.get(key)
        if stored is None:
            raise Refusal(404, "NoSuchKey")
        modified = formatdate(stored.modified, usegmt=True)
        headers = {"ETag": stored.etag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
        size, status, content = len(stored.content), 200, stored.content
        if self.command == "HEAD":
            headers["Content-Length"] = str(size)
        elif asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, size - int(last))
            end = min(int(last) + 1, size) if first and last else size
            if begin >= end:
                raise Refusal(416, "InvalidRange")
            status, content = 206, content[begin:end]
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        return status, headers, content

    def _list(self, asked: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = asked.get("continuation-token") or asked.get("start-after", "")
        entries: dict[str, Stored | None] = {}
        with self.s3.lock:
            for key in sorted(self.s3.objects):
                if not key.startswith(prefix):
                    continue
                inner, cut, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
                entry = prefix + inner + cut if cut else key
                if entry > after:
                    entries.setdefault(entry, None if cut else self.s3.objects[key])
        names = list(entries)[: int(asked.get("max-keys", PAGE))]
        truncated = len(names) < len(entries)
        parts = [f"<IsTruncated>{str(truncated).lower()}</IsTruncated><KeyCount>{len(names)}</KeyCount>"]
        if truncated:
            parts.append(f"<NextContinuationToken>{escape(names[-1])}</NextContinuationToken>")
        parts += [_entry(name, entries[name]) for name in names]
        content = f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode()
        return 200, {"Content-Type": "application/xml"}, content


def _entry(name: str, stored: Stored | None) -> str:
    if stored is None:
        return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.modified))
    return (
        f"<Contents><Key>{escape(name)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.content)}</Size></Contents>"
    )


def _is(node: ElementTree.Element, name: str) -> bool:
    return node.tag.rpartition("}")[2] == name


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # or many clients at once are turned away


@contextmanager
def serving(port: int = 0) -> Iterator[S3]:
    """A server on a free port of this machine's own interface, until the block ends."""
    s3 = S3()
    handler = type("BoundHandler", (Handler,), {"s3": s3})
    server = Server(("127.0.0.1", port), handler)
    s3.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    import argparse
    import signal

    parser = argparse.ArgumentParser(description="An S3 server in memory, for trying things out.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that every answer takes")
    options = parser.parse_args()
    with serving(options.port) as s3:
        s3.latency_s = options.latency
        for name, value in s3.environment.items():
            print(f"export {name}={value}", flush=True)
        signal.sigwait([signal.SIGINT, signal.SIGTERM])


if __name__ == "__main__":
    main()
