"""Which room may import which: the rule that keeps science, storage and running apart."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "spin": {"store", "pipelines", "tools", "ray", "zarr", "pyarrow", "click", "tensorboard"},
    "store": {"spin", "pipelines", "tools", "torch", "ray", "click", "tensorboard"},
    "pipelines": {"tools"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of everything a module imports, anywhere in it."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            out.add(node.module.split(".")[0])
    return out


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_only_what_they_may(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules, f"no modules in {room}"
    for module in modules:
        wrong = imported(module) & FORBIDDEN[room]
        assert not wrong, f"{module.relative_to(ROOT)} imports {sorted(wrong)}"


def test_relative_imports_are_not_used_to_leave_a_room() -> None:
    for room in FORBIDDEN:
        for module in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text())):
                assert not (isinstance(node, ast.ImportFrom) and node.level > 0), module


def test_the_rule_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from ray.train import report\n")
    assert imported(module) == {"ray"}
