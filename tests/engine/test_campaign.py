"""campaign: accounts that act as one are found and named, products and crowds are not, whatever the cut and the partitions."""

import numpy as np
import pyarrow as pa
import pytest

from engine.batch import Batch
from engine.detectors import campaign_signature as signature
from engine.detectors.campaign import Campaign, CampaignSettings
from engine.detectors.campaign_groups import log10_p, regions
from engine.evidence import Budget
from engine.finding import Context
from engine.population import Population
from engine.snapshot import Snapshot, pack, unpack
from engine.worker import Worker
from streams.records import Partition

HOUR_US = 3_600_000_000
PANE_US = 1_000_000
WORDS = [a + b for a in ("ba", "do", "fi", "ku", "le", "mi", "no", "pu", "ra", "so", "te", "vu", "wa", "xe") for b in "nrsltmkp"]
PRODUCTS = ("You help travellers. Keep it short. ", "Summarise this claim for the adjuster: ")
TASKS = ("Write a complete and well reasoned answer to the request:", "Answer the request below and show the reasoning:")


def says(rng, topic):
    return " ".join(WORDS[i] for i in (topic * 40 + rng.integers(0, 60, rng.integers(6, 25))) % len(WORDS))


def traffic(seed, day, accounts=300, campaign=0, requests=14, products=True, start=0):
    """(time_us, principal, prompt) of one day, in order of time; `campaign`: accounts of one, each with `requests` prompts."""
    rng, rows = np.random.default_rng([seed, day]), []
    for account in range(start, start + accounts):
        opening = PRODUCTS[account % 5] if products and account % 5 < len(PRODUCTS) else ""
        for _ in range(requests):
            rows.append((day * 24 + rng.random() * 24, f"user-{account:04d}", opening + says(rng, account % 3)))
    for account in range(campaign):
        for _ in range(requests):
            rows.append((day * 24 + rng.random() * 24, f"user-9{account:03d}", f"{TASKS[rng.integers(2)]} {says(rng, 5)}"))
    return sorted((int(at * HOUR_US), who, what) for at, who, what in rows)


def service(baseline=None, partitions=1, **settings):
    context = Context(Budget(), PANE_US, {"campaign": baseline} if baseline else {})
    detectors = {"campaign": Campaign(CampaignSettings(**{"reference_accounts": 100, **settings}), context)}
    workers = [Worker(Partition("t", i), detectors, "", None, {}, "inference") for i in range(partitions)]
    return workers, Population(detectors, "", None, PANE_US, 0, 1e9)


def batch_of(rows, offset):
    table = {
        "principal": pa.array([who for _, who, _ in rows]).dictionary_encode(),
        "prompt": pa.array([what for _, _, what in rows], pa.large_string()),
    }
    return Batch("inference", pa.RecordBatch.from_pydict(table), np.array([at for at, _, _ in rows]), np.arange(len(rows)) + offset)


def play(workers, population, rows, cut=700, seed=0, final=True):
    """(scores as rows, alert versions)."""
    home = np.random.default_rng(seed).integers(0, len(workers), len(rows))
    said, alerts = [], []

    def advance(last):
        scores, changed = population.advance(workers, lambda _: 0, last)
        for s in scores:
            said.extend(zip([s.keys[k] for k in s.key], s.time_us.tolist(), s.score.tolist(), s.alarm.tolist(), strict=True))
        alerts.extend(changed)

    for worker in workers:
        population.heard_from(worker)
    for first in range(0, len(rows), cut):
        for i, worker in enumerate(workers):
            mine = [rows[j] for j in range(first, min(first + cut, len(rows))) if home[j] == i]
            if mine:
                worker.observe(batch_of(mine, first))
            worker.state.watermarks["inference"] = rows[min(first + cut, len(rows)) - 1][0]
        advance(False)
    if final:
        advance(True)
    return said, alerts


@pytest.fixture(scope="module")
def baseline():
    context = Context(Budget(), PANE_US, fitting=True)
    detectors = {"campaign": Campaign(CampaignSettings(reference_accounts=100), context)}
    workers = [Worker(Partition("t", 0), detectors, "", None, {}, "inference")]
    population = Population(detectors, "", None, PANE_US, 0, 1e9)
    assert play(workers, population, traffic(1, 0)) == ([], [])
    return detectors["campaign"].fitted([], population.state)


@pytest.fixture(scope="module")
def attacked():
    return traffic(2, 1, campaign=40)


def test_a_campaign_is_found_and_its_members_named(baseline, attacked):
    _, alerts = play(*service(baseline), attacked)
    first = alerts[0]
    assert {a.id for a in alerts} == {first.id}
    evidence = first.evidence
    assert evidence["accounts"] >= 20
    assert all(member.startswith("user-9") for member in evidence["members"])
    assert evidence["tested_on"]["reference_accounts"] == 0
    assert evidence["alike"]["members"] > 3 * abs(evidence["alike"]["all"])
    assert next(iter(evidence["differs_in"])) == "content"
    assert evidence["summed_state"]["squared_distance"] > evidence["summed_state"]["floor"]
    assert first.p_value < 0.01
    assert sum(evidence["histograms"]["hours"]["group"]) == pytest.approx(1, abs=0.01)
    assert "AISVS 11.5.2" in first.tags
    assert "accounts act as one" in first.title


def test_products_and_crowds_are_no_campaign(baseline):
    rows = [row for day in (1, 2, 3) for row in traffic(3, day, accounts=330)]
    said, alerts = play(*service(baseline), rows)
    assert len({at for _, at, _, _ in said}) >= 20  # a look every three hours, once accounts have enough requests
    assert alerts == []


def test_the_result_depends_on_neither_cuts_nor_partitions(baseline, attacked):
    wanted, alerts = play(*service(baseline), attacked)
    for cut, partitions in ((100, 1), (len(attacked), 1), (333, 3)):
        said, others = play(*service(baseline, partitions), attacked, cut)
        assert said == wanted
        assert [(a.id, a.status, a.count) for a in others] == [(a.id, a.status, a.count) for a in alerts]


def test_a_reference_is_learned_from_the_first_window_and_not_from_what_is_judged(attacked):
    workers, population = service()
    said, alerts = play(workers, population, traffic(1, 0), final=False)
    assert (said, alerts) == ([], [])
    _, alerts = play(workers, population, attacked + traffic(4, 2))
    assert any(a.evidence["members"][0].startswith("user-9") for a in alerts)
    known = {n: a.copy() for n, a in population.state.arrays.items() if n.startswith("campaign.reference/")}
    play(workers, population, traffic(5, 3))
    assert known and all(np.array_equal(a, population.state.arrays[n]) for n, a in known.items())


def test_accounts_on_the_list_are_left_out(baseline, attacked):
    said, alerts = play(*service(baseline, allow=("user-9*",)), attacked)
    assert alerts == [] and said


def test_a_restart_goes_on_where_it_was(baseline, attacked):
    wanted = play(*service(baseline), attacked)
    workers, population = service(baseline)
    half = len(attacked) // 2
    first = play(workers, population, attacked[:half], final=False)
    restored = [unpack(pack(w.snapshot([])), {}) for w in workers]
    whole = unpack(pack(population.snapshot([])), {})
    detectors = population.detectors
    again = [Worker(Partition("t", 0), detectors, "", Snapshot(restored[0].state, 0), {}, "inference")]
    second = play(again, Population(detectors, "", whole, PANE_US, 0, 1e9), attacked[half:])
    assert first[0] + second[0] == wanted[0]
    assert [a.id for a in first[1] + second[1]] == [a.id for a in wanted[1]]


def test_a_replay_of_hours_that_were_merged_changes_nothing(baseline, attacked):
    workers, population = service(baseline)
    play(workers, population, attacked)
    sums = population.state["campaign.sums"].copy()
    fresh = [Worker(Partition("t", 0), population.detectors, "", None, {}, "inference")]
    play(fresh, population, attacked)
    assert np.array_equal(sums, population.state["campaign.sums"])


def test_a_flood_of_accounts_stays_within_bounds(baseline):
    workers, population = service(baseline, most_accounts=1000)
    rows = [(HOUR_US * 24 + i * 1_000_000, f"flood-{i}", "hello") for i in range(8000)]
    play(workers, population, rows)
    table = population.state.table("campaign.account")
    assert len(table) <= 1000 and len(population.state["campaign.sums"]) <= 1024 and table.evicted > 0
    assert {key.split("|")[0] for key in workers[0].state.table("campaign.open").index} == {"26"}  # the hour that is not over


def test_without_text_accounts_are_told_by_size_and_parameters():
    rng = np.random.default_rng(0)
    n = 50
    table = {
        "principal": pa.array(["a"] * n),
        "input_tokens": pa.array(rng.integers(1, 5000, n), pa.int32()),
        "temperature": pa.array(np.full(n, 0.5, np.float32)),
    }
    batch = Batch("inference", pa.RecordBatch.from_pydict(table), np.arange(n), np.arange(n))
    values, kind, size = signature.content(batch)
    columns = signature.bins(batch, kind, size)
    assert not values.any() and set(kind) == {-1}
    assert len(set(columns[:, 2])) > 5 and len(set(columns[:, 4])) == 1


def test_an_embedding_is_content():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 32)).astype(np.float32)
    vectors[3] = vectors[0] * 7
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 32)
    table = pa.RecordBatch.from_pydict({"principal": pa.array(["a"] * 6), "embedding": column})
    values, kind, _ = signature.content(Batch("inference", table, np.arange(6), np.arange(6)))
    assert set(kind) == {1}
    assert np.allclose(values[0], values[3], atol=1e-5) and not np.allclose(values[0], values[1], atol=0.1)


def test_groups_of_noise_are_rarely_found_and_the_test_keeps_its_level():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(40):
        points = rng.normal(size=(800, 30)).astype(np.float32)
        points[rng.random(800) < 0.1, :2] += 6  # a crowd that is in both
        known, searched, tested = points[:400], points[400:600], points[600:]
        for region in regions(searched, known[:0]):
            inside = int(region.holds(tested).sum())
            false += log10_p(inside, len(tested), int(region.holds(known).sum()), len(known)) < -2
    assert false <= 2
