"""The GPU script runs as far as it can without a GPU: every op right in Triton's interpreter, the table last, JSON beside it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPS = {"profile", "rff", "textsketch", "mahalanobis", "peers", "neighbors", "cardinality", "evidence", "edetector", "transitions"}
ALONE = {"numpy", "numba", "llvmlite", "torch", "triton", "kernels", "benchmarks.gpu_cases", "tests.kernels.tolerances"}


@pytest.mark.gpu_code
def test_every_op_is_right_and_the_table_comes_last(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "benchmarks.gpu", "--interpret"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OUT": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["op"].split(" ")[0].split(".")[0] for row in result["results"]} == OPS
    assert {row["said"] for row in result["results"]} == {"equal"} and result["complete"]
    assert set(result["limits"]) == {"copy_bytes_per_s", "bf16_flops_per_s"}
    table = done.stdout.splitlines()[-len(result["results"]) :]
    assert [line.split()[0] for line in table] == [row["op"].split()[0] for row in result["results"]]


@pytest.mark.gpu_code
def test_when_time_is_up_it_says_so_and_stops(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "benchmarks.gpu", "--interpret", "--seconds", "1"]
    environment = os.environ | {"OUT": str(tmp_path / "new" / "folder")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "out of time after 1 s" in done.stdout, done.stderr
    assert done.returncode == 1 and not json.loads((tmp_path / "new" / "folder" / "gpu.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        ("say(row={'op': names[0], 'shape': '', 'said': 'equal'}, done=names[0])", "equal"),
        ("os._exit(3)", "FAILED: its process ended with 3"),
        ("say(row={'op': names[0], 'shape': '', 'said': 'FAILED: it hurts'}, done=names[0]); sys.exit()", "FAILED: it hurts"),
        ("time.sleep(60)", "FAILED: nothing was heard for 1 s"),
    ],
)
def test_an_op_that_fails_dies_or_hangs_is_named_and_the_next_is_tried(monkeypatch, tmp_path, worker, said):
    from benchmarks import gpu

    file = tmp_path / "worker.py"
    file.write_text(
        f"import os, sys, time\nsys.path.insert(0, {str(ROOT)!r})\nfrom benchmarks.gpu import say\nnames = sys.argv[1:]\n{worker}\n"
    )
    monkeypatch.setattr(gpu, "worker_command", lambda interpret: [sys.executable, str(file)])
    monkeypatch.setattr(gpu, "PATIENCE_S", 1.0)
    result = gpu.run(["a", "b"], interpret=True, seconds=30)
    assert [(row["op"], row["said"]) for row in result["results"]] == [("a", said), ("b", said)]
    assert result["complete"]


def imported(path):
    """Names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    "path", [*ROOT.glob("kernels/**/*.py"), *ROOT.glob("benchmarks/gpu*.py"), ROOT / "tests/kernels/tolerances.py"], ids=str
)
def test_kernels_and_the_script_need_numpy_numba_torch_and_triton_alone(path):
    for name in imported(path):
        top = name.partition(".")[0]
        assert top in sys.stdlib_module_names or top in ALONE or name in ALONE, name
