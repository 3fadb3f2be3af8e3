"""Processes of a run, found as Linux has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def processes_of(session: int) -> dict[int, str]:
    """Command lines of a session's processes, by pid."""
    return _found(lambda pid: os.getsid(pid) == session)


def descendants_of(ancestor: int) -> dict[int, str]:
    """Command lines of the processes that a process has started, and those of theirs, by pid."""
    return _found(lambda pid: _descends(pid, ancestor))


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


def _found(wanted: Callable[[int], bool]) -> dict[int, str]:
    out = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted(int(entry.name)):
                    out[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return out
