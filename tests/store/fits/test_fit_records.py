from __future__ import annotations

import numpy as np
import pytest
from fit_samples import changed_fits, random_fits, same_bits

from store import Fits, RecordError, Source, StartKind, Verdict, admissible


def test_empty_records_are_valid_records_that_may_not_be_stored() -> None:
    empty = Fits.empty(3)
    assert len(empty) == 3
    assert np.isinf(empty.loss).all() and np.isinf(empty.score).all()
    assert (empty.source == Source.NONE).all()
    for name in ("start", "verdict", "iterations", "coverage", "prior_cost"):
        assert not getattr(empty, name).any()
    assert not admissible(empty).any()


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"betas": 3.0}, True),
        ({"betas": np.nextafter(np.float32(3), np.float32(4))}, False),
        ({"betas": -3.5}, False),
        ({"betas": np.nan}, False),
        ({"pose": np.nan}, False),
        ({"pose": np.inf}, False),
        ({"camera": np.nan}, False),
        ({"camera": 0.0}, False),
        ({"camera": -1.0}, False),
        ({"loss": np.nan}, False),
        ({"loss": np.inf}, False),
        ({"score": np.nan}, False),
        ({"score": -np.inf}, False),
        ({"score": -5.0}, True),
        ({"source": Source.NONE}, False),
        ({"source": 4}, False),
        ({"start": StartKind.UNKNOWN}, True),
        ({"start": StartKind.NETWORK}, True),
        ({"start": 6}, False),
        ({"verdict": Verdict.VALID}, True),
        ({"verdict": Verdict.LOSS_TOO_HIGH}, True),
        ({"verdict": Verdict.NOT_CONVERGED}, True),
        ({"verdict": 1}, False),
        ({"verdict": 10}, False),
        ({"iterations": 65535}, True),
        ({"coverage": np.nan}, False),
        ({"coverage": np.inf}, False),
        ({"prior_cost": np.nan}, False),
        ({"prior_cost": -np.inf}, False),
        ({"coverage": 0.0, "prior_cost": 0.0}, True),
    ],
)
def test_only_plausible_records_are_admissible(changes: dict, allowed: bool) -> None:
    fits = changed_fits(random_fits(2, np.random.default_rng(0)), **changes)
    assert admissible(fits).tolist() == [allowed, allowed]


def test_wrong_shapes_and_types_are_refused_by_name() -> None:
    good = random_fits(4, np.random.default_rng(0))
    columns = {name: getattr(good, name) for name in good.__dataclass_fields__}
    with pytest.raises(RecordError, match=r"camera must be float32 of shape \(4, 3\), found float32 of shape \(3, 3\)"):
        Fits(**{**columns, "camera": good.camera[:3]})
    with pytest.raises(RecordError, match=r"pose must be float32 .* found float64"):
        Fits(**{**columns, "pose": good.pose.astype(np.float64)})
    with pytest.raises(RecordError, match="loss must be a NumPy array, found list"):
        Fits(**{**columns, "loss": good.loss.tolist()})
    with pytest.raises(RecordError, match=r"iterations must be uint16 .* found int64"):
        Fits(**{**columns, "iterations": good.iterations.astype(np.int64)})


def test_take_and_concatenate_are_inverse() -> None:
    fits = random_fits(10, np.random.default_rng(0))
    parts = [fits.take(np.arange(4)), fits.take(slice(4, 7)), fits.take(np.arange(10) >= 7)]
    assert same_bits(Fits.concatenate(parts), fits)
    assert len(Fits.concatenate([])) == 0
