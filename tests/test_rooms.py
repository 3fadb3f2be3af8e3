"""Which room may import which: the rule that keeps science, storage and running apart."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tools.architecture import BEGIN, END, PAGE, boxes, circles, import_graph, modules, picture

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "spin": {
        "store",
        "pipelines",
        "tools",
        "experiments",
        "examples",
        "ray",
        "zarr",
        "pyarrow",
        "click",
        "tensorboard",
    },
    "store": {
        "spin",
        "pipelines",
        "tools",
        "experiments",
        "examples",
        "torch",
        "ray",
        "click",
        "tensorboard",
    },
    "pipelines": {"tools", "experiments", "examples"},
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


MOST_MODULES = 15
MOST_BOXES = {"pipelines": 25, "store": 20, "spin": 20}


def test_nothing_imports_itself_in_a_circle() -> None:
    graph = import_graph()
    assert circles(graph) == []
    folders = {name.rpartition(".")[0] for name in graph} - {""}
    found = {folder: circles(boxes(graph, folder)) for folder in sorted(folders)}
    assert {folder: groups for folder, groups in found.items() if groups} == {}


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert boxes({"r.a.x": {"r.b", "r.a.y"}, "r.b": {"o.z"}}, "r") == {"a": {"b"}, "b": set()}


def test_no_folder_is_crowded() -> None:
    counts = Counter(path.parent for path in modules().values() if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MOST_MODULES} == {}
    for room, most in MOST_BOXES.items():
        assert len(boxes(import_graph(), room)) <= most, room


def test_every_module_says_what_it_is() -> None:
    silent = [name for name, path in modules().items() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_the_page_of_the_house_is_up_to_date() -> None:
    """`python -m tools.architecture --write` makes it so."""
    drawn = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert drawn.strip() == picture().strip()
