"""Grounding: scores that drop, verdicts that turn, evaluations that stop coming, retrievals that find nothing; cuts change nothing."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.detectors.grounding import Grounding, GroundingSettings
from engine.evidence import Budget
from engine.finding import Context
from streams.decode.attributes import span_row
from tests.engine.population_runs import S, flat, opened, run


def grounding(rows: int = 1000, **of) -> Grounding:
    return Grounding(GroundingSettings(reference_rows=rows, **of), Context(Budget()))


def evaluations(n: int, seed: int = 0, drop=0.0, fails=0.1, name="groundedness") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "model": np.full(n, "m", object),
        "name": np.full(n, name, object),
        "score": np.clip(generator.beta(8, 2, n) - drop, 0, 1).astype(np.float32),
        "label": np.where(generator.random(n) < fails, "fail", "pass").astype(object),
    }


def joined(*parts):
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def times(n: int, per_second: float = 2.0, start: int = 0) -> np.ndarray:
    return start + (np.arange(n) * (S / per_second)).astype(np.int64)


def test_a_score_that_drops_is_found():
    columns = joined(evaluations(2000, 1), evaluations(1000, 2, drop=0.15))
    alerts, _, _ = run(grounding(), {"evaluation": (times(3000), columns)})
    first = opened(alerts)[0]
    assert (first.key, first.stream, first.evidence["direction"]) == ("m/groundedness/score", "evaluation", "fall")
    assert (first.labels["model"], first.labels["evaluation"]) == ("m", "groundedness")
    assert 1000 < first.onset_us / S < 1100 and abs(first.evidence["began_us"] / S - 1000) < 40
    assert {a.key for a in opened(alerts)} == {"m/groundedness/score"}


def test_a_distribution_that_splits_in_two_is_found():
    after = evaluations(3000, 3)
    after["score"] = np.random.default_rng(4).choice([0.55, 1.0], 3000).astype(np.float32)
    alerts, _, _ = run(grounding(), {"evaluation": (times(5000), joined(evaluations(2000, 5), after))})
    assert "m/groundedness/score" in {a.key for a in opened(alerts)}


def test_verdicts_that_turn_are_found():
    columns = joined(evaluations(2000, 1), evaluations(800, 2, fails=0.35))
    alerts, _, _ = run(grounding(), {"evaluation": (times(2800), columns)})
    assert {a.key for a in opened(alerts)} == {"m/groundedness/pass_rate"}


@pytest.mark.parametrize(("direction", "found"), [("rise", set()), ("fall", {"m/toxicity/score"})])
def test_the_direction_that_is_bad_can_be_told(direction, found):
    columns = joined(evaluations(2000, 1, name="toxicity"), evaluations(1000, 2, drop=0.3, name="toxicity"))
    alerts, _, _ = run(grounding(direction={"tox*": direction}), {"evaluation": (times(3000), columns)})
    assert {a.key for a in opened(alerts)} == found


def test_evaluations_that_stop_coming_are_found():
    served = {"model": np.full(12_000, "m", object)}
    alerts, _, _ = run(grounding(), {"evaluation": (times(2000, 0.5), evaluations(2000, 6)), "inference": (times(12_000), served)}, cut=200)
    assert {a.key for a in opened(alerts)} == {"m/groundedness/evaluated"}
    first = opened(alerts)[0]
    assert 4000 < first.onset_us / S < 4400 and first.evidence["after"] < 0.1 < first.evidence["before"]


def test_retrievals_that_find_nothing_or_worse_are_found():
    n, generator = 4000, np.random.default_rng(7)
    number = generator.integers(2, 9, n)
    number[2500:][generator.random(1500) < 0.3] = 0
    best = generator.beta(9, 3, n)
    best[3000:] *= 0.5
    documents = [str([{"score": round(float(s), 3)}] * int(k)).replace("'", '"') for k, s in zip(number, best, strict=True)]
    columns = {
        "operation": np.full(n, "retrieval", object), "data_source": np.full(n, "wiki", object), "session": np.full(n, "s", object),
        "documents": pa.array(documents, pa.large_string()),
    }  # fmt: skip
    alerts, _, _ = run(grounding(), {"agent": (times(n), columns)})
    first = {a.key: a for a in reversed(opened(alerts))}
    assert set(first) == {"wiki/empty_rate", "wiki/documents", "wiki/top_score"}
    assert 1250 < first["wiki/empty_rate"].onset_us / S < 1500  # the reference has none of them
    assert 1500 < first["wiki/top_score"].onset_us / S < 1600


def test_numbers_of_the_producer_win_and_failures_say_nothing():
    n = 1500
    columns = {
        "operation": np.full(n, "retrieval", object), "tool": np.full(n, "search", object),
        "retrieved": np.where(np.arange(n) % 2, 0, 3).astype(np.int32), "error": np.where(np.arange(n) % 2, "timeout", None).astype(object),
    }  # fmt: skip
    _, _, population = run(grounding(500), {"agent": (times(n), columns)})
    nulls = population.state.records["grounding.nulls"]
    assert list(nulls["search/empty_rate"]["mean"]) == [0.0]
    assert nulls["search/documents"]["rows"] >= 500


@settings(max_examples=5, deadline=None)
@given(st.integers(60, 1500), st.integers(1, 3), st.integers(0, 100))
def test_cuts_and_partitions_change_nothing(cut, partitions, seed):
    streams = {
        "evaluation": (times(2500, 1.0), joined(evaluations(1500, 8), evaluations(1000, 9, drop=0.3))),
        "inference": (times(5000), {"model": np.full(5000, "m", object)}),
    }
    one_alerts, one_scores, _ = run(grounding(), streams, cut=5000)
    alerts, scores, _ = run(grounding(), streams, cut, partitions, seed)
    assert flat(scores) == flat(one_scores)
    assert {a.id for a in alerts} == {a.id for a in one_alerts} != set()


def test_no_change_no_alarm():
    alerts, _, _ = run(grounding(), {"evaluation": (times(20_000, 0.1), evaluations(20_000, 10))}, cut=5000)
    assert alerts == []


def test_documents_of_a_retrieval_span_arrive():
    documents = [{"id": "a", "score": 0.5}]
    stream, row = span_row(
        {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": "wiki", "gen_ai.retrieval.documents": documents}, {}, (), 1, 2, None
    )
    assert (stream, row["data_source"], row["documents"]) == ("agent", "wiki", '[{"id":"a","score":0.5}]')
    _, row = span_row({"openinference.span.kind": "RETRIEVER", "retrieval.documents.0.document.score": 0.25}, {}, (), 1, 2, None)
    assert row["top_score"] == 0.25
