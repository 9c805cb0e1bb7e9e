"""One budget for many: what is spent adds up to no more, and discoveries are no more often false than promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evidence import WEEK_US
from engine.multiplicity import DAY_US, ELond, Spending, e_bh
from engine.state import State

PANE_US = 3_600_000_000


def spent(steps, cuts):
    """By series: what it spent, of steps (pane, series) cut into parts."""
    spending, state = Spending("x", 7.0, PANE_US), State()
    state.declare(spending.arrays())
    out: dict[str, list[float]] = {}
    for part in np.split(np.array(steps, dtype=object), cuts):
        if not len(part):
            continue
        panes, names = part[:, 0].astype(np.int64), part[:, 1].tolist()
        slots = state.slots("x", names, 0)
        order = np.lexsort((slots, panes))
        said = spending.spend(state, panes[order], slots[order])
        assert (said.step > 0).all() and (said.step <= said.clock + 1e-12).all()
        for i, at in enumerate(order.tolist()):
            out.setdefault(names[at], []).append(float(said.step[i]))
    return out


@st.composite
def comings_and_goings(draw):
    """Series that have rows in some panes (hours) of three weeks, with gaps of days."""
    steps = set()
    for series in range(draw(st.integers(1, 6))):
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, 400))
            for pane in range(start, start + draw(st.integers(1, 40)), draw(st.integers(1, 5))):
                steps.add((pane, f"s{series}"))
    return sorted(steps)


@settings(max_examples=60, deadline=None)
@given(comings_and_goings(), st.data())
def test_all_series_together_spend_no_more_than_the_budget(steps, data):
    cut_panes = data.draw(st.lists(st.integers(0, 450), max_size=4))
    panes = np.array([p for p, _ in steps])
    cuts = np.searchsorted(panes, sorted(cut_panes))
    once, cut = spent(steps, []), spent(steps, cuts)
    assert {k: pytest.approx(v, rel=1e-9) for k, v in once.items()} == cut
    elapsed = (panes[-1] - panes[0] + 1) * PANE_US
    assert sum(sum(v) for v in once.values()) <= 7.0 * elapsed / WEEK_US * (1 + 1e-9)


def test_one_series_that_never_goes_spends_all_of_it():
    steps = [(pane, "s") for pane in range(0, 24 * 7)]
    assert sum(spent(steps, [])["s"]) == pytest.approx(7.0)


def test_a_series_that_went_gives_its_share_back():
    steps = sorted([(p, "stays") for p in range(0, 24 * 10)] + [(p, "goes") for p in range(0, 24)])
    said = spent(steps, [])["stays"]
    day = DAY_US // PANE_US
    assert said[day // 2] == pytest.approx(7.0 * PANE_US / WEEK_US / 2)
    assert said[-1] == pytest.approx(7.0 * PANE_US / WEEK_US)


def dependent_e_values(generator, m, real):
    """e-values of m nulls whose statistics share a common factor, and of some that are no nulls."""
    z = 0.8 * generator.normal() + 0.6 * generator.normal(size=m)
    z[:real] += 5.0
    return np.exp(2.5 * z - 2.5**2 / 2)


def test_e_bh_keeps_its_false_discovery_rate_under_dependence():
    generator, shares, found = np.random.default_rng(0), [], 0
    for _ in range(3000):
        rejected = e_bh(dependent_e_values(generator, 20, 5), 0.1)
        shares.append(rejected[5:].sum() / max(1, rejected.sum()))
        found += rejected[:5].sum()
    assert np.mean(shares) <= 0.1 * 15 / 20 + 3 * np.std(shares) / np.sqrt(3000)
    assert found > 3000


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0.01, 0.5))
def test_e_bh_is_what_its_definition_says(values, level):
    e, m = np.array(values), len(values)
    largest = max((k for k in range(1, m + 1) if np.sort(e)[::-1][k - 1] * k * level >= m), default=0)
    rejected = e_bh(e, level)
    assert rejected.sum() == largest
    assert not largest or e[rejected].min() >= np.sort(e)[::-1][largest - 1]


def test_e_lond_keeps_its_false_discovery_rate_under_dependence():
    generator, shares, found = np.random.default_rng(1), [], 0
    for _ in range(2000):
        test, false, total = ELond(0.2), 0, 0
        for _ in range(4):
            for i, e in enumerate(dependent_e_values(generator, 8, 3).tolist()):
                if test.discovery(e):
                    total += 1
                    false += i >= 3
        shares.append(false / max(1, total))
        found += total
    assert np.mean(shares) <= 0.2 + 3 * np.std(shares) / np.sqrt(2000)
    assert found > 2000
