"""novelty: e-values with mean at most 1, p-values that hold on benign windows, and power where a few rows differ."""

import numpy as np
import pytest
from scipy import signal

from engine import novelty
from engine.novelty import BINS, Novelty, binned, tail_edges
from kernels.tailcounts import MISSING

RNG = np.random.default_rng(3)


def counted(model, values):
    """Counts of one window."""
    bins = model.bins(values)
    out = np.zeros((2, model.features, BINS), np.int64)
    for tail in range(2):
        for f in range(model.features):
            got = bins[:, tail, f]
            out[tail, f] = np.bincount(got[got != MISSING], minlength=BINS)
    return out


@pytest.fixture(scope="module")
def model():
    return novelty.fit(RNG.normal(0, 1, (1500, 3)).astype(np.float32), np.zeros(1500, np.int64), splits=60)


def test_a_bet_gains_nothing_on_a_uniform_p_value():
    probability = novelty.RATIO ** np.arange(BINS) - np.append(novelty.RATIO ** np.arange(1, BINS), 0)
    for m in (100, 1000, 100_000):
        mean = probability @ np.exp(novelty.bets_of(m))
        assert (mean <= 1 + 1e-9).all(), m


def test_raised_p_values_are_never_smaller_than_the_share():
    raised = novelty.raised_p(200)
    assert (raised >= np.arange(201) / 200).all()
    assert raised[0] == pytest.approx(1 - 0.05 ** (1 / 200))


@pytest.mark.parametrize("rows", [100, 500])
def test_benign_windows_seldom_have_small_p(model, rows):
    counts = np.stack([counted(model, RNG.normal(0, 1, (rows, 3)).astype(np.float32)) for _ in range(400)])
    log10_p = model.log10_p(model.log_evidence(counts)[0], np.full(400, rows))
    assert (log10_p < np.log10(0.01)).mean() <= 0.03


@pytest.mark.parametrize("moved", [0, 2])
def test_a_few_different_rows_are_found(model, moved):
    found = 0
    for _ in range(20):
        values = RNG.normal(0, 1, (500, 3)).astype(np.float32)
        values[:25, moved] += 4
        log_e, of_feature = model.log_evidence(counted(model, values)[None])
        found += model.log10_p(log_e, np.array([500]))[0] < -3
        assert of_feature[0, [moved, 3]].max() == of_feature.max()
    assert found >= 18


def test_a_change_of_relation_shows_in_the_combination():
    x = RNG.normal(0, 1, 2000)
    model = novelty.fit(np.column_stack([x, x + RNG.normal(0, 0.1, 2000)]).astype(np.float32), np.zeros(2000, np.int64), splits=20)
    values = RNG.normal(0, 1, (300, 2)).astype(np.float32)
    _, of_feature = model.log_evidence(counted(model, values)[None])
    assert int(np.argmax(of_feature)) == 2
    assert of_feature[0, 2] > 20 + of_feature[0, :2].max()


def test_missing_values_are_no_evidence(model):
    values = np.full((50, 3), np.nan, np.float32)
    assert (model.bins(values) == MISSING).all()
    values[:, 0] = 0
    bins = model.bins(values)
    assert (bins[:, :, 0] < BINS).all()
    assert (bins[:, :, 1:] == MISSING).all()


def test_principals_that_differ_raise_the_null():
    groups = np.repeat(np.arange(10), 200)
    same = RNG.normal(0, 1, (2000, 2)).astype(np.float32)
    differ = same + RNG.normal(0, 1, (10, 2)).astype(np.float32)[groups]
    calm, wild = novelty.fit(same, groups, splits=20), novelty.fit(differ, groups, splits=20)
    assert (wild.null[3:, 18] > calm.null[3:, 18] + 3).all()


def test_a_record_is_all_there_is(model):
    again = Novelty.of(model.record())
    values = RNG.normal(0, 1, (100, 3)).astype(np.float32)
    np.testing.assert_array_equal(again.bins(values), model.bins(values))
    np.testing.assert_array_equal(again.null, model.null)


def test_a_short_reference_is_refused():
    with pytest.raises(ValueError, match="at least 100"):
        novelty.fit(np.zeros((99, 2), np.float32), np.zeros(99, np.int64))


def test_a_feature_that_few_of_the_reference_have_is_compared_among_those():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(400, 2)).astype(np.float32)
    values[:340, 1] = np.nan
    edges = tail_edges(values, np.array([400, 60]))
    assert (edges[0, :, 1:] >= edges[0, :, :-1]).all() and (edges[1, :, 1:] <= edges[1, :, :-1]).all()
    alone = tail_edges(values[340:, 1:], np.array([60]))
    assert edges[:, 1].tolist() == alone[:, 0].tolist()
    whole = binned(values[340:], edges)
    assert [binned(v[None], edges)[0].tolist() for v in values[340:]] == whole.tolist()
    assert (tail_edges(np.full((50, 1), np.nan, np.float32), np.array([0]))[0] == np.inf).all()


def test_a_feature_that_wanders_as_a_whole_bets_less_or_not_at_all():
    rng = np.random.default_rng(6)
    for kept, silent in ((0.8, False), (0.995, True)):
        wanders = signal.lfilter([np.sqrt(1 - kept**2)], [1, -kept], rng.normal(size=31_000))
        values = np.column_stack([wanders, rng.normal(size=31_000)]).astype(np.float32)
        model = novelty.fit(values[:1000], np.arange(1000) % 20, splits=40)
        assert (not model.bets[0].any()) == silent
        assert np.abs(model.bets[0]).max() < np.abs(model.bets[1]).max() / 5
        assert model.bets[1].max() == pytest.approx(novelty.bets_of(1000).max())
        counts = np.stack([counted(model, values[i : i + 500]) for i in range(1000, 31_000, 500)])
        log10_p = model.log10_p(model.log_evidence(counts)[0], np.full(60, 500))
        assert log10_p.min() > -3.5


def test_features_that_stand_alone_have_no_part_in_the_combination():
    values = RNG.normal(0, 1, (500, 3)).astype(np.float32)
    model = novelty.fit(values, np.zeros(500, np.int64), splits=10, alone=1)
    assert not model.precision[2].any() and not model.precision[:, 2].any()
    values[:, 2] = np.nan
    assert (model.bins(values)[:, :, 3] < BINS).all()


def test_few_stretches_of_reference_say_little_of_the_tail(model):
    log_e, rows = np.array([40.0]), np.array([400])
    null = model.null.copy()
    told = []
    for units in (2, 16, 64, 100_000):
        null[:, -1] = units
        told.append(float(Novelty.of({**model.record(), "null": null}).log10_p(log_e, rows)[0]))
    assert told == sorted(told, reverse=True)
    assert told[0] > -3 and told[1] < -4
    i = novelty.WINDOWS.index(400)
    exponential = -1 - (40 - null[i, 18]) / null[i, 19] / np.log(10)
    assert told[3] == pytest.approx(exponential, rel=1e-2)


def test_a_reference_knows_enough_when_it_is_many_stretches_of_traffic():
    rng = np.random.default_rng(8)
    alone = rng.normal(size=(2000, 2))
    groups = np.arange(2000) % 20
    assert novelty.enough(alone, groups)
    wanders = np.column_stack([alone[:, 0], signal.lfilter([0.2], [1, -0.98], rng.normal(size=2000))])
    assert not novelty.enough(wanders, groups)
    differ = alone + 3 * rng.normal(size=(20, 2))[groups]
    assert not novelty.enough(differ, groups)  # always, or for a while? 100 queries of each do not tell
    assert novelty.enough(np.tile(differ, (3, 1)), np.tile(groups, 3))


def test_what_a_principal_keeps_to_himself_is_memory_too():
    rng = np.random.default_rng(9)
    groups = rng.integers(0, 5, 4000)
    values = np.empty((4000, 1))
    for g in range(5):
        values[groups == g, 0] = signal.lfilter([np.sqrt(1 - 0.9**2)], [1, -0.9], rng.normal(size=int((groups == g).sum())))
    assert 10 < novelty.memory_of(values, groups)[0] < 60
    assert novelty.memory_of(rng.permutation(values), groups)[0] < 2


def test_a_feature_of_a_few_values_is_silent():
    values = RNG.normal(0, 1, (500, 2)).astype(np.float32)
    values[3:, 1] = np.nan
    model = novelty.fit(values, np.zeros(500, np.int64), splits=10)
    assert not model.bets[1].any() and not model.precision[1].any()
    assert model.bets[0].any()
