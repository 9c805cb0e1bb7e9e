"""`telltale backtest`, `baseline fit` and `check` as commands: what they write, and their exit codes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from engine.cli import app
from tests.engine.test_hardware import fleet

RUN = CliRunner()


def command(*words: object):
    result = RUN.invoke(app, [str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    columns = fleet(1500, 2)
    columns["metric.gpu_temp"][(columns["device"] == "gpu1") & (columns["time"] >= 1400 * 1_000_000)] += 40
    table = {"time": pa.array(columns["time"], pa.timestamp("us", tz="UTC")), "host": pa.array(["h"] * 3000)}
    table |= {k: pa.array(v) for k, v in columns.items() if k != "time"}
    table = pa.table(table)
    pq.write_table(table, folder / "all.parquet")
    pq.write_table(table.slice(0, 2000), folder / "good.parquet")
    pq.write_table(table.slice(2000), folder / "rest.parquet")
    with open(folder / "all.jsonl", "w") as out:
        for i, row in enumerate(table.to_pylist()):
            out.write(json.dumps({**row, "time": row["time"].isoformat()}) + "\n")
            if i == 100:
                out.write("{broken\n")
    return folder


def result_of(folder):
    scores = pq.read_table(folder / "scores.parquet")
    alerts = [json.loads(line)["data"] for line in (folder / "alerts.jsonl").read_text().splitlines()]
    return scores, alerts, json.loads((folder / "summary.json").read_text())


def test_it_writes_what_it_promises(files, tmp_path):
    done = command("backtest", "--stream", "hardware", "--input", files / "all.parquet", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    scores, alerts, summary = result_of(tmp_path)
    assert scores.schema.names == ["time", "stream", "detector", "key", "score", "threshold", "alarm"]
    assert (summary["rows"], summary["rejected"]) == (3000, {})
    assert summary["alerts"]["hardware"] == 1
    assert {a["key"] for a in alerts if a["detector"] == "hardware"} == {"h/gpu1"}
    assert len(scores.filter(pa.compute.equal(scores["detector"].cast(pa.string()), "hardware"))) == 3000


def test_json_lines_say_the_same_and_a_broken_line_is_counted(files, tmp_path):
    command("backtest", "--stream", "hardware", "--input", files / "all.parquet", "--out", tmp_path / "a")
    done = command("backtest", "--stream", "hardware", "--input", files / "all.jsonl", "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    (_, parquet, _), (_, lines, summary) = result_of(tmp_path / "a"), result_of(tmp_path / "b")
    assert {a["id"] for a in parquet} == {a["id"] for a in lines} != set()
    assert (summary["rows"], summary["rejected"]) == (3000, {"json": 1})
    (dead,) = [json.loads(line) for line in (tmp_path / "b" / "dead_letters.jsonl").read_text().splitlines()]
    assert dead["offset"] == 101


def test_a_baseline_judges_from_the_first_row(files, tmp_path):
    done = command("baseline", "fit", "--stream", "hardware", "--input", files / "good.parquet", "--out", tmp_path / "base")
    assert done.exit_code == 0, done.output
    (tmp_path / "c.yaml").write_text(f"baseline: {tmp_path / 'base'}\n")
    command("backtest", "--stream", "hardware", "--input", files / "rest.parquet", "--out", tmp_path / "x", "-c", tmp_path / "c.yaml")
    command(
        "backtest",
        "--stream",
        "hardware",
        "--input",
        files / "rest.parquet",
        "--out",
        tmp_path / "y",
        "--reference",
        files / "good.parquet",
    )
    (scores, alerts, _), (again, _, _) = result_of(tmp_path / "x"), result_of(tmp_path / "y")
    assert {a["key"] for a in alerts if a["detector"] == "hardware"} == {"h/gpu1"}
    assert np.isfinite(scores["threshold"].to_numpy()).all()
    assert scores.equals(again)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("backtest", "--stream", "weather", "--input", "x", "--out", "y"), 2, "--stream"),
        (("backtest", "--stream", "hardware", "--input", "/not/there.parquet", "--out", "y"), 2, "/not/there.parquet"),
        (("backtest", "--stream", "hardware", "--out", "y"), 2, "--input"),
        (("check", "-c", "/not/there.yaml"), 2, "/not/there.yaml"),
        (("run",), 2, "config"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_wrong_usage_is_code_2_and_names_the_flag(words, code, said):
    done = command(*words)
    assert done.exit_code == code
    assert said in done.output + done.stderr


def test_a_missing_baseline_and_an_unreadable_file_are_told(files, tmp_path):
    (tmp_path / "c.yaml").write_text("baseline: /not/there\n")
    done = command("check", "-c", tmp_path / "c.yaml")
    assert done.exit_code == 2 and "/not/there" in done.stderr
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    done = command("backtest", "--stream", "hardware", "--input", tmp_path / "junk.parquet", "--out", tmp_path / "o")
    assert done.exit_code == 1 and "junk.parquet" in done.stderr


def test_an_unreachable_broker_is_told_and_is_code_1(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "source: {kafka: {bootstrap: '127.0.0.1:1', topics: [{name: t}], options: {bootstrap_timeout_ms: 500}}}\n"
        f"store: {{url: 'sqlite:///{tmp_path}/a.db'}}\n"
    )
    done = command("run", "-c", tmp_path / "c.yaml")
    assert done.exit_code == 1
    assert "127.0.0.1:1" in done.stderr
