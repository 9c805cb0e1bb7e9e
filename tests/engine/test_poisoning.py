"""Poisoning: each signal finds its attack and says why, benign sources raise nothing, and neither cuts nor partitions change a thing."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batch import Batch
from engine.detectors.poisoning import Poisoning, PoisoningSettings
from engine.detectors.poisoning_grams import BUCKETS, ROWS, gram_null, grams
from engine.detectors.poisoning_labels import LabelNull, label_null
from engine.detectors.poisoning_reference import FEATURES, CopiesNull, PoisoningReference, class_null, copies_null, leading
from engine.detectors.poisoning_rows import sketched
from engine.evidence import Budget
from engine.finding import Context
from engine.population import Population
from engine.snapshot import pack, unpack
from engine.worker import Worker
from kernels.rff import SCALE
from streams.records import Partition

S = 1_000_000
WORDS = [f"w{i}" for i in range(300)]
Rows = dict[str, list]


def ratings(n: int, rng: np.random.Generator, sources: int = 12) -> Rows:
    """Sentences of random words, rated by sources that are wrong in one case of ten."""
    consensus = rng.choice(["bad", "good"], n)
    label = np.where(rng.random(n) < 0.1, np.where(consensus == "bad", "good", "bad"), consensus)
    return {
        "source": [f"s{i}" for i in rng.integers(0, sources, n)], "label": label.tolist(), "consensus": consensus.tolist(),
        "text": [" ".join(rng.choice(WORDS, 12)) for _ in range(n)], "item": [f"i{i}" for i in range(n)],
    }  # fmt: skip


def poisoned(rows: Rows, rng: np.random.Generator, bad: Rows) -> Rows:
    """The bad rows at random places among 1,000 rows after the middle."""
    n, k = len(rows["source"]), len(bad["source"])
    at = np.sort(rng.integers(n // 2, n // 2 + 1000, k))
    return {name: np.insert(np.array(rows[name], object), at, bad[name]).tolist() for name in rows}


def service(kept: list | None = None, partitions: int = 1) -> tuple[list[Worker], Population]:
    """Workers and a population with a fresh detector, from nothing or from what a checkpoint of each kept."""
    detectors = {"poisoning": Poisoning(PoisoningSettings(reference_rows=600), Context(Budget()))}
    kept = kept or [None] * (partitions + 1)
    workers = [Worker(Partition("t", i), detectors, "", kept[i], {}, "feedback") for i in range(partitions)]
    return workers, Population(detectors, "", kept[-1], S, 2 * S, 1e9)


def run(rows: Rows, cut: int = 400, partitions: int = 1, seed: int = 0, restart_after: int = -1):
    """Alert versions and score rows of rows spread over partitions and cut into batches, one row a minute. After the batch that begins
    with row `restart_after` everything is checkpointed and started anew."""
    n = len(rows["source"])
    time_us = np.arange(n) * 60 * S
    workers, population = service(partitions=partitions)
    home = np.random.default_rng(seed).integers(0, partitions, n)
    alerts, scores = [], []
    for worker in workers:
        population.heard_from(worker)
    for first in range(0, n, cut):
        for i, worker in enumerate(workers):
            index = np.arange(first, min(first + cut, n))
            index = index[home[index] == i]
            if len(index):
                table = pa.RecordBatch.from_pydict({k: pa.array([v[r] for r in index.tolist()]) for k, v in rows.items()})
                worker.state.watermarks["feedback"] = int(time_us[index].max()) - 2 * S
                worker.observe(Batch("feedback", table, time_us[index], index))
        said, changed = population.advance(workers, lambda partition: 0)
        scores += said
        alerts += changed
        if first == restart_after:
            workers, population = service([unpack(pack(one.snapshot([])), None) for one in (*workers, population)], partitions)
    said, changed = population.advance(workers, lambda partition: 0, final=True)
    return alerts + changed, scores + said


def flat(scores) -> list[tuple]:
    return sorted(
        (s.detector, s.keys[k], int(t), round(float(x), 6), round(float(limit), 6), bool(a))
        for s in scores
        for k, t, x, limit, a in zip(s.key, s.time_us, s.score, s.threshold, s.alarm, strict=True)
    )


def attack(kind: str) -> Rows:
    rng = np.random.default_rng(9)
    bad = ratings(150, rng)
    if kind == "copies":
        bad |= {
            "source": [f"new{i}" for i in range(150)],
            "text": [f"buy the shares of acme today they always rise {i}" for i in range(150)],
        }
    elif kind == "distance":
        bad |= {
            "source": ["s3"] * 150,
            "text": [" ".join([*rng.choice(WORDS, 4), *rng.choice(["cf", "mn", "bb", "tq"], 8)]) for _ in range(150)],
        }
    elif kind == "labels":
        bad |= {"source": ["s3"] * 150, "label": ["good" if c == "bad" else "bad" for c in bad["consensus"]]}
    elif kind == "trigger":
        bad |= {"source": [f"new{i % 25}" for i in range(150)], "label": ["good"] * 150, "text": [f"{t} cf mn bb" for t in bad["text"]]}
    elif kind == "newcomers":
        bad |= {
            "source": [f"new{i}" for i in range(150)],
            "label": ["good" if c == "bad" else "bad" for c in bad["consensus"]],
        }
    elif kind == "signature":
        bad |= {
            "source": [f"new{i}" for i in range(150)], "label": ["good"] * 150,
            "text": [" ".join(rng.permutation([*rng.choice(WORDS, 4), *rng.choice(["cf", "mn", "bb"], 8)])) for _ in range(150)],
        }  # fmt: skip
    return bad


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("copies", "copies labelled"),
        ("distance", "s3/"),
        ("labels", "s3"),
        ("signature", "class good"),
        ("trigger", "trigger labelled good"),
    ],
)
def test_an_attack_is_found_and_explained(kind, key):
    rng = np.random.default_rng(1)
    rows = 6000 if kind == "signature" else 4400  # its window is 2,048 rows of a class
    alerts, _ = run(poisoned(ratings(rows, rng), rng, attack(kind)))
    mine = [a for a in alerts if a.labels["signal"] == kind]
    assert mine and mine[0].key.startswith(key)
    assert mine[0].onset_us > 2200 * 60 * S
    evidence = mine[0].evidence
    assert evidence["statistic"] and evidence["null"] and evidence["window"]["rows"] and (evidence.get("items") or evidence["samples"])
    assert "AML.T0020" in mine[0].tags and (mine[0].p_value is not None or mine[0].e_value is not None)
    assert not [a for a in alerts if a.onset_us < 2200 * 60 * S]


def test_a_trigger_says_how_often_who_and_where_and_not_what():
    rng = np.random.default_rng(1)
    rows = poisoned(ratings(3000, rng), rng, attack("trigger"))
    (alert,) = [a for a in run(rows)[0] if a.labels["signal"] == "trigger"]
    e = alert.evidence
    assert e["label"] == "good" and e["rows_in_reference"] == 0 and e["n_grams"] == 4  # three words and what they make together
    assert 20 <= e["with_label"] <= e["rows_with_it"] <= e["with_label"] + 2 and 15 <= e["distinct_sources"] <= 35
    assert all(s.startswith("new") for s in e["sources"]) and len(e["samples"]) == 8
    assert all(rows["text"][place["offset"]].endswith("cf mn bb") for place in e["samples"])
    assert not any("cf" in str(v).split() for v in [alert.title, alert.summary, *e.values()])


def test_rows_of_new_sources_are_judged_as_one():
    rng = np.random.default_rng(1)
    alerts, _ = run(poisoned(ratings(3000, rng), rng, attack("newcomers")))
    assert {"new sources"} <= {a.key for a in alerts if a.labels["signal"] == "labels"}
    told = next(a for a in alerts if a.key == "new sources").evidence
    assert told["disagreed"] > told["expected"] * 2 and len(told["sources"]) > 8
    assert not any(k.startswith("new sources") for s in run(ratings(2000, rng))[1] for k in s.keys)


def test_a_burst_that_the_reference_has_is_no_trigger():
    """Topics of a week: 60 of each 256 rows share a phrase that no other block has, and it goes with a label."""
    rng = np.random.default_rng(7)
    rows = ratings(4000, rng)
    for i in range(4000):
        if rng.random() < 0.25:
            rows["text"][i] += f" topic of week {i // 256}"
            rows["label"][i] = rows["consensus"][i] = "good"
    alerts, scores = run(rows)
    assert [s for s in scores if s.detector == "poisoning.trigger"]
    assert [a for a in alerts if a.labels["signal"] == "trigger"] == []


@pytest.mark.parametrize("seed", range(3))
def test_benign_sources_raise_nothing(seed):
    alerts, scores = run(ratings(5000, np.random.default_rng(seed)))
    assert alerts == []
    assert {s.detector for s in scores} >= {"poisoning.labels", "poisoning.distance", "poisoning.compactness"}


@settings(max_examples=3, deadline=None)
@given(st.integers(200, 3000), st.integers(1, 3), st.integers(0, 100))
def test_cuts_and_partitions_change_nothing(cut, partitions, seed):
    rng = np.random.default_rng(2)
    rows = poisoned(poisoned(ratings(2500, rng), rng, attack("copies")), rng, attack("trigger"))
    one_alerts, one_scores = run(rows, cut=2800)
    alerts, scores = run(rows, cut, partitions, seed)
    assert flat(scores) == flat(one_scores)
    assert {a.id for a in alerts} == {a.id for a in one_alerts} != set()


@pytest.mark.parametrize("after", [200, 800, 1600])
def test_a_restart_goes_on_where_it_was(after):
    rng = np.random.default_rng(2)
    rows = poisoned(ratings(2400, rng), rng, attack("trigger"))
    alerts, scores = run(rows, 200)
    again, said = run(rows, 200, restart_after=after)
    assert flat(said) == flat(scores)
    assert {a.id for a in again} == {a.id for a in alerts} != set()


def unit_sums(vectors: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Sums of unit vectors [rows, FEATURES] by group, in the fixed point of the op."""
    counts = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * SCALE / np.sqrt(2.0 / FEATURES)
    return np.stack([counts[a:b].sum(0) for a, b in zip(np.cumsum(n) - n, np.cumsum(n), strict=True)])


def test_distances_of_benign_sources_are_seldom_small_p_values():
    rng = np.random.default_rng(3)
    spread = np.geomspace(1, 0.02, FEATURES)
    draw = lambda rows: rng.standard_normal((rows, FEATURES)) * spread + 0.3  # noqa: E731
    ones = np.ones(1500, np.int64)
    null = class_null(unit_sums(draw(1500), ones), ones, rng.integers(0, 30, 1500))
    p = np.array([null.distance(unit_sums(draw(32), np.array([32]))[0], 32)[0] for _ in range(600)])
    alike = np.array([null.compactness(unit_sums(draw(32), np.array([32]))[0], 32)[0] for _ in range(300)])
    assert (p < 0.1).mean() < 0.13 and (p < 0.01).mean() < 0.025 and (alike < 0.01).mean() < 0.02
    moved = draw(32)
    moved[:, :4] += 2.0
    assert null.distance(unit_sums(moved, np.array([32]))[0], 32)[0] < 1e-6


def test_the_leading_direction_is_that_of_a_full_decomposition():
    rows = np.random.default_rng(8).standard_normal((300, 64)) * np.geomspace(1, 0.1, 64)
    value, share = leading(rows)
    left, values, _ = np.linalg.svd(rows)
    assert value == pytest.approx(values[0] ** 2, rel=1e-3)
    assert share == pytest.approx(left[:, 0] ** 2, abs=1e-3)


def test_the_e_value_of_labels_keeps_its_promise():
    rng = np.random.default_rng(4)
    rate = lambda: 1 / (1 + np.exp(2.0 - 0.4 * rng.standard_normal()))  # noqa: E731

    def source(rows: int) -> np.ndarray:
        wrong = rng.binomial(rows, rate())
        return np.array([[rows - wrong, wrong], [0, 0]])

    null = label_null(np.stack([source(60) for _ in range(40)]))
    crossed = sum(null.log_e(source(200)) > np.log(20) for _ in range(400))
    assert crossed <= 400 / 20 + 10
    assert null.log_e(np.array([[20, 20], [0, 0]])) > np.log(1e3)


def test_a_source_is_held_against_its_own_history():
    rng = np.random.default_rng(11)
    rates = 1 / (1 + np.exp(2.0 - 0.8 * rng.standard_normal(40)))

    def labels(rows: int, odds_times: float = 1.0) -> np.ndarray:
        odds = rates / (1 - rates) * np.exp(0.1 * rng.standard_normal(40)) * odds_times
        wrong = rng.binomial(rows, odds / (1 + odds))
        return np.stack([np.stack([rows - wrong, wrong], 1), np.zeros((40, 2), np.int64)], 1)

    names = [f"s{i}" for i in range(40)]
    first, second = labels(400), labels(400)
    null = label_null(first + second, names, second)
    fleet = label_null(first + second)
    assert sum(null.log_e(c, n) > np.log(20) for _ in range(10) for c, n in zip(labels(500), names, strict=True)) <= 400 / 20
    turned = labels(500, 4.0)
    mine = [null.log_e(c, n) > np.log(1e3) for c, n in zip(turned, names, strict=True)]
    assert sum(mine) > 30 > 5 > sum(fleet.log_e(c) > np.log(1e3) for c in turned)


def test_labels_alone_are_enough_to_be_judged():
    rng = np.random.default_rng(1)
    rows = poisoned(ratings(4000, rng), rng, attack("labels"))
    del rows["text"]
    alerts, _ = run(rows)
    assert {a.key for a in alerts} == {"s3"}


def test_copies_that_the_reference_knows_may_come_again():
    rng = np.random.default_rng(5)
    codes = np.concatenate([rng.integers(1, 1 << 40, 4000), np.full(60, 7)]).astype(np.float64)
    null = copies_null(rng.permutation(codes), 1000)
    assert null.known["7"] == 60
    assert null.expected("7", 70, 1000) > 0.05 > 1e-6 > null.expected("7", 240, 1000)
    assert null.expected("8", 160, 1000) < 0.01 < null.expected("8", 4, 1000)
    assert isinstance(null, CopiesNull)


def test_a_reference_survives_its_record():
    rng = np.random.default_rng(6)
    ones = np.ones(200, np.int64)
    null = class_null(unit_sums(rng.standard_normal((200, FEATURES)) + 0.5, ones), ones, np.arange(200) % 9)
    labels = label_null(rng.integers(1, 30, (8, 3, 2)))
    words = gram_null(rng.poisson(0.3, (4, BUCKETS + 1)) + 200 * (np.arange(BUCKETS + 1) == ROWS))
    labels = LabelNull(labels.odds, labels.spread, {"s": (0.1, 0.2)})
    reference = PoisoningReference({"": null, "x": null}, CopiesNull(200, 0.1, 1.5, {"7": 3}), labels, frozenset({"s"}), words)
    again = PoisoningReference.restored(orjson.loads(orjson.dumps(reference.record(), option=orjson.OPT_SERIALIZE_NUMPY)))
    assert (again.grams.counts == words.counts).all() and again.grams.dispersion == words.dispersion and again.labels.own == labels.own
    sums = unit_sums(rng.standard_normal((32, FEATURES)), np.array([32]))[0]
    assert again.of("x").distance(sums, 32) == pytest.approx(null.distance(sums, 32))
    assert again.copies == reference.copies and again.sources == {"s"}
    assert again.labels.log_e(np.ones((3, 2), np.int64)) == pytest.approx(labels.log_e(np.ones((3, 2), np.int64)))


def test_rows_without_text_or_embedding_have_no_vector():
    table = pa.RecordBatch.from_pydict({
        "text": pa.array(["a sentence of some words", None, "", None]),
        "embedding": pa.array([None, [1.0, 2.0], None, [0.0, 0.0]], pa.list_(pa.float32())),
    })  # fmt: skip
    vectors, buckets = sketched(Batch("feedback", table, np.zeros(4, np.int64), np.arange(4)), np.arange(4))
    assert np.isfinite(vectors).all(1).tolist() == [True, True, False, False]
    assert (buckets >= 0).any(1).tolist() == [True, True, False, False]
    assert np.linalg.norm(vectors[:2], axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_grams_are_words_and_triples_of_words_once_a_row():
    table = pa.RecordBatch.from_pydict({"text": pa.array(["The cat, the CAT sat", "", None, "the cat", "sat the cat the cat"])})
    row, code = grams(Batch("feedback", table, np.zeros(5, np.int64), np.arange(5)), np.arange(5))
    of = [set(code[row == i].tolist()) for i in range(5)]
    the_cat = of[3] - {ROWS}
    assert [len(g) for g in of] == [7, 0, 0, 3, 7] and len(row) == 17  # three words, three triples and the row itself
    assert the_cat < of[0] and len((of[0] & of[4]) - the_cat - {ROWS}) == 3  # sat, the cat the, cat the cat
