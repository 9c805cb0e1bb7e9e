"""Baselines know what they were made from; approvals can't be changed unseen, and let series learn anew."""

import hashlib
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from engine.approvals import NAME, approvals, approve
from engine.baseline import Baseline, BaselineError, data_versions
from engine.batch import Batch
from engine.cli import app
from engine.detectors.drift import Drift, DriftSettings
from engine.evidence import Budget
from engine.finding import Context
from engine.worker import Worker
from streams.records import Partition
from tests.engine.population_runs import S, opened, run


def command(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def rows(n: int, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    return pa.table(
        {
            "event_timestamp": pa.array(1_700_000_000_000_000_000 + np.arange(n) * 10**9, pa.timestamp("ns", tz="UTC")),
            "driver_id": pa.array(generator.integers(0, 9, n)),
            "stats__conv_rate": pa.array(generator.random(n)),
            "stats__city": pa.array(generator.choice(["oslo", "rome"], n)),
            "created": pa.array(np.zeros(n, np.int64), pa.timestamp("us")),
        }
    )


def test_a_feast_saved_dataset_is_a_reference(tmp_path):
    ds.write_dataset(rows(3000), tmp_path / "saved", format="parquet", max_rows_per_file=1000, max_rows_per_group=1000)
    done = command("baseline", "fit", "--stream", "inference", "--input", tmp_path / "saved", "--out", tmp_path / "b", "--model", "eta",
                   "--model-version", "7", "--data-version", "registry:42")  # fmt: skip
    assert done.exit_code == 0, done.output
    baseline = Baseline.load(tmp_path / "b")
    assert set(baseline.parts["drift"]) == {"eta/feature.driver_id", "eta/feature.stats__conv_rate", "eta/feature.stats__city"}
    assert (baseline.about["model_version"], baseline.about["data_version"], baseline.about["rows"]) == ("7", "registry:42", 3000)
    assert {n: v["sha256"] for n, v in baseline.about["data"].items()} == {
        f"saved/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "saved").iterdir()
    }
    reference = Drift(DriftSettings(), Context(Budget(), baseline=baseline.parts, about=baseline.about)).references[
        "eta/feature.stats__city"
    ]
    assert reference.about["model_version"] == "7"
    assert sorted(reference.names.values()) == ["oslo", "rome"]


def test_a_saved_dataset_without_a_model_is_refused(tmp_path):
    pq.write_table(rows(10), tmp_path / "saved.parquet")
    done = command("baseline", "fit", "--stream", "inference", "--input", tmp_path / "saved.parquet", "--out", tmp_path / "b")
    assert done.exit_code == 1 and "saved.parquet" in done.stderr and "--model" in done.stderr


def test_dvc_says_which_data_it_was(tmp_path):
    data, tracked = tmp_path / "rows.parquet", tmp_path / "rows.parquet.dvc"
    pq.write_table(rows(10), data)
    md5 = hashlib.md5(data.read_bytes()).hexdigest()
    tracked.write_text(f"outs:\n- md5: {md5}\n  size: 1\n  hash: md5\n  path: rows.parquet\n")
    assert data_versions([data])["rows.parquet"]["dvc_md5"] == md5
    tracked.write_text("outs:\n- md5: 00000000000000000000000000000000\n  path: rows.parquet\n")
    with pytest.raises(BaselineError, match="rows.parquet: not the data"):
        data_versions([data])
    tracked.write_text("nothing: here\n")
    with pytest.raises(BaselineError, match="rows.parquet.dvc"):
        data_versions([data])


def test_approvals_are_chained(tmp_path):
    first, second = approve(tmp_path, "m/*", "ada"), approve(tmp_path, "n/x", "bob", "new release")
    assert [a["id"] for a in approvals(tmp_path)] == [first["id"], second["id"]]
    file: Path = tmp_path / NAME
    lines = file.read_bytes().splitlines()
    for tampered in ([lines[1]], [lines[0].replace(b"ada", b"eve"), lines[1]], [b"{}"], [b"no json"]):
        file.write_bytes(b"\n".join(tampered) + b"\n")
        with pytest.raises(BaselineError, match=NAME):
            approvals(tmp_path)


def test_the_command_records_an_approval(tmp_path):
    (tmp_path / "c.yaml").write_text(f"checkpoint: {{dir: {tmp_path / 'ckpt'}}}\n")
    done = command("baseline", "approve", "-c", tmp_path / "c.yaml", "--series", "m/*", "--by", "ada", "--reason", "release 8")
    assert done.exit_code == 0, done.output
    (line,) = [orjson.loads(text) for text in (tmp_path / "ckpt" / NAME).read_bytes().splitlines()]
    assert (line["series"], line["by"], line["reason"]) == ("m/*", "ada", "release 8")
    assert command("baseline", "approve", "-c", tmp_path / "c.yaml", "--series", "m/*", "--by", " ").exit_code == 1


def test_only_an_approval_lets_a_series_learn_anew():
    generator = np.random.default_rng(0)
    x = generator.normal(size=12_000) + np.repeat([0.0, 2.0], 6000)
    columns = {
        "model": pa.array(["m"] * 12_000),
        "feature.x": x.astype(np.float32),
        "feature.y": generator.random(12_000).astype(np.float32),
    }
    time_us = np.arange(12_000) * S // 4
    before = {k: v[:8000] for k, v in columns.items()}

    def detector(approved=()):
        return Drift(DriftSettings(), Context(Budget(), approvals=approved))

    first = detector()
    alerts, _, population = run(first, {"inference": (time_us[:8000], before)})
    assert [a.key for a in opened(alerts)] == ["m/feature.x"]
    after = {k: v[8000:] for k, v in columns.items()}
    learned = population.state.records["drift.references"]["m/feature.x"]["about"]["from_us"]
    for approved, anew in (((), False), (({"id": "1", "series": "m/feature.x", "by": "ada"},), True)):
        again = detector(approved)  # the next start, over the same state
        population.detectors = {"drift": again}
        worker = Worker(Partition("t"), {"drift": again}, "", None, {})
        population.heard_from(worker)
        table = pa.RecordBatch.from_pydict({k: v if isinstance(v, pa.Array) else pa.array(v) for k, v in after.items()})
        worker.observe(Batch("inference", table, time_us[8000:], np.arange(4000)))
        worker.state.watermarks["inference"] = int(time_us[-1])
        population.frontiers = {}
        said, _ = population.advance([worker], lambda partition: 0, final=True)
        alarms = sum(int(s.alarm.sum()) for s in said if s.detector == "drift")
        references = population.state.records["drift.references"]
        assert (references["m/feature.x"]["about"]["from_us"] > learned) == anew == (alarms == 0)
        assert references["m/feature.y"]["about"]["from_us"] == learned
