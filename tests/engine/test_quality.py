"""Quality: the same failures as Pandera finds on the same rows; counts and places; rates; series; nothing depends on cuts or partitions."""

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera import Check
from pandera.errors import SchemaErrors
from pandera.io import pandas_io

from engine.batch import Batch
from engine.config import ConfigError, parse
from engine.contract import contract_of, rules_of
from engine.contract_checks import broken
from engine.contract_config import Contract
from engine.contract_unique import WINDOW, repeated
from engine.detectors.quality import Quality, QualitySettings
from engine.evidence import Budget
from engine.finding import Context
from engine.state import State
from tests.engine.population_runs import S, flat, opened, run

SCHEMA = pandera.DataFrameSchema(
    {
        "input_tokens": pandera.Column("Int32", [Check.ge(0), Check.in_range(0, 1000, include_max=False)], nullable=True),
        "duration_s": pandera.Column("float32", [Check.gt(0), Check.ne(3.0)], nullable=False),
        "finish_reason": pandera.Column(str, [Check.isin(["stop", "length"]), Check.str_length(1, 6)], nullable=True),
        "error": pandera.Column(str, [Check.notin(["bad"]), Check.str_matches("^(time|http)"), Check.str_startswith("t")], nullable=True),
        "feature\\..*": pandera.Column("float32", Check.le(1.0), nullable=True, regex=True),
    }
)


def frame(n: int, seed: int) -> dict[str, pa.Array]:
    generator = np.random.default_rng(seed)
    gone = lambda share: generator.random(n) < share  # noqa: E731
    texts = ["stop", "length", "content_filter", ""]
    errors = ["timeout", "http 500", "bad", "xtime"]
    return {
        "input_tokens": pa.array(generator.integers(-20, 1020, n).astype(np.int32), mask=gone(0.1)),
        "duration_s": pa.array(generator.choice([0.0, 1.5, 3.0, 4.0], n).astype(np.float32), mask=gone(0.1)),
        "finish_reason": pa.array(generator.choice(texts, n).tolist(), pa.string(), mask=gone(0.2)),
        "error": pa.array(generator.choice(errors, n).tolist(), pa.string(), mask=gone(0.5)),
        "feature.a": pa.array(generator.uniform(0, 1.2, n).astype(np.float32), mask=gone(0.1)),
        "feature.b": pa.array(generator.uniform(0, 1.1, n).astype(np.float32)),
    }


def batch_of(columns, stream="inference") -> Batch:
    table = pa.RecordBatch.from_pydict(columns)
    n = table.num_rows
    return Batch(stream, table, np.arange(n) * S, np.arange(n, dtype=np.int64))


@pytest.mark.parametrize("seed", range(3))
def test_the_same_failures_as_pandera(seed):
    columns = frame(400, seed)
    batch = batch_of(columns)
    ours = contract_of(yaml.safe_load(pandas_io.to_yaml(SCHEMA)))
    found = {r.name: int(broken(r, batch).sum()) for r in rules_of(ours["columns"], ours["strict"], ours["unique"])}
    dataframe = batch.table.to_pandas()
    dataframe["input_tokens"] = dataframe["input_tokens"].astype("Int32")
    with pytest.raises(SchemaErrors) as errors:
        SCHEMA.validate(dataframe, lazy=True)
    cases = errors.value.failure_cases
    expected: dict[str, int] = {}
    for column, check in cases[["column", "check"]].itertuples(index=False):
        name = " ".join(("feature\\..*" if column.startswith("feature") else column, check.split("(")[0]))
        expected[name] = expected.get(name, 0) + 1
    assert {k: v for k, v in found.items() if v} == expected
    assert len(expected) >= 9


def test_older_forms_of_pandera_are_read_alike():
    mapping = {"columns": {"a": {"dtype": "int64", "nullable": True, "checks": {"greater_than": 3, "isin": [4, 5]}}}}
    as_list = {"columns": {"a": {"dtype": "int64", "nullable": True, "checks": [
        {"value": 3, "options": {"check_name": "greater_than"}}, {"value": [4, 5], "options": {"check_name": "isin"}},
    ]}}}  # fmt: skip
    one, two = (rules_of(contract_of(d)["columns"], False, ()) for d in (mapping, as_list))
    assert one == two and [r.name for r in one] == ["a dtype", "a greater_than", "a isin"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: {a: {bigger: 3}}", r"contracts.inference: column a: unknown key or check 'bigger'"),
        ("columns: {a: {str_matches: '('}}", "column a: '\\(' is no regular expression"),
        ("columns: {a: {dtype: complex}}", "column a: unknown dtype"),
        ("columns: {a: {in_range: {min_value: 3}}}", "needs min_value and max_value"),
        ("columns: {a: {isin: 3}}", "isin: expected a list"),
        ("pandera: /no/such.yaml", "pandera: /no/such.yaml: No such file"),
        ("python: /no/such.py:schema", "python: /no/such.py: no such file"),
        ("max_rate: 1.5", "max_rate: a share"),
    ],
)
def test_a_wrong_contract_stops_the_start_and_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(f"detectors: {{quality: {{contracts: {{inference: {{{text}}}}}}}}}")


def test_what_yaml_cannot_check_row_by_row_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("columns: {a: {dtype: int64}}\nchecks: {unique_values_eq: [1]}\n")
    with pytest.raises(ConfigError, match="checks: can't be checked row by row"):
        parse(f"detectors: {{quality: {{contracts: {{inference: {{pandera: {tmp_path / 'c.yaml'}}}}}}}}}")


def test_a_schema_is_part_of_the_configurations_hash(tmp_path):
    path, hashes = tmp_path / "c.yaml", set()
    for limit in (3, 4):
        path.write_text(f"columns: {{input_tokens: {{greater_than: {limit}}}}}\n")
        hashes.add(parse(f"detectors: {{quality: {{contracts: {{inference: {{pandera: {path}}}}}}}}}").hash)
    assert len(hashes) == 2


def quality(**contract) -> Quality:
    return Quality(QualitySettings(contracts={"inference": Contract(**contract)}), Context(Budget()))


def rows(n: int, seed: int = 0, bad: float = 0.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 500, n).astype(np.int32)
    tokens[generator.random(n) < bad] = -1
    return {"model": np.where(np.arange(n) % 2, "m1", "m0").astype(object), "input_tokens": tokens}


def times(n: int) -> np.ndarray:
    return np.arange(n) * S // 4


TOKENS = {"input_tokens": {"ge": 0}, "model": {}}


def test_a_violation_is_told_with_count_and_place():
    columns = rows(400)
    columns["input_tokens"][[100, 102]] = -5
    alerts, scores, _ = run(quality(columns=TOKENS), {"inference": (times(400), columns)})
    assert [a.key for a in opened(alerts)] == ["inference/input_tokens greater_than_or_equal_to"]
    alert = opened(alerts)[0]
    assert (alert.onset_us, alert.count, alert.evidence["violations"], alert.evidence["rows"]) == (25 * S, 2, 2, 4)
    assert [(s["offset"], s["value"]) for s in alert.evidence["samples"]] == [(100, "-5"), (102, "-5")]
    assert [row[4] for row in flat(scores)] == [2.0]


def test_content_is_not_repeated_in_an_alert():
    columns = {"model": np.full(8, "m", object), "prompt": pa.array(["secret words"] * 8, pa.large_string())}
    alerts, _, _ = run(quality(columns={"model": {}, "prompt": {"str_length": {"max_value": 3}}}), {"inference": (times(8), columns)})
    assert opened(alerts)[0].evidence["samples"][0]["value"] == ""


def test_a_column_that_is_not_named_is_told():
    columns = rows(40) | {"feature.new": np.ones(40, np.float32)}
    alerts, _, _ = run(quality(columns=TOKENS, strict=True), {"inference": (times(40), columns)})
    assert {a.key for a in opened(alerts)} == {"inference/unseen"}


def test_a_column_that_is_not_there_is_null():
    alerts, _, _ = run(quality(columns=TOKENS | {"ttft_s": {"nullable": False}}), {"inference": (times(40), rows(40))})
    assert {a.key for a in opened(alerts)} == {"inference/ttft_s not_nullable"}


@pytest.mark.parametrize(("bad", "found"), [(0.02, set()), (0.08, {"inference/input_tokens greater_than_or_equal_to"})])
def test_an_allowed_rate_is_judged_by_its_evidence(bad, found):
    alerts, _, _ = run(quality(columns=TOKENS, max_rate={"input_tokens*": 0.02}), {"inference": (times(6000), rows(6000, 3, bad))}, 1000)
    assert {a.key for a in opened(alerts)} == found


def test_repeated_values_are_found_once_each():
    columns = rows(100) | {"session": np.array([f"s{i}" for i in range(100)], object)}
    columns["session"][[50, 70]] = "s3"
    alerts, _, population = run(quality(columns=TOKENS | {"session": {"unique": True}}), {"inference": (times(100), columns)}, cut=7)
    assert [o.alert.count for o in population.lifecycle.open.values()] == [2]
    assert opened(alerts)[0].evidence["samples"][0]["offset"] == 50


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(1, 60))
def test_uniqueness_is_pandas_and_does_not_depend_on_cuts(values, cut):
    rule = rules_of({"session": {"unique": True, "nullable": True}}, False, ())[0]
    texts = [None if v == 0 else str(v) for v in values]
    state, found = State(), []
    for first in range(0, len(texts), cut):
        found.append(repeated(rule, batch_of({"session": pa.array(texts[first : first + cut], pa.string())}), state))
    series = pd.Series(texts, dtype=object)
    assert np.concatenate(found).astype(bool).tolist() == (series.duplicated(keep="first") & series.notna()).tolist()
    assert len(next(iter(state.arrays.values()))) <= WINDOW


def test_a_column_that_is_not_there_is_not_repeated():
    columns = {"model": np.array(["a", "a"], object)}
    alerts, _, _ = run(quality(columns={"model": {}}, unique=("model", "request_id")), {"inference": (times(2), columns)})
    assert not alerts


def test_columns_that_are_unique_together():
    columns = {"model": np.array(["a", "a", "b", "a"], object), "session": np.array(["x", "y", "x", "x"], object)}
    alerts, _, _ = run(quality(columns={"model": {}}, unique=("model", "session")), {"inference": (times(4), columns)})
    assert [(a.key, a.count) for a in opened(alerts)] == [("inference/model session unique", 1)]


def test_series_that_stop_and_that_never_came_are_missing():
    n = 1200
    columns = rows(n)
    columns["model"][(np.arange(n) > 400) & (np.arange(n) < 900)] = "m0"
    contract = quality(columns={"model": {}}, series={"by": ["model"], "max_gap_s": 60, "expected": ["m9"]})
    alerts, _, _ = run(contract, {"inference": (times(n), columns)}, cut=40)
    first = {a.key: a for a in reversed(opened(alerts))}
    assert set(first) == {"inference/m1 missing", "inference/m9 missing"}
    assert first["inference/m1 missing"].onset_us == 160 * S
    closed = [a for a in alerts if a.status == "resolved" and a.key == "inference/m1 missing"]
    assert [a.resolved_us for a in closed] == [226 * S]


def test_rows_that_come_too_long_after_their_time():
    contract, batch = Contract(columns={"model": {}}, max_age_s=10.0), batch_of({"model": ["a", "b"]})
    batch.age_us = np.array([5 * S, 11 * S])
    assert contract.broken(contract.rules()[-1], batch).tolist() == [0, 1]


def test_a_contract_in_python(tmp_path):
    (tmp_path / "contract.py").write_text(
        "import pandera.pandas as pa\n"
        "even = pa.Check(lambda s: s % 2 == 0, name='even')\n"
        "schema = pa.DataFrameSchema({'input_tokens': pa.Column('int32', even)})\n"
    )
    columns = rows(40)
    columns["input_tokens"][:] = 2
    columns["input_tokens"][[5, 6]] = 3
    alerts, _, population = run(quality(python=f"{tmp_path / 'contract.py'}:schema"), {"inference": (times(40), columns)}, cut=4)
    assert {a.key for a in opened(alerts)} == {"inference/input_tokens even"}
    assert [o.alert.count for o in population.lifecycle.open.values()] == [2]


@settings(max_examples=6, deadline=None)
@given(st.integers(30, 900), st.integers(1, 3), st.integers(0, 50))
def test_cuts_and_partitions_change_nothing(cut, partitions, seed):
    columns = rows(900, 5, 0.02)
    contract = {"columns": TOKENS, "strict": True, "series": {"by": ["model"], "max_gap_s": 60}}
    one, one_scores, _ = run(quality(**contract), {"inference": (times(900), columns)}, cut=900)
    alerts, scores, _ = run(quality(**contract), {"inference": (times(900), columns)}, cut, partitions, seed)
    assert flat(scores) == flat(one_scores)
    assert {a.id for a in alerts} == {a.id for a in one} != set()
