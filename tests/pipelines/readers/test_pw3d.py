"""3DPW: the truth of its layout comes back, from pickles that are never executed."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import StageError
from pipelines.readers import DATASETS
from pipelines.readers.base import Person, ReaderOptions
from pipelines.readers.pw3d import OF_BODY_25
from pipelines.synthetic.layouts.python2_pickle import dumps
from spin.body import load_body
from spin.body.safe_pickle import read_data_pickle
from tests.pipelines.mutations import byte_mutations, outcomes_of
from tests.pipelines.raw_trees import joints17_cam_m, made, outcomes, project, truth_of


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences, of one person and of two."""
    return made(tmp_path_factory.mktemp("raw"), "3dpw", people=8)


@pytest.fixture
def small(tree: Path, tmp_path: Path) -> Path:
    """A sequence's pickle, which a test may spoil."""
    folder = tmp_path / "sequenceFiles" / "test"
    folder.mkdir(parents=True)
    shutil.copy(tree / "sequenceFiles" / "test" / "world_01.pkl", folder)
    return tmp_path


def sequence(root: Path) -> Path:
    return root / "sequenceFiles" / "test" / "world_01.pkl"


def test_the_truth_comes_back(tree: Path) -> None:
    truth, people = truth_of(tree), outcomes("3dpw", tree)[0]
    number_of = {p.source: int(p.source.split()[2]) for p in people}
    assert {(p.image, number_of[p.source]) for p in people} == set(truth)
    body = load_body().fingerprint
    for person in people:
        row = truth[person.image, number_of[person.source]]
        assert person.truth is not None and person.truth.body == body
        np.testing.assert_allclose(person.truth.pose_aa, row["pose"], atol=1e-6)
        np.testing.assert_array_equal(person.truth.betas, row["betas"])
        seen = row["visibility"][list(OF_BODY_25)] > 0
        found = person.keypoints_px[list(OF_BODY_25)]
        np.testing.assert_allclose(found[seen, :2], row["keypoints_px"][list(OF_BODY_25)][seen], atol=1e-4)
        np.testing.assert_array_equal(found[:, 2] > 0, seen)
        assert person.camera is not None
        middle = project(person.camera, joints17_cam_m(row)[0])
        assert np.abs(middle - person.center_px).max() < 100 * person.scale
        assert (tree / person.image).is_file()
    assert {p.gender for p in people} == {"female", "male"}


def test_boxes_surround_the_keypoints_with_the_published_margin(tree: Path) -> None:
    for person in outcomes("3dpw", tree)[0]:
        points = person.keypoints_px[person.keypoints_px[:, 2] > 0, :2]
        low, high = points.min(0), points.max(0)
        np.testing.assert_allclose(person.center_px, (low + high) / 2, atol=1e-4)
        assert person.scale == pytest.approx(1.2 * (high - low).max() / 200, rel=1e-5)


def test_frames_whose_camera_is_not_valid_are_listed(tree: Path) -> None:
    rejected = outcomes("3dpw", tree)[1]
    assert [r.source for r in rejected] == ["world_00 person 0 frame 3", "world_01 person 0 frame 3"]
    assert all("campose_valid" in r.reason for r in rejected)


def test_the_layout_writes_what_python_2_wrote(tree: Path) -> None:
    """Breaks if the pickles name what Python 2 did not, or hold other values than they were given."""
    value = {
        "a": np.arange(6.0).reshape(2, 3), "b": [np.array([True, False]), np.float32([1.5])], "c": "text", "d": 70000,
        "e": (None, True, False, -1, 0.25), "f": np.arange(300, dtype=np.int32), "long": "x" * 300,
    }  # fmt: skip
    data = dumps(value)
    assert data.startswith(b"\x80\x02") and b"numpy.core.multiarray" in data and b"_codecs" not in data
    loaded = pickle.loads(data, encoding="latin1")
    assert str(loaded) == str(value)
    assert [loaded[k].dtype for k in "af"] == [value[k].dtype for k in "af"]
    with pytest.raises(TypeError, match="not written"):
        dumps({"a": object()})


class Payload:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("where", ["whole", "value", "nested"])
def test_a_pickle_that_tries_to_run_code_is_rejected_and_nothing_runs(small: Path, tmp_path: Path, where: str) -> None:
    proof = tmp_path / "executed"
    content = read_data_pickle(sequence(small))
    spoiled = {
        "whole": Payload(proof),
        "value": content | {"genders": Payload(proof)},
        "nested": content | {"betas": [Payload(proof)]},
    }[where]
    sequence(small).write_bytes(pickle.dumps(spoiled, protocol=2))
    people, rejected = outcomes("3dpw", small)
    assert not people and not proof.exists()
    assert len(rejected) == 1 and "\n" not in rejected[0].reason
    assert "world_01.pkl: refused, it names" in rejected[0].reason
    pickle.loads(sequence(small).read_bytes())
    assert proof.exists()  # it would have


SPOILED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no poses": (lambda c: c.pop("poses"), "has no list 'poses'"),
    "poses of another length": (lambda c: c["poses"].__setitem__(0, np.zeros((3, 72))), "expected (4, 72)"),
    "texts for poses": (lambda c: c["poses"].__setitem__(0, ["a"]), "'poses' of person 0 is not an array"),
    "one person's betas": (lambda c: c["betas"].pop(), "entries of 1 or 2 people"),
    "few betas": (lambda c: c["betas"].__setitem__(1, np.zeros(9)), "9 numbers, expected 10"),
    "other keypoints": (lambda c: c["poses2d"].__setitem__(0, np.zeros((4, 3, 17))), "expected (4, 3, 18)"),
    "no cameras": (lambda c: c.pop("cam_poses"), "'cam_poses' is not an array"),
    "flat cameras": (lambda c: c.update(cam_poses=np.zeros((4, 16))), "expected (any, 4, 4)"),
    "gender": (lambda c: c["genders"].__setitem__(0, "x"), "has gender 'x'"),
    "name": (lambda c: c.update(sequence="../../etc"), "not a name of a sequence"),
    "no name": (lambda c: c.pop("sequence"), "not a name of a sequence"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_sequence_with_other_content_is_rejected_and_the_next_is_read(small: Path, tree: Path, case: str) -> None:
    shutil.copy(tree / "sequenceFiles" / "test" / "world_00.pkl", sequence(small).parent)
    spoil, reason = SPOILED[case]
    content = read_data_pickle(sequence(small))
    spoil(content)
    sequence(small).write_bytes(dumps(content))
    people, rejected = outcomes("3dpw", small)
    assert len(people) == 3
    assert [r.source for r in rejected if reason in r.reason] == ["world_01.pkl"]


FRAMES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "NaN pose": (lambda c: c["poses"][1].__setitem__((2, 5), np.nan), "its body is not a number"),
    "NaN keypoint": (lambda c: c["poses2d"][1].__setitem__((2, 0, 4), np.nan), "not a number of pixels"),
    "no keypoints": (lambda c: c["poses2d"][1].__setitem__((2, 2), 0), "0 keypoints span no box"),
    "bent camera": (lambda c: c["cam_poses"].__setitem__((2, 0, 0), 2.0), "not a rotation"),
}


@pytest.mark.parametrize("case", FRAMES)
def test_what_is_wrong_with_a_frame_costs_that_frame(small: Path, case: str) -> None:
    spoil, reason = FRAMES[case]
    content = read_data_pickle(sequence(small))
    spoil(content)
    sequence(small).write_bytes(dumps(content))
    people, rejected = outcomes("3dpw", small)
    assert "world_01 person 1 frame 2" in {r.source for r in rejected if reason in r.reason}
    assert len(people) >= 5


def test_senseless_intrinsics_cost_the_camera_not_the_people(small: Path) -> None:
    content = read_data_pickle(sequence(small))
    content["cam_intrinsics"] = np.zeros((3, 3))
    sequence(small).write_bytes(dumps(content))
    people = outcomes("3dpw", small)[0]
    assert len(people) == 7
    assert all(p.camera is None for p in people)


def test_a_folder_without_sequences_is_an_error_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no \.pkl files; .*--help` shows the layout"):
        outcomes("3dpw", tmp_path)


def test_no_damage_breaks_the_reader(small: Path) -> None:
    with_people = 0
    for what, content in byte_mutations(sequence(small).read_bytes(), 600, seed=92):
        sequence(small).write_bytes(content)
        found = outcomes_of(DATASETS["3dpw"].reader, small, ReaderOptions("test"), what)
        assert isinstance(found, list)  # one damaged sequence does not end the run
        with_people += any(isinstance(o, Person) for o in found)
    assert 0 < with_people < 600
