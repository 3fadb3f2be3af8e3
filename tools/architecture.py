"""Draws docs/architecture.md's picture of the house from the code: folders, what they are for, and what they import.

    python -m tools.architecture [--write]

Without --write it prints the page's generated part; a test compares it with the page.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("spin", "store", "pipelines")
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- made by tools/architecture.py -->\n", "<!-- end -->\n"


def module_name(path: Path) -> str:
    """Return the dotted name of a module or package file of this project."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(rooms: tuple[str, ...] = ROOMS) -> dict[str, Path]:
    return {module_name(path): path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))}


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the project's modules that a module imports when it runs, anywhere in it; not those for types alone."""
    found: set[str] = set()
    for node in _run(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in known and name != module_name(path)}


def _run(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from _run(other)
            continue
        yield child
        yield from _run(child)


def import_graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports_of(path, known) for name, path in known.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of names that import each other in a circle (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                out.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return out


def boxes(graph: dict[str, set[str]], folder: str) -> dict[str, set[str]]:
    """Return the same graph between the modules and folders that are directly in `folder` (a dotted name)."""
    out: dict[str, set[str]] = defaultdict(set)
    prefix = f"{folder}."
    for name, others in graph.items():
        if name.startswith(prefix):
            box = name[len(prefix) :].split(".")[0]
            out[box] |= {other[len(prefix) :].split(".")[0] for other in others if other.startswith(prefix)} - {box}
    return dict(out)


def picture() -> str:
    """Return the generated part of the page: a table a room, each folder with its purpose and what it imports."""
    graph, known = import_graph(), modules()
    lines = []
    for room in ROOMS:
        doc = ast.get_docstring(ast.parse(known[room].read_text())) or ""
        lines += [f"### {room}/", "", doc.splitlines()[0], ""]
        lines += ["| part | what it is | imports of this room | other rooms |", "|---|---|---|---|"]
        inside = boxes(graph, room)
        for box in sorted(inside, key=lambda b: (known.get(f"{room}.{b}", ROOT).name != "__init__.py", b)):
            path = known[f"{room}.{box}"]
            about = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
            is_folder = path.name == "__init__.py"
            away: set[str] = set()
            for name, others in graph.items():
                if name == f"{room}.{box}" or name.startswith(f"{room}.{box}."):
                    away |= {other.split(".")[0] for other in others if not other.startswith(f"{room}.")}
            title = f"`{box}/`" if is_folder else f"`{box}.py`"
            lines.append(f"| {title} | {about} | {', '.join(sorted(inside[box]))} | {', '.join(sorted(away - {room}))} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of docs/architecture.md from the code.")
    parser.add_argument("--write", action="store_true", help="write it into the page")
    text = picture()
    if not parser.parse_args().write:
        print(text)
        return
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
