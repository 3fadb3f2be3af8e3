"""Files written before the modules moved open, and give the answers they gave then (see written_before/make.py)."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import journal
from pipelines.evaluation.compare import compare_results
from pipelines.evaluation.result import read_result
from pipelines.fits.open import open_fits
from pipelines.fitting.assets import FittingFiles
from pipelines.folders import DataFolder, RunFolder
from pipelines.preprocessing.pack import made_for, open_crops
from pipelines.training.config import TrainConfig
from pipelines.training.preflight import require_same_fingerprints
from spin.body import load_body
from spin.network.checkpoints import (
    Checkpoint,
    load_backbone_weights,
    load_checkpoint,
    network_from_checkpoint,
)
from spin.network.hmr import HMR
from store.annotations.schema import ARRAYS, TEXTS
from store.annotations.table import Annotations
from store.exchange import read_fits_file, read_samples_file
from store.fits.records import COLUMNS, Fits
from store.fits.repair.verify import verify
from store.fits.store import FitStore

FOLDER = Path(__file__).parent / "written_before"
ANSWERS: dict[str, Any] = json.loads((FOLDER / "answers.json").read_text())
DATA, RUN = DataFolder(FOLDER / "data"), RunFolder(FOLDER / "logs" / "first")
EXCHANGED = [name.removeprefix("exchange/") for name in ANSWERS if name.startswith("exchange/")]
RESULTS = [name.removeprefix("results/") for name in ANSWERS if name.startswith("results/")]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "answers.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(FOLDER / ANSWERS["checkpoint"]["file"])


@pytest.fixture(scope="module")
def network(checkpoint: Checkpoint) -> HMR:
    return network_from_checkpoint(checkpoint, "the checkpoint").eval()


@pytest.fixture
def store(tmp_path: Path) -> FitStore:
    shutil.copytree(DATA.fits("world"), tmp_path / "world")
    return FitStore.open(tmp_path / "world")


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


def answered(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays under this name."""
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    assert found, f"no answers of {prefix}"
    return found


def require_fits(fits: Fits, expected: dict[str, np.ndarray]) -> None:
    assert set(expected) <= set(COLUMNS)
    for name, array in expected.items():
        assert same(getattr(fits, name), array), name


@pytest.mark.parametrize("name", ["world", "world-test", "views"])
def test_annotations(name: str, arrays: dict[str, np.ndarray]) -> None:
    known, expected = Annotations.read(DATA.annotations(name)), answered(arrays, f"annotations/{name}/")
    assert {"name": known.name, "content_hash": known.content_hash, "image_root": known.image_root} == {
        "name": name, **ANSWERS[f"annotations/{name}"],
    }  # fmt: skip
    assert set(expected) <= {*ARRAYS, *TEXTS}
    for column, array in expected.items():
        found = getattr(known, column)
        assert found == array.tolist() if column in TEXTS else same(found, array), column


def test_the_stores_state_and_tags(store: FitStore, arrays: dict[str, np.ndarray]) -> None:
    expected = ANSWERS["store"]
    assert store.tags() == expected["tags"]
    require_fits(store.fits, answered(arrays, "fits/now/"))
    assert store.summary() == expected["summaries"]["now"]
    for tag in store.tags():
        require_fits(store.at(tag).fits, answered(arrays, f"fits/{tag}/"))
        assert store.at(tag).summary() == expected["summaries"][tag]
    retracted = arrays["fits/now/epoch"] > 0
    assert retracted.sum() == 2 and (store.fits.source[retracted] == 0).sum() == 1


def test_the_stores_history_and_provenance(store: FitStore) -> None:
    expected = ANSWERS["store"]
    assert {str(code): name for code, name in store.runs.items()} == expected["runs"]
    assert len(expected["runs"]) > 1
    assert set(np.unique(store.fits.run).tolist()) - {0} <= set(store.runs)
    assert store.log() == expected["log"]
    assert store.fence("first") == expected["fence"]
    assert store.segments == expected["segments"] == 2
    assert verify(store.path).whole


def test_the_store_goes_on(store: FitStore, arrays: dict[str, np.ndarray]) -> None:
    store.compact()
    require_fits(FitStore.open(store.path).fits, answered(arrays, "fits/now/"))
    store.restore("static")
    require_fits(FitStore.open(store.path).fits, answered(arrays, "fits/static/"))
    assert verify(store.path).whole


def test_the_store_belongs_to_the_annotations_and_the_body() -> None:
    annotations = Annotations.read(DATA.annotations("world"))
    assert open_fits(DATA.fits("world"), load_body(DATA.body), annotations).samples == len(annotations)


def test_the_runs_files(arrays: dict[str, np.ndarray], checkpoint: Checkpoint) -> None:
    expected = ANSWERS["checkpoint"]
    assert RUN.latest_checkpoint() == FOLDER / expected["file"]
    for name in ("backbone", "epoch", "step", "batch_idx", "seed", "tag", "config"):
        assert getattr(checkpoint, name) == expected[name], name
    assert set(checkpoint.tag.values()) <= set(ANSWERS["store"]["tags"])
    for name, value in answered(arrays, "loop/").items():
        assert same(checkpoint.loop[name].numpy(), value), name
    assert [line["step"] for line in journal.read(RUN.metrics)] == [2, 4]
    assert journal.read(RUN.validation)[-1]["step"] == 4
    assert json.loads(RUN.best.read_text())["checkpoint"] == Path(expected["file"]).name


def test_the_runs_configuration(checkpoint: Checkpoint) -> None:
    config = TrainConfig.load(RUN.config)
    assert config.datasets == ("world",) and config.max_steps == 4 and config.backbone == "resnet18"
    written = json.loads(RUN.config.read_text())
    assert json.loads(json.dumps(asdict(config))) == written
    assert config.resumed({"max_steps": 8}).max_steps == 8
    files, annotations = FittingFiles.of(DATA, config.fitting), Annotations.read(DATA.annotations("world"))
    fingerprint = files.fingerprint(config.fitting.objective, annotations)
    assert fingerprint.to_json() == checkpoint.config["fingerprints"]["world"] == ANSWERS["store"]["fingerprint"]
    require_same_fingerprints(RUN, {"world": fingerprint})


def test_the_networks_weights(arrays: dict[str, np.ndarray], checkpoint: Checkpoint, network: HMR) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == ANSWERS["checkpoint"]["shapes"]
    for name, total in answered(arrays, "sums/").items():
        np.testing.assert_allclose(checkpoint.model[name].double().sum(), total, rtol=1e-9, atol=1e-9, err_msg=name)
    assert {f"{name}.weight" for name in ("conv1", "bn1")} <= set(load_backbone_weights(RUN.latest_checkpoint() or ""))


def test_the_networks_answers(arrays: dict[str, np.ndarray], network: HMR) -> None:
    with torch.no_grad():
        predicted = network(torch.linspace(-2, 2, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin())
    for name, expected in answered(arrays, "network/").items():
        # Convolutions round as the processor's kernels do.
        np.testing.assert_allclose(getattr(predicted, name), expected, atol=1e-4, rtol=1e-4, err_msg=name)


def test_the_optimisers_state(checkpoint: Checkpoint, network: HMR) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=1.0)
    assert checkpoint.optimizer is not None
    optimiser.load_state_dict(dict(checkpoint.optimizer))
    assert optimiser.param_groups[0]["lr"] == 1e-3
    assert {float(state["step"]) for state in optimiser.state.values()} == {4.0}


@pytest.mark.parametrize("name", RESULTS)
def test_results_and_their_cards(name: str) -> None:
    result, expected = read_result(FOLDER / "results" / f"{name}.json"), ANSWERS[f"results/{name}"]
    assert result.scores.metrics() == expected["metrics"]
    assert result.card == expected["card"]
    assert (result.images, result.rows.tolist()) == (expected["images"], expected["rows"])
    assert result.left_out == expected["left_out"]


def test_results_compare() -> None:
    paths = [FOLDER / "results" / name for name in ("network-world.json", "fits.json")]
    compared = compare_results(*paths, draws=100)
    found = {name: asdict(number) for name, number in compared.numbers.items()}
    assert json.loads(json.dumps(found)) == ANSWERS["compared"]


@pytest.mark.parametrize("name", EXCHANGED)
def test_exchanged_fits(name: str, arrays: dict[str, np.ndarray]) -> None:
    found = read_fits_file(FOLDER / "data" / "final_fits" / name)
    problems = {str(row): why for row, why in found.problems.items()}
    assert {"body": found.body, "problems": problems} == ANSWERS[f"exchange/{name}"]
    for column, array in answered(arrays, f"exchange/{name}/").items():
        assert same(getattr(found, column), array), column


def test_exchanged_annotations(arrays: dict[str, np.ndarray]) -> None:
    people = read_samples_file(FOLDER / "data" / "dataset_extras" / "world.npz")
    assert {"image": people.image, "body": people.body} == ANSWERS["people"]
    for column, array in answered(arrays, "people/").items():
        assert same(getattr(people, column), array), column


def test_packed_crops(arrays: dict[str, np.ndarray]) -> None:
    annotations, config = Annotations.read(DATA.annotations("world")), TrainConfig.load(RUN.config)
    crops = open_crops(DATA, "world", annotations, made_for(config.img_res, config.augmentation))
    assert crops is not None and len(crops) == len(annotations)
    found = {"summary": asdict(crops.summary), "annotations": crops.annotations, "problems": crops.problems}
    assert found == ANSWERS["crops"]
    for row in range(len(crops)):
        crop = crops.get(row)
        assert not isinstance(crop, str)
        assert bytes(crop.jpeg) == arrays[f"crops/{row}/jpeg"].tobytes()
        assert same(crop.from_image, arrays[f"crops/{row}/affine"])
