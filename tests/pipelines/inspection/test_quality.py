"""What is said of a data set's fits: every sample is counted once, absence is empty, codes mean what the fitter means."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.errors import StageError
from pipelines.exchange.export import export_fits, valid_fits
from pipelines.fitting.assets import FittingFiles
from pipelines.folders import DataFolder, which_body
from pipelines.inspection import quality
from pipelines.inspection.info import dataset_info, dataset_lines, sample_info
from pipelines.inspection.quality import CSV_COLUMNS, as_text, measure_quality, write_csv
from pipelines.rejections import NOT_FITTED
from spin.fitting import verdicts
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES
from spin.fitting.starts import START_KINDS
from store.annotations.table import Annotations
from store.errors import FingerprintMismatchError, TagNotFoundError
from store.fits.records import Fits, Source, StartKind, Verdict
from store.fits.store import FitStore

# Of the samples that have a fit, 0 to 5; 6 was rejected, 7 not tried yet.
LOSSES = np.array([1.0, 2.1, 3.0, 4.0, 140.0, 20.0], np.float32)
STARTS = [StartKind.LIFTER, StartKind.LIFTER, StartKind.LIFTER, StartKind.MULTISTART, 0, StartKind.NETWORK]
VERDICTS = [Verdict.VALID] * 4 + [Verdict.LOSS_TOO_HIGH, Verdict.NOT_CONVERGED]
SAMPLES = 8


def make_fits() -> Fits:
    count = len(LOSSES)
    return replace(
        Fits.empty(count),
        camera=np.tile(np.float32([0, 0, 40]), (count, 1)),
        loss=LOSSES,
        score=LOSSES * 10,
        source=np.array([Source.STATIC] * 5 + [Source.LOOP], np.uint8),
        start=np.array(STARTS, np.uint8),
        verdict=np.array(VERDICTS, np.uint8),
        iterations=np.arange(count, dtype=np.uint16) + 7,
        coverage=np.linspace(0.5, 1, count).astype(np.float32),
        prior_cost=LOSSES / 3,
        step=np.array([0] * 5 + [256]),
        improvements=np.array([0] * 5 + [2], np.uint32),
    )


@dataclass(frozen=True)
class World:
    data: DataFolder
    store: FitStore

    def measured(self, tag: str | None = None) -> quality.Quality:
        return measure_quality(self.data, "people", tag=tag)


def write_annotations(data: DataFolder, name: str = "people") -> Annotations:
    keypoints = np.zeros((SAMPLES, 49, 3), np.float32)
    keypoints[:, 25:, 2] = 1
    annotations = Annotations(
        name=name,
        image_root="/images",
        image=[f"{row}, größer.jpg" for row in range(SAMPLES)],
        center_px=np.full((SAMPLES, 2), 150, np.float32),
        scale=np.ones(SAMPLES, np.float32),
        keypoints_px=keypoints,
        source=[f'person "{row}"' for row in range(SAMPLES)],
        openpose_match=[""] * SAMPLES,
    )
    annotations.write(data.annotations(name))
    return annotations


PUBLISHED = FitConfig(objective=OBJECTIVES["published"], init=("multistart",))


def empty_world(root: Path, config: FitConfig = PUBLISHED) -> World:
    data = DataFolder(root)
    annotations = write_annotations(data)
    fingerprint = FittingFiles.of(data, config).fingerprint(config.objective, annotations)
    return World(data, FitStore.create(data.fits("people"), samples=SAMPLES, fingerprint=fingerprint))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = empty_world(tmp_path / "data")
    made.store.merge(np.arange(4), make_fits().take(slice(4)))
    made.store.tag("static")
    made.store.merge(np.arange(len(LOSSES)), make_fits())
    made.store.flush()
    # 0 was rejected once and has a fit by now.
    rejected = [{"sample": 6, "reason": "too few joints"}, {"sample": 0, "reason": "of another time"}]
    made.data.rejected_fits("people").write_text(json.dumps({"tried": "x", "rejected": rejected}))
    return made


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_table_counts_every_sample_once(world: World) -> None:
    lines = words(as_text(world.measured()))
    assert lines[:7] == [
        "people: 8 samples, fits as they are now",
        "4 50.0% valid",
        "1 12.5% loss of 100 px² or more",
        "1 12.5% not converged",
        "2 25.0% without a fit",
        "1 too few joints",
        f"1 {NOT_FITTED}",
    ]
    assert lines[7] == "of the 6 fits 5% 50% 95%"
    assert lines[-1] == "best start: lifter 3, multistart 1, unknown 1, network 1"
    assert max(map(len, as_text(world.measured()).splitlines())) < 110


def test_percentiles_are_those_of_the_samples_with_a_fit(world: World) -> None:
    found = {line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:] for line in as_text(world.measured()).splitlines()}
    fits = make_fits()
    for name, values in {
        "loss (px²)": fits.loss,
        "score (reprojection-loss)": fits.score,
        "coverage (0 to 1)": fits.coverage,
        "prior cost (px²)": fits.prior_cost,
        "iterations": fits.iterations,
    }.items():
        expected = np.percentile(values.astype(np.float64), (5, 50, 95))
        assert found[name] == [f"{value:.4g}" for value in expected], name


@pytest.fixture
def in_mm(tmp_path: Path) -> World:
    """Scores are expected errors: of the four valid fits two are doubtful, one by little; of the others none."""
    made = empty_world(tmp_path / "data", FitConfig())
    scores = np.float32([60, 100.5, 100, 223, 400, 300])
    made.store.merge(np.arange(len(LOSSES)), replace(make_fits(), score=scores))
    made.store.flush()
    return made


def test_valid_fits_of_a_high_expected_error_are_counted_as_doubtful(in_mm: World, tmp_path: Path) -> None:
    measured = in_mm.measured()
    assert words(as_text(measured))[1:4] == [
        "4 50.0% valid",
        "2 of these doubtful, with an expected error above 100 mm",
        "1 12.5% loss of 100 px² or more",
    ]
    write_csv(measured, tmp_path / "people.csv")
    rows = list(csv.DictReader((tmp_path / "people.csv").open(encoding="utf-8", newline="")))
    assert [row["doubtful"] for row in rows] == ["0", "1", "0", "1", "0", "0", "", ""]
    assert [row["verdict"] for row in rows[:4]] == ["valid"] * 4
    found = dataset_info(in_mm.data, "people")
    assert (found.valid, found.doubtful) == (4, 2)
    assert "4 valid (50%), 2 of these doubtful" in "\n".join(dataset_lines(found))
    assert sample_info(in_mm.data, "people", 3)["fit"]["verdict"] == "doubtful: valid, but with an expected error above 100 mm"
    assert sample_info(in_mm.data, "people", 2)["fit"]["verdict"] == "valid"


def test_a_doubtful_fit_is_exported_as_the_valid_one_that_it_is(in_mm: World, tmp_path: Path) -> None:
    done = export_fits(in_mm.data, "people", tmp_path / "people.npz")
    assert (done.valid, done.doubtful) == (4, 2)
    with np.load(tmp_path / "people.npz") as content:
        assert content["valid_fit"].tolist() == [True] * 4 + [False] * 4


def test_scores_that_are_not_in_mm_tell_of_no_doubt(world: World) -> None:
    assert world.measured().doubtful is None
    assert "doubtful" not in as_text(world.measured())
    assert dataset_info(world.data, "people").doubtful == 0


def test_a_tagged_state_is_measured(world: World) -> None:
    lines = words(as_text(world.measured("static")))
    assert lines[0] == "people: 8 samples, fits as of 'static'"
    assert lines[1:3] == ["4 50.0% valid", "4 50.0% without a fit"]
    with pytest.raises(TagNotFoundError, match="its tags: static"):
        world.measured("never")


def test_a_row_for_each_sample_with_nothing_where_nothing_is_known(world: World, tmp_path: Path) -> None:
    path = tmp_path / "out" / "people.csv"
    write_csv(world.measured(), path)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == CSV_COLUMNS and len(rows) == SAMPLES
    assert rows[1] == [
        "1", "1, größer.jpg", 'person "1"', "static", "lifter", "valid",
        "2.1", "21.0", "0.6", "0.7", "8", "0", "0", "",
    ]  # fmt: skip
    assert rows[4][3:7] == ["static", "unknown", "loss of 100 px² or more", "140.0"]
    assert rows[5][3:6] == ["loop", "network", "not converged"] and rows[5][-3:] == ["256", "2", ""]
    nothing = [""] * 8
    assert rows[6][3:] == ["none", "", "too few joints", *nothing]
    assert rows[7][3:] == ["none", "", NOT_FITTED, *nothing]
    assert [path.name for path in path.parent.iterdir()] == ["people.csv"]


def test_a_table_that_is_not_finished_leaves_the_one_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "people.csv"
    write_csv(world.measured(), path)
    before = path.read_bytes()

    def stops(measured: quality.Quality):
        yield ("half a table",)
        raise KeyboardInterrupt

    monkeypatch.setattr(quality, "_csv_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        write_csv(world.measured(), path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("store", ["no store", "an empty store"])
def test_without_fits_the_error_says_what_to_run(store: str, tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    if store == "no store":
        write_annotations(data)
    else:
        empty_world(data.root)
    with pytest.raises(StageError, match=r"data set people: no fits .*`spin-pipe fit-static people`") as caught:
        measure_quality(data, "people")
    assert "\n" not in str(caught.value)


def test_where_all_were_refused_the_reasons_are_shown(tmp_path: Path) -> None:
    world = empty_world(tmp_path / "data")
    rejected = [{"sample": row, "reason": "too few joints"} for row in range(SAMPLES)]
    world.data.rejected_fits("people").write_text(json.dumps({"tried": "x", "rejected": rejected}))
    assert words(as_text(world.measured()))[1:] == [
        "0 0.0% valid", "8 100.0% without a fit", "8 too few joints",
    ]  # fmt: skip


def test_a_damaged_list_of_reasons_is_said(world: World) -> None:
    world.data.rejected_fits("people").write_text("{")
    lines = words(as_text(world.measured()))
    assert f"2 {NOT_FITTED}" in lines
    assert lines[-1].startswith("people.rejected.json: can't be read")


def test_fits_of_other_annotations_are_rejected(world: World) -> None:
    path = world.data.annotations("people")
    Annotations.read(path).take(np.arange(SAMPLES)[::-1]).write(path)
    with pytest.raises(FingerprintMismatchError, match="annotations"):
        world.measured()


def test_the_command(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spin-pipe", "quality", *arguments, "--data", str(world.data.root)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    table = tmp_path / "people.csv"
    assert run("--csv", str(table)) == (
        0, as_text(world.measured()) + "\n", f"{which_body(world.data)}\n{table}: {SAMPLES} samples\n",
    )  # fmt: skip
    assert len(table.read_text().splitlines()) == SAMPLES + 1
    code, out, err = run("people", "--tag", "never")
    assert (code, out, len(err.splitlines())) == (1, "", 2) and "no tag 'never'" in err
    write_annotations(world.data, "others")
    code, _, err = run("others", "people", "--csv", str(table))
    assert code == 2 and "one DATASET" in err
    code, out, err = run("people", "others")
    assert code == 1 and out.startswith("people: 8 samples") and "`spin-pipe fit-static others`" in err


def test_the_stores_codes_are_the_fitters() -> None:
    assert {name: int(verdict) for name, verdict in Verdict.__members__.items()} == {
        name: getattr(verdicts, name) for name in Verdict.__members__
    }
    assert sorted(Verdict) == sorted(verdicts.KEPT), "every fit that is kept has a code, and no other"
    assert [kind.name.lower() for kind in StartKind] == ["unknown", *START_KINDS]
    assert [int(kind) for kind in StartKind] == list(range(len(START_KINDS) + 1))


def test_only_what_was_found_valid_is_exported_as_valid(world: World, tmp_path: Path) -> None:
    done = export_fits(world.data, "people", tmp_path / "people.npz")
    assert (done.samples, done.valid, done.without_fit) == (SAMPLES, 4, 2)
    with np.load(tmp_path / "people.npz") as content:
        assert content["valid_fit"].tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({}, True),
        ({"verdict": np.uint8([Verdict.NOT_CONVERGED])}, False),
        ({"verdict": np.uint8([Verdict.LOSS_TOO_HIGH])}, False),
        ({"loss": np.float32([verdicts.ACCEPT_LOSS])}, False),
        ({"betas": np.full((1, 10), 3.5, np.float32)}, False),
        ({"source": np.uint8([Source.NONE])}, False),
    ],
)
def test_a_valid_fit_is_one_by_its_verdict_and_by_its_numbers(changes: dict, valid: bool) -> None:
    assert valid_fits(replace(make_fits().take(slice(1)), **changes)).tolist() == [valid]
