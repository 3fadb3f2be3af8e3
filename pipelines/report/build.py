"""The report's assembly: load the fits, draw the chosen people, write the page and a contact sheet."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipelines import journal
from pipelines.errors import StageError, UsageError
from pipelines.fits.doubt import EXPECTED_ERROR
from pipelines.fits.open import STATIC_TAG
from pipelines.folders import DataFolder, RunFolder
from pipelines.panels import SURROUNDINGS
from pipelines.report import charts, tables
from pipelines.report.columns import as_json, listed_rows, page_data
from pipelines.report.comparison import compare_runs
from pipelines.report.people import Drawing, Pictured, draw_people
from pipelines.report.samples import DatasetFits, choose, has_fit, load_dataset
from pipelines.report.sheet import contact_sheet
from pipelines.training.config import TrainConfig
from spin.body import BodyMesh, load_body
from spin.fitting.verdicts import DOUBTFUL_MM
from store.files.atomic import write_file

if TYPE_CHECKING:
    from spin.body import BodyData

_HERE = Path(__file__).parent
_SCRIPTS = ("fits.js", "drawing.js", "one_fit.js", "explorer.js")
SHEET_PANEL_PX = 240


@dataclass(frozen=True)
class ReportSummary:
    """`sheet` is None if nothing has a fit yet; `unreadable` lists images that are shown as a grey panel."""

    page: Path
    sheet: Path | None
    people: int
    size_bytes: int
    unreadable: list[str]


def build_report(
    data: DataFolder,
    run: RunFolder | None,
    *,
    datasets: list[str] | None,
    output: Path,
    samples: int = 12,
    rows: int = 20_000,
    before: str = STATIC_TAG,
    other: RunFolder | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReportSummary:
    """Write `output`, one self-contained HTML file, and next to it (.png) a contact sheet of some fits.

    `samples` people are pictured of each kind (see samples.KINDS, and people rejected); at most `rows` are listed, drawn
    from their joints where they are not pictured. Fits are compared with those of the tag `before`, the run with `other`.
    Data sets are the run's, or all that were preprocessed, unless given. Raise StageError if there are none, UsageError
    if `output` is named .png, and StoreError for annotations or fits that can't be read or don't belong to each other. An
    image that can't be read is shown as such.
    """
    if output.suffix == ".png":
        raise UsageError(
            f"{output}: the page is HTML, and the contact sheet is written to that name; expected a name ending in .html"
        )
    names = list(dict.fromkeys(datasets or _default_datasets(data, run)))
    body = load_body(data.body)
    sets = [load_dataset(data, name, body, before) for name in names]
    chosen = choose(sets, samples)
    drawing = Drawing(BodyMesh(body), _counter(chosen.count, progress))
    pictured = draw_people(drawing, sets, chosen)
    listed = listed_rows(sets, chosen, rows)
    content = page_data(sets, listed, chosen, body, before) | {"surroundings": SURROUNDINGS}
    html = _page(_content(data, run, other, sets, body) | _explorer(content, pictured))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, html.encode())
    sheet = _write_sheet(drawing.sheet, output.with_suffix(".png"))
    return ReportSummary(output, sheet, chosen.count, len(html.encode()), sorted(set(drawing.unreadable)))


def _default_datasets(data: DataFolder, run: RunFolder | None) -> list[str]:
    names = list(TrainConfig.load(run.config).datasets) if run is not None else data.known()
    if not names:
        raise StageError(f"{data.root}: no data set to report on; run `spin-pipe preprocess` to make one")
    return names


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return advance


def _write_sheet(pictures: list[np.ndarray], path: Path) -> Path | None:
    if not pictures:
        return None
    small = [cv2.resize(p, (SHEET_PANEL_PX, SHEET_PANEL_PX), interpolation=cv2.INTER_AREA) for p in pictures]
    _, encoded = cv2.imencode(".png", contact_sheet(small, columns=min(6, len(small)))[..., ::-1])
    write_file(path, encoded.tobytes())
    return path


def _explorer(content: dict[str, Any], pictured: Pictured) -> dict[str, Any]:
    """Return the data for the page's script, and the page's text about it."""
    from markupsafe import Markup

    pictures = [(f"pictures-{index}-{row}", Markup(as_json(images))) for (index, row), images in pictured.fits.items()]
    return {
        "data": Markup(as_json(content)),
        "pictures": pictures,
        "aside": pictured.aside,
        "before": content["before"],
        "listed": len(content["columns"]["sample"]),
        "in_mm": content["score"] == [EXPECTED_ERROR],
    }


def _content(
    data: DataFolder, run: RunFolder | None, other: RunFolder | None, sets: list[DatasetFits], body: BodyData
) -> dict[str, Any]:
    problems = [f"{item.name}: {problem}" for item in sets for problem in item.problems]
    evaluations = tables.read_evaluations(run, problems) if run is not None else []
    timings = tables.read_timings(data, run)
    metrics = journal.read(run.metrics) if run is not None else []
    validation = journal.read(run.validation) if run is not None else []
    histograms = [
        charts.loss_histogram(
            item.name,
            None if item.before is None else item.before.loss[has_fit(item.before)],
            item.now.loss[has_fit(item.now)],
        )
        for item in sets
        if item.now is not None and has_fit(item.now).any()
    ]
    return {
        "run": None if run is None else run.root.name,
        "body": body,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "sets": sets,
        "states": tables.fit_states(sets),
        "doubtful_mm": DOUBTFUL_MM,
        "histograms": histograms,
        "curves": charts.training_curves(metrics) + charts.validation_curves(validation),
        "evaluations": evaluations,
        "measured": tables.measured(evaluations),
        "protocols": tables.protocols(evaluations),
        "timings": timings,
        "total_seconds": sum(t.seconds for t in timings),
        "comparison": None if run is None or other is None else compare_runs(run, other, problems),
        "reasons": [(item.name, tables.rejection_reasons(item)) for item in sets],
        "problems": problems,
    }


def _page(content: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = tables.duration
    script = '"use strict";\n' + "\n".join((_HERE / name).read_text() for name in _SCRIPTS)
    # Only this script may run, even if a file name or a reason contains another, and nothing may be fetched.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        **content, css=Markup((_HERE / "page.css").read_text()), script=Markup(script), script_digest=digest
    )
