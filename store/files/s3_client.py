"""A client of an object store with S3's interface: where it finds its keys, how long it retries, and its error messages."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from store.errors import ObjectStoreAccessError, ObjectStoreError
from store.files.base import inside

if TYPE_CHECKING:
    from obstore.store import RetryConfig

# How often a request that fails is repeated, at growing intervals: for about 40 s once the store has answered, but less
# before that, when the address may be mistyped.
_FIRST_RETRIES, _RETRIES = 3, 10
_FIRST_BACKOFF, _LONGEST_BACKOFF = timedelta(seconds=0.1), timedelta(seconds=10)
_TIMEOUT = timedelta(seconds=120)  # of one request: a chunk has up to 19 MB

# Sources of credentials besides the files of `aws configure`: obstore reads them by itself.
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
_ROLES = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_IN_FILE = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_NO_CREDENTIALS = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class ObjectClient:
    """A bucket's prefix for obstore's functions. Turns their errors into those of this package."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.location = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket, self._prefix = bucket, prefix
        self._store = self._connect(_FIRST_RETRIES)
        self._answered = False

    @contextmanager
    def asking(self, name: str) -> Iterator[S3Store]:
        """Errors that answer a condition (AlreadyExistsError, PreconditionError) stay unchanged.

        Raises FileNotFoundError, ObjectStoreError, ObjectStoreAccessError.
        """
        inside(name, self.location)
        try:
            yield self._store
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, FileNotFoundError) as error:
            raise self._ours(error, f"{self.location}/{name}") from error
        if not self._answered:
            self._answered, self._store = True, self._connect(_RETRIES)

    def _connect(self, retries: int) -> S3Store:
        settings = from_files(os.environ)
        named = any(os.environ.get(name) for name in (*_KEYS, *_ROLES)) or "access_key_id" in settings
        if not named and os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            raise ObjectStoreAccessError(f"{self.location}: {_NO_CREDENTIALS}")
        retry: RetryConfig = {
            "max_retries": retries,
            "retry_timeout": _TIMEOUT,
            "backoff": {"init_backoff": _FIRST_BACKOFF, "max_backoff": _LONGEST_BACKOFF, "base": 2},
        }
        try:
            return S3Store(
                self._bucket,
                prefix=self._prefix or None,
                config=settings,  # type: ignore[arg-type]
                client_options={"allow_http": _endpoint().startswith("http://"), "timeout": _TIMEOUT},
                retry_config=retry,
            )
        except BaseError as error:
            raise ObjectStoreAccessError(
                f"{self.location}: the settings in AWS_… and of `aws configure` are not enough ({_first_line(error)})"
            ) from error

    def _ours(self, error: Exception, place: str) -> OSError:
        text = str(error)
        code = re.search(r"<Code>(\w+)</Code>", text)
        if "NoSuchBucket" in text:
            return ObjectStoreError(f"{place}: {_endpoint()} has no bucket {self._bucket!r}; create it, or correct the name")
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(2, "no such object", place)
        if "/latest/api/token" in text or "/latest/meta-data" in text:
            return ObjectStoreAccessError(f"{place}: {_NO_CREDENTIALS}")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
            return ObjectStoreAccessError(
                f"{place}: {_endpoint()} denies access{f' ({code[1]})' if code else ''}; these credentials must be allowed "
                "to list the bucket and to read, write and delete objects"
            )
        if "redirect" in text.lower():
            return ObjectStoreError(f"{place}: the bucket is in another region; set AWS_REGION to it")
        reason = code[1] if code else _first_line(error)
        return ObjectStoreError(
            f"{place}: {_endpoint()} does not answer as expected ({reason}); look at AWS_ENDPOINT_URL and the network, "
            "and run the same command again"
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rpartition(" - ")[2].removeprefix("Generic S3 error: ").strip()


def from_files(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the files of `aws configure` set and the environment doesn't: keys and region, under obstore's names."""
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
    found: dict[str, str] = {}
    if not any(environment.get(name) for name in _KEYS):
        keys = _section(environment.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", profile)
        found = {ours: keys[theirs] for theirs, ours in _IN_FILE.items() if theirs in keys}
    if not (environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")):
        name = profile if profile == "default" else f"profile {profile}"
        region = _section(environment.get("AWS_CONFIG_FILE") or "~/.aws/config", name).get("region")
        found |= {"region": region} if region else {}
    return found


def _section(path: str, name: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path(path).expanduser())
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}
    return parser[name] if parser.has_section(name) else {}


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS S3"
