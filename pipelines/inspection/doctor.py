"""Check what spin-pipe needs of a machine: each check passes or falls short, with a remedy.

Only the standard library is imported at the top: a package that is missing or foreign must be reported, not raised.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN_ENVIRONMENT = "install spin-pipe into an environment of its own (PyPI's `spin` is another program)"
MIN_MEMORY_GB = 4
MIN_DISK_GB = 2


@dataclass(frozen=True)
class Check:
    """One line of the report. An essential check that falls short makes the command fail."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    essential: bool = False


def examine(data: Path, *, ray: bool) -> list[Check]:
    """Return all checks, in the order in which they are printed."""
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("Python", _python),
        ("packages", _packages),
        *((name, lambda name=name: own_package(name)) for name in ("spin", "store", "pipelines")),
        ("cores", lambda: Check("cores", True, str(os.cpu_count() or 1))),
        ("GPU", _gpu),
        ("memory", _memory),
        ("disk", lambda: _disk(data)),
        ("body", lambda: _body(data)),
        ("solver", _solver),
    ]
    if ray:
        steps.append(("Ray", _ray))
    return [_guarded(name, step) for name, step in steps]


def _guarded(name: str, step: Callable[[], Check]) -> Check:
    try:
        return step()
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Check(name, False, f"{type(error).__name__}: {first}", "install spin-pipe again", True)


def _python() -> Check:
    needed = metadata.metadata("spin-pipe")["Requires-Python"] or ">=3.11"
    ok = sys.version_info[:2] >= _version(needed)[:2]
    return Check("Python", ok, f"{platform.python_version()} (needed: {needed})", "install a newer Python", True)


def _packages() -> Check:
    """Compare each installed package with the lower bound that this project declares."""
    wrong, count = [], 0
    for line in metadata.requires("spin-pipe") or []:
        if "extra ==" in line:
            continue
        name = re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]
        bound = re.search(r">=\s*([0-9.]+)", line)
        count += 1
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if bound and _version(found) < _version(bound[1]):
            wrong.append(f"{name} {found} is older than {bound[1]}")
    found = "; ".join(wrong) or f"all {count} are new enough"
    return Check("packages", not wrong, found, "run `pip install --upgrade spin-pipe` or reinstall", True)


def _version(text: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.findall(r"\d+", text.split("+")[0])[:3]]
    return (*numbers, 0, 0, 0)[:3]


def own_package(name: str) -> Check:
    """Report a foreign package of this name, whether it is imported instead of this project's or hidden by it."""
    spec = find_spec(name)
    origin = Path(spec.origin).parent if spec and spec.origin else None
    if origin is None or not _is_ours(origin):
        return Check(name, False, f"another package of this name is imported: {origin}", OWN_ENVIRONMENT, True)
    for entry in sys.path:
        other = Path(entry or ".").resolve() / name
        if (other / "__init__.py").exists() and not _is_ours(other):
            return Check(name, False, f"{origin}; it hides another package: {other}", OWN_ENVIRONMENT)
    return Check(name, True, str(origin))


def _is_ours(package: Path) -> bool:
    """Whether the folder is part of this project, be it another copy: the three packages are in one folder."""
    return package.parent.resolve() == ROOT or (
        (package.parent / "pipelines" / "inspection" / "doctor.py").exists() and (package.parent / "spin" / "fitting").is_dir()
    )


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("GPU", True, torch.cuda.get_device_name(0))
    return Check("GPU", True, "none; everything runs on the CPU")


def _memory() -> Check:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return Check("memory", total >= MIN_MEMORY_GB, f"{total:.1f} GB", f"have at least {MIN_MEMORY_GB} GB")


def _disk(data: Path) -> Check:
    folder = next(parent for parent in (data.resolve(), *data.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free / 1e9
    remedy = f"free at least {MIN_DISK_GB} GB, or choose another folder with --data"
    return Check("disk", free >= MIN_DISK_GB, f"{free:.1f} GB free in {folder}", remedy)


def _body(data: Path) -> Check:
    from pipelines.folders import DataFolder, which_body

    return Check("body", True, which_body(DataFolder(data, "")).removeprefix("body: "))


def _solver() -> Check:
    """Look for the machine code that numba keeps next to the solver, or in its cache folder."""
    import numba

    import spin.fitting.compiled as compiled

    folders = [Path(entry) / "__pycache__" for entry in compiled.__path__]
    cache = getattr(numba.config, "CACHE_DIR", "")
    folders += [Path(cache)] if cache else []
    found = next((folder for folder in folders if any(folder.rglob("*.nbi"))), None)
    if found:
        return Check("solver", True, f"compiled, in {found}")
    return Check("solver", False, "not compiled yet", "run any fit: the first one compiles it, in half a minute")


def _ray() -> Check:
    from pipelines.cluster.session import ray_session

    try:
        with ray_session(cpus=1):
            return Check("Ray", True, "starts on this machine")
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Check("Ray", False, f"does not start: {first}", "see docs/troubleshooting.md", True)
