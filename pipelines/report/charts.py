"""Charts as inline SVG: text stays text, and takes colour and font from the page."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from spin.evaluation.scores import METRICS

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

_INK = "#010203"  # replaced by the page's own text colour, which is dark or light
_BEFORE, _NOW = "#7fae62", "#2f86de"  # as the bodies in the pictures
_COLOURS = ("#2f86de", "#e8833a", "#2fa36b", "#b25fd0", "#d94f70", "#8b95a7")
_SIZE_IN = (5.2, 3.0)
_MOST_POINTS = 300  # of a curve: more can't be seen, and would enlarge a long run's page


@dataclass(frozen=True)
class Chart:
    """`text` describes the picture, for screen readers."""

    title: str
    svg: str
    text: str


def loss_histogram(dataset: str, before_px2: Float[np.ndarray, " n"] | None, now_px2: Float[np.ndarray, " m"]) -> Chart:
    """Return the distribution of a data set's losses; fits at or right of the dashed line don't supervise training."""
    shown = [a for a in (before_px2, now_px2) if a is not None and len(a)]
    low, high = min(a.min() for a in shown), max(a.max() for a in shown)
    bins = np.geomspace(max(low, 1e-3) * 0.9, max(high, 120.0) * 1.1, 41).tolist()
    with _axes() as (axes, result):
        if before_px2 is not None and len(before_px2):
            axes.hist(np.maximum(before_px2, bins[0]), bins, color=_BEFORE, alpha=0.55, label="before training")
        label = "now" if before_px2 is not None else "static and loop fits"
        axes.hist(np.maximum(now_px2, bins[0]), bins, color=_NOW, histtype="step", linewidth=1.8, label=label)
        axes.axvline(100.0, color=_INK, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_plain)
        axes.locator_params(axis="y", integer=True)
        axes.set_xlabel("loss of the fit, px²")
        axes.set_ylabel("samples")
        axes.legend()
    medians = ", ".join(f"{np.median(a):.3g}" for a in shown)
    return Chart(dataset, result[0], f"Histogram of fit losses of {dataset}; medians {medians} px²")


def training_curves(rows: list[dict[str, Any]]) -> list[Chart]:
    """Return charts of the loss, its terms, the shares of improved and of valid fits, and the time of a step."""
    columns = _thinned(_columns(rows))
    terms = _named(columns, "loss/", but="total")
    charts = [
        _lines("Total loss", columns, {"total": "loss/total"}, "loss"),
        _lines("Terms of the loss, unweighted", columns, terms, "loss", log=True),
        _lines("Fits of the batch", columns, _named(columns, "fits/"), "share", share=True),
        _stacked("Time of a step", columns, _named(columns, "seconds/")),
    ]
    return [chart for chart in charts if chart is not None]


def validation_curves(rows: list[dict[str, Any]]) -> list[Chart]:
    """Return charts of each data set's errors (mm) as measured by validation during the training."""
    columns = _thinned(_columns(rows))
    names = {}
    for name in columns:
        dataset, _, metric = name.rpartition("/")
        if metric in METRICS and METRICS[metric].unit == "mm":
            names[f"{dataset}, {METRICS[metric].label}"] = name
    chart = _lines("Measured during training", columns, names, "mm")
    return [chart] if chart is not None else []


def compared_curves(names: tuple[str, str], runs: tuple[list[dict[str, Any]], ...]) -> list[Chart]:
    """Return charts of two runs: the total loss, and the shares of improved and of valid fits."""
    merged: dict[str, np.ndarray] = {}
    for name, rows in zip(names, runs):
        merged |= {f"{name}|{column}": values for column, values in _thinned(_columns(rows)).items()}
    wanted = {
        "Total loss": ("loss/total", False),
        "Fits improved": ("fits/improved", True),
        "Fits valid": ("fits/valid", True),
    }
    out = []
    for title, (column, share) in wanted.items():
        labels = {name: f"{name}|{column}" for name in names}
        out.append(_lines(title, merged, labels, "share" if share else "loss", share=share))
    return [chart for chart in out if chart is not None]


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return numbers by name, in order of steps.

    A run resumed from an older checkpoint repeats steps: the later line counts.
    """
    latest = {row["step"]: row for row in rows if isinstance(row.get("step"), int)}
    ordered = [latest[step] for step in sorted(latest)]
    names = dict.fromkeys(name for row in ordered for name, value in row.items() if isinstance(value, (int, float)))
    return {name: np.array([row.get(name, np.nan) for row in ordered], float) for name in names}


def _thinned(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return means of neighbouring lines, so that at most `_MOST_POINTS` remain."""
    count = len(next(iter(columns.values()), ()))
    width = -(-count // _MOST_POINTS)
    if width <= 1:
        return columns
    starts = np.arange(0, count, width)
    sizes = np.diff(np.append(starts, count))
    return {name: np.add.reduceat(column, starts) / sizes for name, column in columns.items()}


def _named(columns: dict[str, np.ndarray], prefix: str, but: str = "") -> dict[str, str]:
    """Return label -> column, for columns of that prefix that are not all zero."""
    found = {name.removeprefix(prefix): name for name in columns if name.startswith(prefix)}
    return {label: name for label, name in found.items() if label != but and np.nan_to_num(columns[name]).any()}


def _lines(
    title: str,
    columns: dict[str, np.ndarray],
    names: dict[str, str],
    unit: str,
    *,
    log: bool = False,
    share: bool = False,
) -> Chart | None:
    names = {label: name for label, name in names.items() if name in columns}
    if not names:
        return None
    with _axes() as (axes, result):
        for colour, (label, name) in zip(_COLOURS, names.items()):
            # When two runs are compared, each has its own steps.
            steps = columns[f"{label}|step"] if f"{label}|step" in columns else columns["step"]
            axes.plot(
                steps,
                columns[name],
                color=colour,
                label=label,
                marker="o" if len(steps) < 30 else None,
                markersize=3,
                linewidth=1.6,
            )
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_plain)
        if share:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        if len(names) > 1 or share or unit == "mm":
            axes.legend()
    ends = "; ".join(f"{label} {columns[name][0]:.3g} to {columns[name][-1]:.3g}" for label, name in names.items())
    return Chart(title, result[0], f"{title} by step: {ends}")


def _stacked(title: str, columns: dict[str, np.ndarray], names: dict[str, str]) -> Chart | None:
    if not names:
        return None
    steps = columns["step"]
    values = np.nan_to_num(np.stack([columns[name] for name in names.values()]))
    if len(steps) == 1:  # an area needs two points
        steps, values = steps + np.array([-0.5, 0.5]), np.repeat(values, 2, 1)
    with _axes() as (axes, result):
        axes.stackplot(steps, values, labels=list(names), colors=_COLOURS, alpha=0.85)
        axes.set_xlabel("step")
        axes.set_ylabel("seconds")
        axes.set_ylim(0, max(float(values.sum(0).max()) * 1.25, 1e-6))
        axes.legend(ncols=3, loc="upper center")
    means = "; ".join(f"{label} {value:.3g} s" for label, value in zip(names, values.mean(1)))
    return Chart(title, result[0], f"{title}, on average: {means}")


def _plain(value: float, _: float) -> str:
    """Format a tick as plain text, where matplotlib's own powers of ten use markup."""
    return f"{value:g}"


_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "spin-pipe",  # ids, and with them the page, are the same for the same data
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@contextmanager
def _axes() -> Iterator[tuple[Axes, list[str]]]:
    """Yield axes to draw on, and a list that holds the SVG once the block ends."""
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    result: list[str] = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(_SIZE_IN, layout="constrained")
        yield figure.subplots(), result
        text = StringIO()
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    result.append(re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL))


@lru_cache(maxsize=1)
def _matplotlib() -> Any:
    """Import matplotlib, with its caches outside the user's home unless the user set a folder."""
    if "MPLCONFIGDIR" not in os.environ and "matplotlib" not in sys.modules:
        folder = tempfile.TemporaryDirectory(prefix="spin-pipe-matplotlib-")
        os.environ["MPLCONFIGDIR"] = folder.name
        _kept.append(folder)
    import matplotlib

    return matplotlib


_kept: list[Any] = []  # removed when the process ends
