"""The charts and tables of a report, and the choice of its samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from report_page import build
from report_world import metrics

from pipelines.report import charts, tables
from pipelines.report.samples import one_of_each


def test_every_reason_is_shown_before_one_is_shown_twice():
    reasons = ["a", "a", "b", "a", "c", "b"]
    assert one_of_each(reasons, 3) == [0, 2, 4]
    assert one_of_each(reasons, 5) == [0, 2, 4, 1, 5]
    assert one_of_each(reasons, 99) == [0, 2, 4, 1, 5, 3]


def test_resumed_steps_count_once_and_long_runs_are_thinned():
    twice = [metrics(10), metrics(20), metrics(20) | {"loss/total": 0.125}, metrics(30)]
    total = charts.training_curves(twice)[0]
    assert "0.8 to 0.267" in total.text
    assert charts._columns(twice)["loss/total"].tolist() == [0.8, 0.125, 8 / 30]
    long = charts._thinned(charts._columns([metrics(i + 1) for i in range(10_001)]))
    assert all(len(column) <= 300 for column in long.values())
    assert abs(long["step"][0] - 17.5) < 1e-9  # the mean of steps 1 to 34


@pytest.mark.parametrize("count", [1, 2, 50])
def test_charts_are_text_in_the_pages_colour(count):
    for chart in charts.training_curves([metrics(i + 1) for i in range(count)]):
        assert chart.svg.startswith("<svg")
        assert "<text" in chart.svg
        assert "currentColor" in chart.svg
        assert "$" not in chart.svg  # no markup of matplotlib's instead of numbers
        assert "nan" not in chart.svg.lower()
    assert not charts.training_curves([{"step": 1}])


def test_validation_is_a_curve_for_each_error(world):
    rows = [{"step": s, "a/pa_mpjpe_mm": 90.0 - s, "b/pa_mpjpe_mm": 50.0, "a/mask_f1": 0.5} for s in (10, 20)]
    (chart,) = charts.validation_curves(rows)
    assert chart.text == "Measured during training by step: a, PA-MPJPE 80 to 70; b, PA-MPJPE 50 to 50"
    assert charts.validation_curves([]) == []
    world.run.validation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "Measured during training" in build(world, world.run)[1].words


def test_terms_that_are_never_used_have_no_curve():
    terms = charts.training_curves([metrics(1), metrics(2)])[1]
    assert "keypoints" in terms.text
    assert "shape" not in terms.text


def test_histogram_takes_any_loss():
    for losses in ([0.0], [1e-9, 5e6], [100.0] * 4):
        chart = charts.loss_histogram("d", None, np.array(losses, np.float32))
        assert "<svg" in chart.svg


def test_durations():
    assert [tables.duration(s) for s in (0.04, 59.94, 60, 3599.6, 7384)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 03 min",
    ]


def test_the_users_home_is_left_alone(tmp_path):
    code = "import numpy as np; from pipelines.report import charts; charts.loss_histogram('d', None, np.ones(3, np.float32))"
    environment = {k: v for k, v in os.environ.items() if k != "MPLCONFIGDIR" and not k.startswith("XDG_")}
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())
