"""The laws on which all durability rests: merging is commutative, associative and idempotent, to the last bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fit_samples import changed_fits, random_fits, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from store import Fits, RecordError, SampleIdError, Source, admissible, better, join
from store.fits.merge import TIE_COLUMNS, merge_duplicates, retractions
from store.fits.records import COLUMNS, Verdict
from store.fits.table import FitTable

# Few values, so that ties in any subset of the columns are common; 0.0 and -0.0 are equal with different bytes.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 3.5, np.nan, np.inf, -np.inf])
PLAUSIBLE = st.sampled_from([0.0, -0.0, 1.0, 2.0])


@st.composite
def record(draw: st.DrawFn) -> Fits:
    """Three in four are admissible: else three together, as the laws want them, would be rare."""
    plausible = draw(st.sampled_from([True, True, True, False]))
    number = PLAUSIBLE if plausible else VALUES

    def one_of(usual: list, also: list) -> object:
        return draw(st.sampled_from(usual if plausible else usual + also))

    fits = changed_fits(
        Fits.empty(1),
        pose=draw(number),
        betas=draw(number),
        camera=one_of([1.0, 2.0], [0.0]),
        loss=draw(number),
        score=draw(number),
        source=one_of([*Source][1:], [Source.NONE, 200]),
        step=draw(st.sampled_from([0, 1, 256, -1])),
        improvements=draw(st.integers(0, 3)),
        start=one_of([0, 2, 5], [6]),
        verdict=one_of([*Verdict], [1]),
        iterations=draw(st.sampled_from([0, 1, 256])),
        coverage=draw(number),
        prior_cost=draw(number),
        solver=one_of([0, 1, 2], [3]),
        epoch=draw(st.sampled_from([0, 0, 1, 256])),
        run=draw(st.sampled_from([0, 2**63])),
        time=draw(st.sampled_from([0, 1, 256])),
    )
    fits.pose[0, draw(st.sampled_from([0, 71]))] = draw(PLAUSIBLE)
    return fits


@settings(deadline=None)  # a busy machine is not an error
@given(record(), record())
def test_merge_is_commutative(a: Fits, b: Fits) -> None:
    assert same_bits(join(a, b), join(b, a))


@settings(deadline=None)  # a busy machine is not an error
@given(record(), record(), record())
def test_merge_is_associative(a: Fits, b: Fits, c: Fits) -> None:
    assert same_bits(join(join(a, b), c), join(a, join(b, c)))


LITTLE = st.fixed_dictionaries(
    {},
    optional={
        "score": PLAUSIBLE,
        "step": st.sampled_from([0, 256]),
        "improvements": st.integers(0, 3),
        "start": st.sampled_from([0, 2]),
        "verdict": st.sampled_from([*Verdict]),
        "iterations": st.sampled_from([1, 256]),
        "coverage": PLAUSIBLE,
        "prior_cost": PLAUSIBLE,
        "solver": st.sampled_from([0, 1]),
        "run": st.sampled_from([0, 256]),
        "time": st.sampled_from([0, 256]),
        "epoch": st.sampled_from([0, 1]),
    },
)


@settings(deadline=None)  # a busy machine is not an error
@given(record(), LITTLE, LITTLE)
def test_merge_is_commutative_and_associative_where_ties_are_decided_late(a: Fits, b: dict, c: dict) -> None:
    second, third = changed_fits(a, **b), changed_fits(a, **c)
    assert same_bits(join(a, second), join(second, a))
    assert same_bits(join(second, third), join(third, second))
    assert same_bits(join(join(a, second), third), join(a, join(second, third)))


@settings(deadline=None)  # a busy machine is not an error
@given(record(), record())
def test_merge_is_idempotent(a: Fits, b: Fits) -> None:
    merged = join(a, b)
    assert same_bits(join(merged, merged), merged)
    assert same_bits(join(merged, b), merged)


@settings(deadline=None)  # a busy machine is not an error
@given(record(), record())
def test_an_inadmissible_record_never_wins(a: Fits, b: Fits) -> None:
    merged = join(a, b)
    without_fit = changed_fits(Fits.empty(1), epoch=merged.epoch)
    assert admissible(merged).all() or same_bits(merged, without_fit)
    assert bool(better(a, b)) <= bool(admissible(a) | ((a.source == Source.NONE) & (a.epoch > 0)))


@settings(deadline=None)  # a busy machine is not an error
@given(st.lists(st.tuples(st.integers(0, 2), record()), max_size=8), st.randoms())
def test_a_batch_with_duplicates_equals_one_record_at_a_time_in_any_order(offers: list, random: object) -> None:
    table = FitTable.of(Fits.empty(3))
    if offers:
        ids = np.array([sample for sample, _ in offers])
        accepted = table.merge(ids, Fits.concatenate([fits for _, fits in offers])).accepted
        winners = np.bincount(ids[accepted], minlength=3)
        assert (winners == (table.fits.source != Source.NONE) | (table.fits.epoch > 0)).all()
    expected = [Fits.empty(1)] * 3
    random.shuffle(offers)  # type: ignore[attr-defined]
    for sample, fits in offers:
        expected[sample] = join(expected[sample], fits)
    assert same_bits(table.fits, Fits.concatenate(expected))


def test_lower_score_wins_whatever_the_loss() -> None:
    old = random_fits(1, np.random.default_rng(0))
    new = changed_fits(old, score=old.score - 1, loss=old.loss + 1)
    assert better(new, old).all() and not better(old, new).any()
    assert not better(old, old).any()


OTHER = {
    "solver": 2,
    "run": 5,
    "time": 7,
    "source": 2,
    "step": 7,
    "start": 4,
    "verdict": Verdict.NOT_CONVERGED,
    "iterations": 512,
}


@pytest.mark.parametrize("name", [name for name in COLUMNS if name not in ("score", "improvements", "epoch")])
def test_equal_scores_are_decided_by_every_column(name: str) -> None:
    fits = changed_fits(random_fits(1, np.random.default_rng(0)), source=1, start=1, verdict=0, solver=1)
    other = changed_fits(fits, **{name: OTHER[name] if name in OTHER else getattr(fits, name) / 2})
    assert better(fits, other)[0] != better(other, fits)[0]
    assert same_bits(join(fits, other), join(other, fits)), "whichever came first"


def test_no_column_but_epoch_and_the_count_of_improvements_is_left_out_of_ties() -> None:
    assert sorted(TIE_COLUMNS) == sorted(set(COLUMNS) - {"improvements", "epoch"})


def test_more_improvements_are_kept_but_decide_nothing() -> None:
    few = changed_fits(random_fits(1, np.random.default_rng(0)), improvements=2)
    many = changed_fits(few, improvements=5)
    assert not better(many, few).any() and not better(few, many).any()
    table = FitTable.of(Fits.empty(1))
    table.merge(np.array([0]), few)
    merged = table.merge(np.array([0]), many)
    assert merged.accepted.tolist() == [False] and merged.changed.tolist() == [0]
    assert table.fits.improvements.tolist() == [5]


def test_every_order_of_delivery_gives_the_same_table() -> None:
    rng = np.random.default_rng(1)
    batches = [(rng.integers(0, 10, 20), changed_fits(random_fits(20, rng), score=1.0)) for _ in range(4)]
    tables = []
    for order in itertools.permutations(batches):
        table = FitTable.of(Fits.empty(10))
        for ids, fits in (*order, order[0]):
            table.merge(ids, fits)
        tables.append(table.fits)
    assert all(same_bits(table, tables[0]) for table in tables)


def test_merge_duplicates_names_the_rows_it_chose() -> None:
    fits = random_fits(5, np.random.default_rng(0))
    fits.score[:] = [5, 3, 3, 9, np.nan]
    ids = np.array([7, 7, 2, 2, 1])
    winners = merge_duplicates(ids, fits.to_rows())
    assert winners.ids.tolist() == [2, 7] and winners.places.tolist() == [2, 1]


@pytest.mark.parametrize("ids", [[-1], [4], [0.0], [[0]], [True]])
def test_wrong_sample_numbers_are_refused(ids: list) -> None:
    # NumPy itself would take -1 for the last sample.
    table = FitTable.of(Fits.empty(4))
    with pytest.raises(SampleIdError, match="sample numbers must"):
        table.merge(np.array(ids), random_fits(1, np.random.default_rng(0)))
    with pytest.raises(SampleIdError):
        table.get(np.array(ids))


def test_offers_and_ids_must_be_as_many() -> None:
    with pytest.raises(RecordError, match="2 sample numbers for 1 records"):
        FitTable.of(Fits.empty(4)).merge(np.array([0, 1]), random_fits(1, np.random.default_rng(0)))


def test_inputs_and_answers_are_not_the_tables_memory() -> None:
    table = FitTable.of(Fits.empty(2))
    fits = random_fits(2, np.random.default_rng(0))
    before = changed_fits(fits)
    table.merge(np.array([0, 1]), fits)
    table.get(np.array([0, 1])).pose[:] = 9
    assert same_bits(fits, before) and same_bits(table.fits, before)
    fits.pose[:] = 8
    assert same_bits(table.fits, before)
    assert set(COLUMNS) == set(Fits.__dataclass_fields__)


def test_a_later_epoch_wins_whatever_the_score_and_a_retraction_only_over_what_came_before() -> None:
    bad = changed_fits(random_fits(1, np.random.default_rng(0)), score=0.1)
    retracted = retractions(bad.epoch)
    late = changed_fits(bad, score=0.0)
    afterwards = changed_fits(bad, score=900, epoch=1)
    for order in itertools.permutations([bad, retracted, late]):
        table = FitTable.of(Fits.empty(1))
        for fits in order:
            table.merge(np.array([0]), fits)
        assert table.fits.source.tolist() == [Source.NONE] and table.fits.epoch.tolist() == [1]
    for order in itertools.permutations([bad, retracted, late, afterwards, retracted]):
        table = FitTable.of(Fits.empty(1))
        for fits in order:
            table.merge(np.array([0]), fits)
        assert same_bits(table.fits, afterwards)


def test_more_offers_than_one_step_takes_equal_as_many_steps() -> None:
    rng = np.random.default_rng(2)
    ids, fits = rng.integers(0, 50, 150_000), random_fits(150_000, rng)
    whole, parts = FitTable.of(Fits.empty(50)), FitTable.of(Fits.empty(50))
    accepted = whole.merge(ids, fits).accepted
    for start in range(0, 150_000, 40_000):
        parts.merge(ids[start : start + 40_000], fits.take(slice(start, start + 40_000)))
    assert same_bits(whole.fits, parts.fits)
    assert np.bincount(ids[accepted], minlength=50).tolist() == [1] * 50
    assert same_bits(fits.take(accepted).take(np.argsort(ids[accepted])), whole.fits)
