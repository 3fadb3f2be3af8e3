"""A fit store's files in an object store with S3's interface.

Objects always appear whole. Conditional writes replace the lock and the renaming of a local folder: If-None-Match (the first to
create a name has it) and If-Match (CURRENT moves only from the expected content). A write may succeed and its answer be lost;
the repeated write then fails, so after every such failure the object is read, to see whether it holds the new content.
FORMAT.md explains why nothing more is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from store.errors import ObjectStoreError
from store.files.atomic import TEMPORARY
from store.files.base import Files, Put, is_temporary, unique
from store.files.s3_client import ObjectClient

_CREATIONS = 5  # of an object that is reported as existing, and can't be read
_CLAIM = ".claim"


class ObjectFiles:
    """Objects under one prefix of a bucket. See store.files.Files for what each method promises.

    Raises ObjectStoreError, an OSError whose text is one line, when the store can't be reached or fails.
    """

    concurrency = 16

    def __init__(self, bucket: str, prefix: str) -> None:
        self._client = ObjectClient(bucket, prefix)
        self.location = self._client.location

    def where(self, name: str) -> str:
        return f"{self.location}/{name}"

    def read(self, name: str) -> bytes:
        return self._get(name)[0]

    def exists(self, name: str) -> bool:
        try:
            with self._client.asking(name) as store:
                obstore.head(store, name)
        except FileNotFoundError:
            return False
        return True

    def children(self, folder: str) -> list[str]:
        names = {name.partition("/")[0] for name in self._list(folder, deep=False)}
        return sorted(name for name in names if not is_temporary(name))

    def descendants(self, folder: str) -> list[str]:
        return sorted(self._list(folder, deep=True))

    def temporaries(self, folder: str) -> list[str]:
        names = self._list(folder, deep=False)
        return sorted(f"{folder}/{name}".lstrip("/") for name in names if is_temporary(name))

    def write(self, name: str, content: bytes) -> None:
        with self._client.asking(name) as store:
            obstore.put(store, name, memoryview(content).cast("B"), use_multipart=False)

    def create(self, name: str, content: bytes) -> bool:
        for _ in range(_CREATIONS):
            try:
                with self._client.asking(name) as store:
                    obstore.put(store, name, content, mode="create")
                return True
            except AlreadyExistsError:
                try:
                    return self.read(name) == content
                except FileNotFoundError:
                    continue  # removed since, or S3's 409: two at once, and this one should try again
            except ObjectStoreError:
                if self._holds(name, content):
                    return True
                raise
        raise ObjectStoreError(
            f"{self.where(name)}: exists, but can't be read, after {_CREATIONS} attempts; run the same command again"
        )

    def swap(self, name: str, expected: bytes, content: bytes) -> bool:
        found, version = self._get(name)
        if found != expected:
            return False
        try:
            with self._client.asking(name) as store:
                obstore.put(store, name, content, mode=version)
            return True
        except PreconditionError:
            return self.read(name) == content
        except ObjectStoreError:
            if self._holds(name, content):
                return True
            raise

    def write_root(self, fill: Callable[[Files], None]) -> None:
        """Make a new store. An interrupted creation leaves store.json, and generations without a chunk."""
        there = self._list("", deep=True)
        if any(not is_temporary(n) and n != "store.json" and not n.startswith("generations/") for n in there):
            raise FileExistsError(f"{self.location} is not empty")
        if any("/c/" in name for name in there):
            raise FileExistsError(
                f"{self.location} holds generations of fits, but no CURRENT; restore CURRENT from a copy, or name another place"
            )
        self._require_conditions()
        fill(self)

    def _require_conditions(self) -> None:
        probe = f"{TEMPORARY}probe-{unique()}"
        try:
            heeded = self.create(probe, b"first") and not self.create(probe, b"second")
            heeded = heeded and self.swap(probe, b"first", b"third") and not self._stale_swap(probe)
        finally:
            self.remove(probe)
        if not heeded:
            raise ObjectStoreError(
                f"{self.location}: this object store ignores If-None-Match or If-Match, without which writers overwrite "
                "each other; use one with conditional writes (AWS S3, MinIO, Ceph, Cloudflare R2), or a local folder"
            )

    def _stale_swap(self, name: str) -> bool:
        """Return whether a write succeeds that expects an ETag which is not the object's."""
        try:
            with self._client.asking(name) as store:
                obstore.put(store, name, b"fourth", mode={"e_tag": '"00000000000000000000000000000000"'})
        except PreconditionError:
            return False
        return True

    def claim(self, tree: str) -> bool:
        return self.create(_claim(tree), unique().encode())

    def stale_claims(self, older_than_s: float) -> list[str]:
        before = time.time() - older_than_s
        there = self._list("generations", deep=False)
        stems = [n.removesuffix(_CLAIM) for n, modified in there.items() if n.endswith(_CLAIM) and modified <= before]
        return sorted(f"generations/{stem}.zarr" for stem in stems if f"{stem}.json" not in there)

    def write_tree(self, tree: str, inventory: str, fill: Callable[[Put], bytes]) -> None:
        """Write the inventory last: readers ignore a tree without one."""
        with ThreadPoolExecutor(self.concurrency // 2) as pool:
            waiting: list[Future[None]] = []

            def put(name: str, content: bytes) -> None:
                # Uploads don't pile up in memory.
                if len(waiting) >= self.concurrency:
                    waiting.pop(0).result()
                waiting.append(pool.submit(self.write, f"{tree}/{name}", content))

            content = fill(put)
            for upload in waiting:
                upload.result()
        self.write(inventory, content)

    def remove_tree(self, tree: str, inventory: str) -> None:
        self.remove(inventory)  # now the tree is unfinished
        self.remove(*(f"{tree}/{name}" for name in self._list(tree, deep=True)))
        self.remove(_claim(tree))

    def remove(self, *names: str) -> None:
        if names:
            with self._client.asking(names[0]) as store:
                obstore.delete(store, list(names))

    def prune(self, folder: str) -> None:
        """Do nothing: there are no folders."""

    def sync(self) -> None:
        """Do nothing: what can be read is durable."""

    def leftovers(self, older_than_s: float) -> list[str]:
        before = time.time() - older_than_s
        return sorted(
            f"{folder}/{name}".lstrip("/")
            for folder in ("", "tags")
            for name, modified in self._list(folder, deep=False).items()
            if is_temporary(name) and modified <= before
        )

    def discard(self, leftover: str) -> None:
        self.remove(leftover)

    def exclusive(self) -> AbstractContextManager[None]:
        """Lock nothing: a lock could outlive its holder, or a holder its lock."""
        return nullcontext()

    def zarr_store(self) -> Any:
        from zarr.storage import ObjectStore

        with self._client.asking("") as store:
            return ObjectStore(store, read_only=True)

    def _get(self, name: str) -> tuple[bytes, Any]:
        """Return an object's content and what identifies its version."""
        with self._client.asking(name) as store:
            found = obstore.get(store, name)
            version = {key: found.meta[key] for key in ("e_tag", "version") if found.meta[key] is not None}
            return found.bytes().to_bytes(), version

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self.read(name) == content
        except OSError:
            return False

    def _list(self, folder: str, *, deep: bool) -> dict[str, float]:
        """Return names below a folder, relative to it, with the times of their last change. If not deep, return only names
        directly in it, folders with a '/' and no time."""
        names: dict[str, float] = {}
        with self._client.asking(folder) as store:
            if deep:
                entries = obstore.list(store, folder or None).collect()
            else:
                found = obstore.list_with_delimiter(store, folder or None)
                entries = found["objects"]
                names = {f"{name.rstrip('/')}/": 0.0 for name in found["common_prefixes"]}
        names |= {entry["path"]: entry["last_modified"].timestamp() for entry in entries}
        top = f"{folder}/" if folder else ""
        return {name.removeprefix(top): modified for name, modified in names.items()}


def _claim(tree: str) -> str:
    return tree.rpartition(".")[0] + _CLAIM
