"""probing: logit harvesting and parameter sweeps are found, usual use of the same parameters is not."""

import numpy as np
import pyarrow as pa
import pytest

from engine.batch import Batch
from engine.detectors.probing import Probing, ProbingSettings
from engine.evidence import Budget
from engine.finding import Context
from engine.state import State

SECOND_US = 1_000_000


def request(principal, tokens=None, logprobs=None, max_tokens=512, temperature=1.0):
    return principal, tokens, logprobs, max_tokens, temperature


def batch(rows, start):
    who, tokens, logprobs, limits, temperatures = zip(*rows, strict=True)
    table = {
        "principal": pa.array(who), "model": pa.array(["m"] * len(rows)), "logit_bias_tokens": pa.array(tokens, pa.list_(pa.int32())),
        "logprobs": pa.array(logprobs, pa.int32()), "max_tokens": pa.array(limits, pa.int32()),
        "temperature": pa.array(temperatures, pa.float32()),
    }  # fmt: skip
    time_us = (1000 + start + np.arange(len(rows))) * SECOND_US
    return Batch("inference", pa.RecordBatch.from_pydict(table), time_us, np.arange(len(rows)) + start)


def run(rows, cut=1000, **settings):
    made, state = Probing(ProbingSettings(**settings), Context(Budget())), State()
    state.declare(made.arrays())
    scores, findings = [], []
    for first in range(0, len(rows), cut):
        made.observe(batch(rows[first : first + cut], first), state)
        said = made.judge(state, 0)
        findings += said.findings
        for s in said.scores:
            scores += zip([s.keys[k] for k in s.key], s.time_us.tolist(), s.score.tolist(), s.alarm.tolist(), strict=True)
    return scores, findings


def usual(n=300):
    """A classifier by logprobs with a fixed bias, a chat with two temperatures, a plain user."""
    kinds = (
        lambda i: request("classifier", [11, 12, 13], 5, 1),
        lambda i: request("chat", temperature=(0.2, 1.0)[i % 2]),
        lambda i: request("plain"),
    )
    return [kinds[i % 3](i) for i in range(n)]


def harvest(n=40):
    return [request("harvester", [1000 + i], 5, 1) for i in range(n)]


def test_harvesting_logits_is_found_and_explained():
    rows = [row for pair in zip(usual(120), harvest(120), strict=True) for row in pair]
    _, findings = run(rows)
    assert {f.key for f in findings} == {"harvester"}
    first = findings[0]
    assert first.evidence["kind"] == "harvest" and first.evidence["such_requests"] >= 4
    assert first.evidence["share"] > 0.9 and first.e_value >= 1
    assert 90 < findings[-1].evidence["distinct_biased_tokens"] < 160
    assert first.first_us < (1000 + 40) * SECOND_US  # within 20 of its requests
    assert "AISVS 11.5.2" in first.tags


def test_a_sweep_over_parameters_is_found():
    rows = usual(60) + [request("sweeper", temperature=0.01 * i, max_tokens=16 + i) for i in range(60)]
    _, findings = run(rows)
    assert {(f.key, f.evidence["kind"]) for f in findings} == {("sweeper", "sweep")}


def test_usual_use_is_silent():
    _, findings = run(usual(3000))
    assert findings == []


def test_repeats_of_one_bias_are_no_harvest():
    _, findings = run([request("a", [1, 2, 3], 5, 1) for _ in range(500)])
    assert findings == []


def test_principals_on_the_list_never_alarm_and_are_scored():
    scores, findings = run(harvest(), allow=("harv*",))
    assert findings == [] and max(score for _, _, score, _ in scores) > 0


@pytest.mark.parametrize("cut", [1, 7])
def test_cuts_do_not_matter(cut):
    rows = harvest(20) + usual(60)
    whole, parts = run(rows), run(rows, cut)
    assert sorted(parts[0]) == sorted(whole[0])
    assert [(f.key, f.first_us) for f in parts[1]] == [(f.key, f.first_us) for f in whole[1]]


def test_without_such_columns_nothing_happens():
    made, state = Probing(ProbingSettings(), Context(Budget())), State()
    state.declare(made.arrays())
    plain = pa.RecordBatch.from_pydict({"principal": pa.array(["a"] * 9), "model": pa.array(["m"] * 9)})
    made.observe(Batch("inference", plain, np.arange(9), np.arange(9)), state)
    assert made.judge(state, 0).scores == []


def test_the_expected_number_of_false_alarms_is_within_the_budget():
    """Requests that are combinations never seen, at just the share that is allowed: an alarm a week is allowed, a week passes."""
    rng = np.random.default_rng(0)
    rows = [request("user", temperature=float(rng.random()) if rng.random() < 0.1 else 1.0) for _ in range(4000)]
    _, findings = run(rows)
    assert len(findings) <= 1
