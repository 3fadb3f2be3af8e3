"""The documentation site is built without a warning: links and anchors lead somewhere, and every page is in the navigation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spin

pytest.importorskip("mkdocs", reason="the documentation site needs the extra [docs]")
pytest.importorskip("material", reason="the documentation site needs the extra [docs]")
pytest.importorskip("mkdocstrings", reason="the documentation site needs the extra [docs]")

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_a_warning_and_shows_the_public_interface(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert built.returncode == 0, built.stderr[-4000:]
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in getattr(spin, "__all__", ()):
        assert f'id="spin.{name}"' in page, f"spin.{name} is not on the page of the Python interface"
    for source in (ROOT / "docs").glob("*.md"):
        name = "index.html" if source.stem == "index" else f"{source.stem}/index.html"
        assert (tmp_path / "site" / name).exists(), source
