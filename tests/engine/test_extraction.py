"""extraction: found, not found, the same for every cut into batches, and nothing learned from what is judged."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import signal

from engine.baseline import Baseline
from engine.batch import Batch
from engine.detectors.extraction import EVERY, Extraction, ExtractionSettings
from engine.detectors.extraction_views import learning_rows
from engine.evidence import Budget
from engine.finding import Context
from engine.metrics import Metrics
from engine.outbox import Outbox
from engine.snapshot import Snapshot, pack, unpack
from engine.state import State

DATA = Path(__file__).parents[3] / "shared/data/extraction"
RNG = np.random.default_rng(11)
SUBJECTS = ["the report", "my account", "our last order", "the new invoice", "a customer", "the server", "their team"]
VERBS = ["was sent to", "can not open", "should follow", "is missing from", "has replaced", "depends on", "will update"]
OBJECTS = ["the billing page", "the old system", "a second address", "the main office", "your help desk", "the final version"]


def sentence():
    parts = [RNG.choice(SUBJECTS), RNG.choice(VERBS), RNG.choice(OBJECTS)]
    return " ".join([*parts, RNG.choice(["today", "again", "since Monday", f"on day {RNG.integers(1, 30)}"])]).capitalize() + "."


def benign():
    return " ".join(sentence() for _ in range(RNG.integers(1, 5)))


def salad():
    words = benign().split()
    return " ".join(words[i] for i in RNG.permutation(len(words)))


def prompts(rows, start_s=0):
    columns = {
        "principal": pa.array([p for p, _ in rows]).dictionary_encode(),
        "prompt": pa.array([q for _, q in rows], pa.large_string()),
    }
    return batch(columns, len(rows), start_s)


def vectors(rows, start_s=0, embedding=False):
    points = np.array([v for _, v in rows], np.float32)
    columns = {"principal": pa.array([p for p, _ in rows]).dictionary_encode()}
    if embedding:
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(points.ravel()), points.shape[1])
    else:
        columns |= {f"feature.x{i}": pa.array(points[:, i]) for i in range(points.shape[1])}
    return batch(columns, len(rows), start_s)


def batch(columns, n, start_s):
    return Batch("inference", pa.RecordBatch.from_pydict(columns), (start_s + np.arange(n)) * 1_000_000, start_s + np.arange(n))


def detector(baseline=None, **settings):
    made = Extraction(ExtractionSettings(**settings), Context(Budget(), baseline={"extraction": baseline} if baseline else {}))
    state = State()
    state.declare(made.arrays())
    return made, state


def run(made, state, *batches):
    """(rows of the combined score [key, time, score, threshold, alarm], findings)."""
    rows, findings = [], []
    for one in batches:
        made.observe(one, state)
        said = made.judge(state, 0)
        findings += said.findings
        for s in said.scores:
            if s.detector == "extraction":
                rows += zip(
                    [s.keys[k] for k in s.key], s.time_us.tolist(), s.score.tolist(), s.threshold.tolist(), s.alarm.tolist(), strict=True
                )
    return rows, findings


@pytest.fixture(scope="module")
def text_baseline():
    made, state = detector(reference_rows=2000)
    made.observe(prompts([("ref", benign()) for _ in range(800)]), state)
    return made.fitted([state], State())


def mixed(principal, n, share):
    queries = [salad() if RNG.random() < share else benign() for _ in range(n)]
    return [(principal, q) for q in queries]


def test_an_attacker_among_benign_queries_is_found_and_explained(text_baseline):
    made, state = detector(text_baseline)
    rows, findings = run(made, state, prompts(mixed("eve", 500, 0.3)), prompts(mixed("bob", 500, 0.0), 500))
    highest = {k: max(s for key, _, s, _, _ in rows if key == k) for k in ("eve", "bob")}
    assert highest["eve"] > 8
    assert highest["bob"] < 3
    assert {f.key for f in findings} == {"eve"}
    last = findings[-1]
    assert last.title == "Anomalous use by eve: consistent with model extraction"
    assert last.evidence["queries"] == 500
    assert last.evidence["features"][0]["feature"] in {"class_bits", "word_bits", "byte_bits", "combination"}
    assert last.evidence["queries_per_minute"] == pytest.approx(60, rel=0.05)
    assert "AML.T0024.002" in last.tags
    assert 0 < last.p_value < 1e-6


def test_a_principal_is_judged_after_every_25_rows(text_baseline):
    made, state = detector(text_baseline)
    rows, _ = run(made, state, prompts(mixed("a", 110, 0.0)))
    assert [t for _, t, *_ in rows] == [(i + 1) * EVERY * 1_000_000 - 1_000_000 for i in range(4)]


@pytest.mark.parametrize("cut", [1, 37, 200])
def test_batches_do_not_matter(text_baseline, cut):
    queries = [("ab"[i % 3 == 0], salad() if i % 5 == 0 else benign()) for i in range(400)]
    points = RNG.normal(0, 1, (400, 8)).astype(np.float32)
    base = {**text_baseline, **vector_baseline()}

    def both(start, stop):
        text = prompts(queries[start:stop], start).table
        columns = {n: text.column(n) for n in ("principal", "prompt")}
        columns |= {f"feature.x{i}": pa.array(points[start:stop, i]) for i in range(8)}
        return batch(columns, stop - start, start)

    whole, found = run(*detector(base), both(0, 400))
    parts, found_too = run(*detector(base), *(both(i, min(400, i + cut)) for i in range(0, 400, cut)))
    assert sorted(parts) == sorted(whole)
    assert len(whole) == 2 * sum(n // EVERY for n in (134, 266))
    assert [(f.key, f.score, f.evidence) for f in found] == [(f.key, f.score, f.evidence) for f in found_too]


def test_without_a_baseline_the_first_rows_are_learned_and_not_judged():
    made, state = detector(reference_rows=400)
    rows, _ = run(made, state, prompts(mixed("a", 250, 0.0)), prompts(mixed("b", 250, 0.0), 250))
    assert {k for k, *_ in rows} == {"b"}
    assert len(rows) == 100 // EVERY
    assert not [n for n in state.arrays if n.startswith("extraction.learning/")]
    reference = state["extraction.reference/text/table"].copy()
    run(made, state, prompts(mixed("eve", 300, 0.5), 500))
    np.testing.assert_array_equal(state["extraction.reference/text/table"], reference)


def test_learning_survives_a_checkpoint():
    made, state = detector(reference_rows=300)
    first, rest = prompts(mixed("a", 200, 0.0)), prompts(mixed("b", 300, 0.2), 200)
    run(made, state, first)
    packed = {name: array.copy() for name, array in pack(Snapshot(state, 0)).items()}
    restored = unpack(packed, None).state
    restored.declare(made.arrays())
    expected = run(made, state, rest)[0]
    assert expected
    assert run(made, restored, rest)[0] == expected


def test_a_baseline_is_the_same_after_saving(text_baseline, tmp_path):
    Baseline({"extraction": text_baseline}, {}).save(tmp_path)
    loaded = Baseline.load(tmp_path).parts["extraction"]
    queries = prompts(mixed("eve", 200, 0.3))
    assert run(*detector(loaded), queries)[0] == run(*detector(text_baseline), queries)[0]


def test_a_program_that_repeats_itself_is_no_evidence(text_baseline):
    odd = "zq9 #!? KRXW 77 zq9 zq9 vvv"
    rows, findings = run(*detector(text_baseline), prompts([("cron", odd)] * 1000))
    assert not findings
    assert rows[-1][2] < 2


def test_allowed_principals_are_scored_and_never_alarm(text_baseline):
    queries = prompts(mixed("batch-7", 500, 0.5))
    rows, findings = run(*detector(text_baseline, allow=("batch-*",)), queries)
    assert max(s - t for _, _, s, t, _ in rows) > 0
    assert not findings
    assert not any(alarm for *_, alarm in rows)


def test_empty_and_null_prompts_are_passed_over(text_baseline):
    made, state = detector(text_baseline)
    rows, _ = run(made, state, prompts([("a", None), ("a", "")] * 50), batch({"principal": pa.array(["a"] * 30)}, 30, 200))
    assert not rows


def vector_baseline(principals=10, n=100, dims=8):
    made, state = detector(reference_rows=5000)
    rng = np.random.default_rng(5)
    rows = [(f"r{i % principals}", rng.normal(0, 1, dims)) for i in range(principals * n)]
    made.observe(vectors(rows), state)
    return made.fitted([state], State())


@pytest.mark.parametrize("embedding", [False, True])
def test_iterative_queries_are_found(embedding):
    base = vector_baseline()
    walk = np.cumsum(RNG.normal(0, 0.02, (300, 8)), axis=0) + RNG.normal(0, 1, 8)
    calm = [("calm", RNG.normal(0, 1, 8)) for _ in range(300)]
    if embedding:
        made, state = detector(reference_rows=5000)
        made.observe(vectors([("r", RNG.normal(0, 1, 8)) for _ in range(1000)], embedding=True), state)
        base = made.fitted([state], State())
    _, findings = run(*detector(base), vectors([("walker", v) for v in walk], 0, embedding), vectors(calm, 300, embedding))
    assert {f.key for f in findings} == {"walker"}
    assert findings[-1].evidence["features"][0]["feature"] in {"nearest", "near_mean", "step", "combination", "mean_distance"}


def test_a_sweep_over_an_embedding_endpoint_covers_more_than_people_do():
    rng = np.random.default_rng(21)
    made, state = detector(reference_rows=5000)
    people = [(f"r{i}", v) for i, own in enumerate(rng.normal(0, 0.2, (12, 8))) for v in own + rng.normal(0, 1, (120, 8))]
    made.observe(vectors(people, embedding=True), state)
    base = made.fitted([state], State())
    sweep = [("sweeper", v) for v in rng.uniform(-2.5, 2.5, (300, 8))]
    person = [("person", v) for v in 0.2 + rng.normal(0, 1, (300, 8))]
    _, findings = run(*detector(base), vectors(sweep, 0, True), vectors(person, 300, True))
    assert {f.key for f in findings} == {"sweeper"}
    assert {f["feature"]: f["tail"] for f in findings[-1].evidence["features"]}["mean_distance"] == "upper"


def test_prompts_of_a_template_are_found_by_their_likeness(text_baseline):
    told = [("eve", f"{sentence()} Explain item {i} of the list, step by step, as for a new colleague of ours.") for i in range(400)]
    _, findings = run(*detector(text_baseline), prompts(told), prompts(mixed("bob", 400, 0.0), 400))
    assert {f.key for f in findings} == {"eve"}
    model = findings[-1].evidence
    assert model["view"] == "text" and model["histogram"]
    made, state = detector(text_baseline)
    made.observe(prompts(told), state)
    due = state.pending["extraction"][0]
    log_e = due.novelty.log_evidence(due.due.counts[-1:])[1][0]
    assert log_e[list(due.view.features).index("near_copy")] > 5
    assert log_e[list(due.view.features).index("sameness")] > 5


def test_vectors_that_are_not_whole_or_of_another_width_are_passed_over():
    base = vector_baseline()
    broken = [("a", [np.nan] + [0.0] * 7)] * 50
    rows, findings = run(*detector(base), vectors(broken), vectors([("b", RNG.normal(0, 1, 12)) for _ in range(50)], 50))
    assert {k for k, *_ in rows} == {"b"}
    assert not findings


def test_a_principal_costs_at_most_20_kb():
    _, state = detector()
    per_principal = sum(a[0].nbytes for name, a in state.arrays.items() if name.startswith("extraction."))
    assert per_principal <= 20_000


def wandering(n, kept, seed, shift=4.0, users=2):
    rng = np.random.default_rng(seed)
    mood = signal.lfilter([np.sqrt(1 - kept**2)], [1, -kept], rng.normal(size=n))
    return [(f"u{u}", v) for u, v in zip(rng.integers(0, users, n).tolist(), rng.normal(0, 1, (n, 8)) + shift * mood[:, None], strict=True)]


def held(state):
    return dict(learning_rows(state)).get("vector", 0)


@pytest.mark.parametrize("cut", [77, 9000])
def test_a_reference_of_queries_that_are_alike_is_learned_for_longer(cut):
    alike, alone = wandering(9000, 0.9, 1), wandering(9000, 0.9, 1, shift=0.0)
    learned = []
    for rows in (alike, alone):
        made, state = detector(reference_rows=500)
        for i in range(0, 9000, cut):
            made.observe(vectors(rows[i : i + cut], i), state)
        assert not held(state)
        learned.append(9000 - int(state["extraction.vector.rows"].sum()))
    assert learned[1] == 500 < learned[0] <= 8000


def test_what_is_put_aside_is_bounded_and_told():
    made, state = detector(reference_rows=100)
    rows = wandering(2000, 0.99, 2)
    made.observe(vectors(rows[:1500]), state)
    assert held(state) == 1500
    metrics = Metrics()
    metrics.refresh(Outbox([], threads=False), {0: SimpleNamespace(state=state)}, lambda partition: None)
    assert metrics.registry.get_sample_value("telltale_learning_rows", {"view": "vector"}) == 1500
    made.observe(vectors(rows[1500:], 1500), state)
    assert held(state) == 0
    assert int(state["extraction.vector.rows"].sum()) == 400
    assert state["extraction.reference/vector/null"][0, -1] < 64


def moved(rng, who, n, by):
    return [(who, v) for v in rng.normal(by, 1, (n, 8))]


@pytest.mark.parametrize("at_once", [True, False])
def test_what_all_do_at_the_same_time_is_no_extraction(at_once):
    """A population that moves raises the alarm once or twice, not for each of its principals; one that moves alone does; and one after
    the other they are no contemporaries."""
    rng = np.random.default_rng(31)
    base = vector_baseline()
    of_each = [moved(rng, f"u{i}", 400, 1.2) for i in range(8)]
    rows = [r for part in (zip(*of_each, strict=True) if at_once else of_each) for r in part]
    _, findings = run(*detector(base), vectors(rows))
    assert len({f.key for f in findings}) in ((1, 2) if at_once else (8,))


def test_who_stands_out_among_those_who_move_is_found():
    rng = np.random.default_rng(32)
    base = vector_baseline()
    of_each = [moved(rng, f"u{i}", 600, 0.6) for i in range(7)] + [moved(rng, "eve", 600, 3.0)]
    _, findings = run(*detector(base), vectors([r for same in zip(*of_each, strict=True) for r in same]))
    assert "eve" in {f.key for f in findings}


def test_an_alert_lasts_as_long_as_its_window(text_baseline):
    _, findings = run(*detector(text_baseline, quiet_s=60), prompts(mixed("eve", 500, 0.4)))
    window = findings[-1].evidence["window"]
    assert findings[-1].quiet_us > 60e6
    assert findings[-1].quiet_us <= window["to_us"] - findings[0].evidence["window"]["from_us"] + 500e6


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="no evaluation data")
def test_word_salad_attackers_of_real_data_stand_out():
    table = pq.read_table(DATA / "llm_queries/queries.parquet", columns=["pair", "label", "query"]).to_pydict()
    chosen = [(label, q) for pair, label, q in zip(*table.values(), strict=True) if pair == "ME_BERT_boolq_random"]
    ordinary, attack = ([q for label, q in chosen if label == wanted] for wanted in (0, 1))
    made, state = detector(reference_rows=2000)
    made.observe(prompts([("ref", q) for q in ordinary[::2]]), state)
    base = made.fitted([state], State())
    fresh = ordinary[1::2]
    rows, _ = run(*detector(base), prompts([("eve", q) for q in fresh[:275] + attack[:25]] + [("bob", q) for q in fresh[300:600]]))
    highest = {k: max(s for key, _, s, _, _ in rows if key == k) for k in ("eve", "bob")}
    assert highest["eve"] > 3
    assert highest["bob"] < 1.5
