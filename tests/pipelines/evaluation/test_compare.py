"""Comparing two results: what is comparable, intervals, and damaged files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipelines.evaluation.compare
from pipelines.errors import StageError
from pipelines.evaluation.compare import as_json, compare_results
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.result import Result, per_sequence, read_result
from pipelines.evaluation.subjects import checkpoint_subject
from pipelines.folders import DataFolder
from pipelines.readers.formats.image_names import sequence_of
from spin.evaluation.protocols import PROTOCOLS
from tests.pipelines.evaluation.measured import CONFIG


def test_results_of_one_protocol_are_compared(results: list[Path]) -> None:
    found = compare_results(*results, seed=1, draws=200)
    assert (found.paired, found.resampled, found.differing) == (True, "sequences", {})
    first, second = (read_result(path) for path in results)
    number = found.numbers["mpjpe_mm"]
    assert number.difference.value == pytest.approx(second.scores.metrics()["mpjpe_mm"] - first.scores.metrics()["mpjpe_mm"])
    assert number.difference.low <= number.difference.value <= number.difference.high
    content = as_json(found)
    assert json.loads(json.dumps(content)) == content
    assert content == as_json(compare_results(*results, seed=1, draws=200))
    assert sum(entry["samples"] for entry in content["sequences"][0]) == first.scores.count
    worst = content["changes"][0]
    assert worst["second"] - worst["first"] == pytest.approx(
        (second.scores.pose.pa_mpjpe_mm - first.scores.pose.pa_mpjpe_mm).max()  # type: ignore[union-attr]
    )
    same = compare_results(results[0], results[0], by="frames", draws=200)
    assert same.numbers["mpjpe_mm"].difference.high == 0


def test_a_single_frame_says_nothing_about_chance(results: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.evaluation.compare, "read_result", lambda path: _first(read_result(path)))
    with pytest.raises(StageError, match="only one frame to resample; expected at least two"):
        compare_results(*results, draws=200)


def _first(result: Result) -> Result:
    return replace(result, rows=result.rows[:1], images=result.images[:1], scores=result.scores.take(np.array([0])))


def test_the_npz_may_lie_in_another_folder(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    output, npz = tmp_path / "run" / "r.json", tmp_path / "else where" / "r.npz"
    evaluate(data, "3dpw", checkpoint_subject(folder / "net0.pt"), output, npz=npz, config=CONFIG)
    assert read_result(output).scores.count > 0


def test_several_people_in_an_image_are_no_recording(results: list[Path]) -> None:
    result = read_result(results[0])
    pairs = [f"{i // 2}.jpg" for i in range(result.scores.count)]
    assert per_sequence(result)
    assert per_sequence(replace(result, images=pairs)) == []


def test_results_of_two_protocols_are_not_compared_unless_asked(
    data: DataFolder, folder: Path, results: list[Path], tmp_path: Path
) -> None:
    config = replace(CONFIG, protocol=PROTOCOLS["mpi-inf-3dhp-valid"], limit=4)
    evaluate(data, "3dpw", checkpoint_subject(folder / "net1.pt"), tmp_path / "other.json", config=config)
    with pytest.raises(StageError, match=r"not comparable.*protocol: 3dpw against.*frames:.*joints:.*--anyway") as error:
        compare_results(results[0], tmp_path / "other.json")
    assert "body" not in str(error.value).split("joints:")[0]
    found = compare_results(results[0], tmp_path / "other.json", anyway=True, draws=200)
    assert set(found.differing) == {"protocol", "frames", "boxes", "truth", "joints", "true joints"}
    assert found.paired  # on the frames that both have
    assert found.first.scores.count == found.second.scores.count == 4


def test_results_that_were_taken_apart_or_damaged_are_refused(results: list[Path], tmp_path: Path) -> None:
    content = json.loads(results[0].read_text())
    cases = {
        "not JSON": "{",
        "not a result of": json.dumps({"mpjpe_mm": 1.0}),
        "version 9, expected 1": json.dumps(content | {"version": 9}),
        "its gone.npz is missing": json.dumps(content | {"npz": "gone.npz"}),
        "does not belong to it or is damaged": json.dumps(content | {"samples": 3}),
    }
    for message, text in cases.items():
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(StageError, match=message):
            compare_results(results[0], tmp_path / "bad.json")
    with pytest.raises(StageError, match="no such file"):
        compare_results(results[0], tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("image", "sequence"),
    [
        ("imageFiles/downtown_arguing_00/image_00012.jpg", "imageFiles/downtown_arguing_00"),
        ("images/S9_Directions_1.54138969_000001.jpg", "images/S9_Directions_1.54138969"),
        ("mpi_inf_3dhp_test_set/TS1/imageSequence/img_000001.jpg", "mpi_inf_3dhp_test_set/TS1/imageSequence"),
        ("images/im1001.jpg", "images/im1001.jpg"),
        ("val2014/COCO_val2014_000000000042.jpg", "val2014/COCO_val2014_000000000042.jpg"),
    ],
)
def test_recordings_are_told_by_their_images(image: str, sequence: str) -> None:
    assert sequence_of(image) == sequence
