"""The damage that fuzz tests do: the same for a seed, different for the next, and none to what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mutations import BYTES, VALUES, byte_mutations, document_mutations, json_mutations, outcomes_of

from pipelines.errors import StageError
from pipelines.readers.base import Person, ReaderOptions

DOCUMENT = {"people": [{"id": 1, "joints": [1.5, 2.5, 1.0]}, {"id": 2, "joints": [3.5, 4.5, 1.0]}], "v": 2}


def test_damage_repeats_with_its_seed_and_leaves_its_source_alone() -> None:
    data = json.dumps(DOCUMENT).encode()
    first, again, other = (list(byte_mutations(data, 90, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sum(content != data for _, content in first) > 70
    assert {what.partition(" (")[0] for what, _ in first} == set(BYTES)
    documents = [json.dumps(document) for _, document in document_mutations(DOCUMENT, 90, 1)]
    assert documents == [json.dumps(document) for _, document in document_mutations(DOCUMENT, 90, 1)]
    assert len(set(documents)) > 50
    assert data == json.dumps(DOCUMENT).encode()
    assert {what.partition(" at ")[0] for what, _ in document_mutations(DOCUMENT, 90, 1)} == set(VALUES)
    for empty in (b"", b"x"):
        assert len(list(byte_mutations(empty, 90, 1))) == 90


def test_half_of_the_damaged_json_is_still_json() -> None:
    def readable(content: bytes) -> bool:
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            return False
        return True

    found = [readable(content) for _, content in json_mutations(json.dumps(DOCUMENT).encode(), 200, 3)]
    assert len(found) == 200
    assert 90 < sum(found) < 190


class Faulty:
    """A reader that does what a test asks of it."""

    def __init__(self, does) -> None:
        self.does = does

    def parts(self, root: Path, options: ReaderOptions):
        return [0]

    def read(self, root: Path, part, options: ReaderOptions):
        yield self.does()


def person(**changes) -> Person:
    given = {"center_px": np.zeros(2), "scale": 1.0, "keypoints_px": np.zeros((49, 3)), **changes}
    return Person(image="a.jpg", source="row 1", **given)


def failing(error: Exception):
    raise error


def test_what_a_reader_may_not_do_is_found(tmp_path: Path) -> None:
    options = ReaderOptions("")
    assert len(outcomes_of(Faulty(person), tmp_path, options)) == 1
    assert isinstance(outcomes_of(Faulty(lambda: failing(StageError("x"))), tmp_path, options), StageError)
    wrong = {
        "KeyError": lambda: failing(KeyError("x")),
        "not one line": lambda: failing(StageError("x\ny")),
        "None": lambda: None,
        "scale=0": lambda: person(scale=0.0),
        "nan": lambda: person(keypoints_px=np.full((49, 3), np.nan)),
        "2.": lambda: person(keypoints_px=np.full((49, 3), 2.0)),
    }
    for message, does in wrong.items():
        with pytest.raises(AssertionError, match=message):
            outcomes_of(Faulty(does), tmp_path, options, "damage")
