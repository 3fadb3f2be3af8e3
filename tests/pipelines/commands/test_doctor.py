"""spin-pipe doctor: what it checks, and that it notices another package under one of this project's names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.inspection import doctor

ROOT = Path(__file__).parents[3]


def _doctor(before: list[Path], after: list[Path], data: Path) -> tuple[int, dict[str, dict[str, object]]]:
    code = (
        f"import sys; sys.path[:0] = {[str(p) for p in [*before, ROOT]]}; sys.path += {[str(p) for p in after]};"
        f"sys.argv = ['spin-pipe', 'doctor', '--no-ray', '--json', '--data', {str(data)!r}];"
        "from pipelines.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=data)
    assert ended.stdout, ended.stderr
    return ended.returncode, {check["name"]: check for check in json.loads(ended.stdout)}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    package = tmp_path / "foreign" / "spin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return package.parent


def test_a_sound_installation_passes(tmp_path: Path) -> None:
    code, checks = _doctor([], [], tmp_path)
    assert code == 0
    names = "Python packages spin store pipelines cores GPU memory disk body solver"
    assert list(checks) == names.split()
    assert all(check["ok"] for check in checks.values() if check["essential"])
    assert "open body" in str(checks["body"]["found"])


def test_a_foreign_spin_that_is_imported_is_essential(foreign: Path, tmp_path: Path) -> None:
    code, checks = _doctor([foreign], [], tmp_path)
    assert code == 1
    assert not checks["spin"]["ok"]
    assert "environment of its own" in str(checks["spin"]["remedy"])


def test_a_foreign_spin_that_is_hidden_is_reported(foreign: Path, tmp_path: Path) -> None:
    code, checks = _doctor([], [foreign], tmp_path)
    assert code == 0
    assert not checks["spin"]["ok"]
    assert str(foreign / "spin") in str(checks["spin"]["found"])


def test_a_package_that_is_too_old_falls_short(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=999.0", "no-such-package-here>=1", "ray[default]>=2.0", 'pytest>=999; extra == "dev"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: required)
    check = doctor._packages()
    assert not check.ok and check.essential
    assert "numpy" in check.found and "no-such-package-here is missing" in check.found
    assert "ray" not in check.found and "pytest" not in check.found


def test_too_little_memory_and_disk_fall_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "MIN_MEMORY_GB", 1e9)
    monkeypatch.setattr(doctor, "MIN_DISK_GB", 1e9)
    assert not doctor._memory().ok
    assert not doctor._disk(tmp_path / "not" / "yet").ok
