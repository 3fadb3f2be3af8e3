"""A report as a browser would read it: its tags, text, scripts and data."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

from report_world import World

from pipelines.folders import RunFolder
from pipelines.report import ReportSummary


class Page(HTMLParser):
    """Collect what a browser would read in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.source = ""

    @classmethod
    def of(cls, source: str) -> Page:
        page = cls()
        page.source = source
        page.feed(source)
        return page

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        self.inside.append("")

    def handle_data(self, data):
        if self.inside and self.inside[-1] == "script":
            attributes = self.tags[-1][1]
            if attributes.get("type") == "application/json":
                self.data[str(attributes["id"])] = json.loads(data)
            else:
                self.scripts.append(data)
        elif data.strip():
            self.text.append(" ".join(data.split()))

    def images(self) -> dict[str, list[str]]:
        """Return the addresses of pictures, by where they are: in the page itself, or in the data of a sample."""
        found = {name: list(pictures.values()) for name, pictures in self.data.items() if name != "data"}
        shown = [str(a["src"]) for tag, a in self.tags if tag == "img" and a.get("src") and a["alt"]]
        return found | {"page": shown}

    @property
    def fits(self) -> dict[str, list[Any]]:
        """Return the columns of the page's data."""
        return self.data["data"]["columns"]

    @property
    def words(self) -> str:
        return " ".join(self.text)


def build(world: World, run: RunFolder | None, **options: Any) -> tuple[ReportSummary, Page]:
    summary = world.build(run, **options)
    return summary, Page.of(summary.page.read_text())
