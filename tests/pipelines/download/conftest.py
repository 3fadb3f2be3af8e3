"""Two servers, and no proxy between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipelines.mirror import FILES, Mirror, serving


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    yield from serving(Mirror(dict(FILES)))


@pytest.fixture
def second() -> Iterator[Mirror]:
    yield from serving(Mirror(dict(FILES), etag='"2"'))
