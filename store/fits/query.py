"""Expressions over records, such as "run == 'first' and (score > 80 or coverage < 0.3)": parsed, checked, never executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from store.errors import ExpressionError
from store.fits.records import COLUMNS, Fits, Solver, Source, StartKind, Verdict
from store.fits.runs import run_code

if TYPE_CHECKING:
    from jaxtyping import Bool

NAMES = ("sample", *(name for name, column in COLUMNS.items() if not column.width))
"""Names that an expression may use: the sample's number, and the record's columns of one number."""

_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_CODES = {"source": Source, "start": StartKind, "verdict": Verdict, "solver": Solver}


def matching(expression: str, fits: Fits) -> Bool[np.ndarray, "n"]:
    """Return which records have a fit and meet the expression: comparisons (also chained, and `in` with a tuple), and, or, not.

    Texts stand for codes: source == 'loop', run == 'first', time >= '2026-01-31' or '2026-01-31T12:00' (UTC).
    Raises ExpressionError.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(
            f"--where {expression!r}: not an expression; for example \"score > 80 and source == 'loop'\""
        ) from error
    found = _truth(tree, fits, expression)
    return np.broadcast_to(found, (len(fits),)) & (fits.source != int(Source.NONE))


def _truth(node: ast.AST, fits: Fits, text: str) -> Any:
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return join.reduce([_truth(value, fits, text) for value in node.values])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_truth(node.operand, fits, text)
    if not isinstance(node, ast.Compare):
        raise _unknown(node, text)
    sides = [node.left, *node.comparators]
    named = [side.id for side in sides if isinstance(side, ast.Name)]
    found: Any = np.ones(len(fits), bool)
    for left, relation, right in zip(sides, node.ops, sides[1:]):
        if isinstance(relation, (ast.In, ast.NotIn)) and isinstance(right, (ast.Tuple, ast.List)):
            values = [_value(item, named, fits, text) for item in right.elts]
            one = np.isin(_value(left, named, fits, text), values)
            found = found & (one if isinstance(relation, ast.In) else ~one)
        elif type(relation) in _COMPARE:
            pair = _value(left, named, fits, text), _value(right, named, fits, text)
            found = found & _COMPARE[type(relation)](*pair)
        else:
            raise _unknown(node, text)
    return found


def _value(node: ast.AST, named: list[str], fits: Fits, text: str) -> Any:
    if isinstance(node, ast.Name) and node.id in NAMES:
        return np.arange(len(fits)) if node.id == "sample" else getattr(fits, node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, named, fits, text)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(named) == 1:
        return _code(named[0], node.value, text)
    raise _unknown(node, text)


def _code(column: str, value: str, text: str) -> Any:
    if column == "run":
        return np.uint64(run_code(value))
    if column == "time":
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise ExpressionError(f"--where {text!r}: expected a date such as '2026-01-31', found {value!r}") from error
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    names = {member.name.lower(): int(member) for member in _CODES.get(column, ())}
    wanted = value.lower().replace(" ", "_")
    if wanted not in names:
        raise ExpressionError(f"--where {text!r}: {column} has no {value!r}; it has {', '.join(names) or 'numbers only'}")
    return names[wanted]


def _unknown(node: ast.AST, text: str) -> ExpressionError:
    part = ast.get_source_segment(text.strip(), node) or text
    return ExpressionError(
        f"--where {text!r}: can't use {part!r}; compare {', '.join(NAMES)} with numbers or texts, joined by and, or, not"
    )
