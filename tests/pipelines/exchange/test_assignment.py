"""Bodies of files that name no one: each goes to its own person, or to none, and that is reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.commands.fitting import _given
from pipelines.errors import StageError
from pipelines.exchange.assignment import MISFIT, numbered_rows
from pipelines.exchange.import_fits import import_fits
from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.fit_static import StaticFitter, Work
from pipelines.fitting.from_annotations import groups_of
from pipelines.folders import DataFolder
from spin.fitting.fitter import FitConfig
from store.annotations.table import Annotations
from store.exchange import SampleKeys, export_spin_dataset, match_samples
from store.fits.records import Source
from store.fits.store import FitStore

CONFIG = FitConfig("adam", 20)


@pytest.fixture(scope="module")
def fits(preprocessed: Path) -> np.ndarray:
    """Static fits (n, 82) of the world's people, in the data set's order."""
    data = DataFolder(preprocessed)
    people = Annotations.read(data.annotations("world"))
    work = Work(np.arange(len(people)), people, groups_of(people), ())
    made = StaticFitter(FittingFiles.of(data, CONFIG), CONFIG, ignore_3d=True).fit(work)
    out = np.zeros((len(people), 82), np.float32)
    out[made.ids] = np.concatenate([made.fits.pose, made.fits.betas], 1)
    return out


@pytest.fixture
def data(preprocessed: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))


def read(data: DataFolder) -> Annotations:
    return Annotations.read(data.annotations("world"))


def owners(data: DataFolder, fits: np.ndarray) -> dict[int, int]:
    """The row of `fits` whose body each sample of the store has."""
    stored = FitStore.open(data.fits("world")).get(np.arange(len(read(data))))
    bodies = np.concatenate([stored.pose, stored.betas], 1)
    apart = np.abs(bodies[:, None] - fits[None]).max(-1)
    return {int(i): int(apart[i].argmin()) for i in np.flatnonzero(stored.source != Source.NONE)}


def saved(path: Path, rows: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        np.savez(path, pose=rows[:, :72], betas=rows[:, 72:], valid_fit=np.ones(len(rows), bool))
    return path


FORMATS = ("x.npy", "x.npz")


@pytest.mark.parametrize("name", FORMATS)
def test_the_data_sets_order_is_right(data: DataFolder, fits: np.ndarray, tmp_path: Path, name: str) -> None:
    done = import_fits(data, "world", saved(tmp_path / name, fits), same_body=True)
    assert done.assigned_by == "its order"
    assert MISFIT not in done.rejected
    assert done.offered == done.better > 30
    assert all(sample == row for sample, row in owners(data, fits).items())


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_in_another_order_is_rejected_and_changes_nothing(
    data: DataFolder, fits: np.ndarray, tmp_path: Path, name: str
) -> None:
    order = np.random.default_rng(3).permutation(len(fits))
    file = saved(tmp_path / name, fits[order])
    with pytest.raises(StageError, match=rf"{name}: by its order, (\d+) of 40 bodies don't fit their people.*world\.npz"):
        import_fits(data, "world", file, same_body=True)
    assert not Path(data.fits("world")).exists()
    with pytest.raises(StageError, match="don't fit their people"):
        _given(data, "world", str(file))


@pytest.mark.parametrize("name", FORMATS)
def test_spins_data_set_file_says_whose_each_row_is(data: DataFolder, fits: np.ndarray, tmp_path: Path, name: str) -> None:
    order = np.random.default_rng(3).permutation(len(fits))
    file = saved(tmp_path / name, fits[order])
    names = data.dataset_extra("world.npz")
    export_spin_dataset(names, read(data).take(order))
    done = import_fits(data, "world", file, same_body=True)
    assert done.assigned_by == f"the rows of {names}"
    found = owners(data, fits)
    assert len(found) > 30
    assert all(sample == row for sample, row in found.items())
    given = _given(data, "world", str(file))
    assert given.known.all()
    np.testing.assert_array_equal(given.pose_aa, fits[:, :72])


def test_a_data_set_file_of_another_order_does_not_mislead(data: DataFolder, fits: np.ndarray, tmp_path: Path) -> None:
    """The file of fits follows the data set, not the names."""
    export_spin_dataset(data.dataset_extra("world.npz"), read(data).take(np.random.default_rng(3).permutation(len(fits))))
    done = import_fits(data, "world", saved(tmp_path / "x.npy", fits), same_body=True)
    assert done.assigned_by == "its order"
    assert all(sample == row for sample, row in owners(data, fits).items())


def test_a_few_rows_of_others_are_rejected_one_by_one(data: DataFolder, fits: np.ndarray, tmp_path: Path) -> None:
    rows = fits.copy()
    moved = [2, 9, 17, 30]
    rows[moved] = fits[[9, 17, 30, 2]]
    done = import_fits(data, "world", saved(tmp_path / "x.npy", rows), same_body=True)
    assert done.rejected[MISFIT] == len(moved)
    listed = json.loads(done.rejected_list.read_text())["rejected"]
    assert [entry["row"] for entry in listed if entry["reason"] == MISFIT] == moved
    found = owners(data, fits)
    assert not set(moved) & set(found)
    assert all(sample == row for sample, row in found.items())
    assert not _given(data, "world", str(tmp_path / "x.npy")).known[moved].any()


def test_rows_of_joints_mat_find_their_samples_where_some_were_rejected(
    data: DataFolder, fits: np.ndarray, tmp_path: Path
) -> None:
    """HR-LSPET: the published file has a row for every image."""
    people, kept = read(data), np.delete(np.arange(len(fits)), [4, 21])
    some = people.take(kept)
    replace(some, source=[f"joints.mat {row + 1}" for row in kept]).write(data.annotations("world"))
    done = import_fits(data, "world", saved(tmp_path / "x.npy", fits), same_body=True)
    assert done.assigned_by == "the rows of joints.mat"
    assert done.rejected["its image or person was rejected by preprocess"] == 2
    found = owners(data, fits)
    assert len(found) > 30
    assert all(kept[sample] == row for sample, row in found.items())
    assert numbered_rows(people, 50) is None
    with pytest.raises(StageError, match=r"the data set has 38 samples.*found 12 rows"):
        import_fits(data, "world", saved(tmp_path / "y.npy", fits[:12]), same_body=True)


# ---- files that name their rows ---------------------------------------------------------------------------------------


def keys_of(people: Annotations, **changes: object) -> SampleKeys:
    keys = SampleKeys(people.image, people.center_px.astype(float), people.scale.astype(float), np.zeros(len(people), np.int64))
    return replace(keys, **changes)


def test_an_id_names_a_person_of_its_image(data: DataFolder) -> None:
    """Tools that count anew in each image give one id to many people."""
    people = read(data)
    count: dict[str, int] = {}
    numbers = [count.setdefault(image, 0) or 0 for image in people.image]
    for row, image in enumerate(people.image):
        count[image] += 1
        numbers[row] = count[image]
    people = replace(people, source=[f"annotation {number}" for number in numbers])
    assert len(set(numbers)) < len(numbers) / 4
    nowhere = np.full((len(people), 2), -1e4)  # boxes don't help
    order = np.random.default_rng(0).permutation(len(people))
    keys = keys_of(people.take(order), annotation=np.array(numbers)[order], center_px=nowhere)
    samples, problems = match_samples(keys, people)
    assert np.array_equal(samples, order)
    assert not problems


def test_a_name_that_several_images_have_names_none(data: DataFolder) -> None:
    people = read(data).take(np.arange(6))
    images = ["a/1.jpg", "b/1.jpg", "a/2.jpg", "b/c/3.jpg", "c/3.jpg", "4.jpg"]
    people = replace(people, image=images)
    theirs = ["1.jpg", "/data/b/1.jpg", "2.jpg", "b/c/3.jpg", "z/b/c/3.jpg", "d/4.jpg"]
    samples, problems = match_samples(keys_of(people, image=theirs), people)
    assert samples.tolist() == [-1, 1, 2, 3, -1, 5]
    assert problems[0] == "several images of the data set are called that: a/1.jpg, b/1.jpg"
    elsewhere = replace(people, image=[f"x/{image}" for image in images])
    samples, problems = match_samples(keys_of(people, image=["y/4.jpg"] * 6), elsewhere)
    assert (samples == -1).all()
    assert set(problems.values()) == {"the data set has no such image"}
