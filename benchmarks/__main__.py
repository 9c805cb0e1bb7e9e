"""`python -m benchmarks [--out DIR] [-k EXPRESSION] [--peers]`: run the kernel benchmarks, print the table, write JSON and a plot.

Every figure stands beside a limit measured in the same run (reading the same bytes with all threads) and, with --peers, beside what
one would otherwise call, which runs in an environment of its own (see benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import numpy as np

from benchmarks import report
from benchmarks.ceilings import matmul_flops_per_s, read_bytes_per_s

ROOT = Path(__file__).parents[1]


def processor() -> str:
    """The processor's name as Linux has it, else what Python knows of it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "benchmarks")
    parser.add_argument("-k", default="", help="as pytest's")
    parser.add_argument("--peers", action="store_true", help="time the peers as well, by .venv-peers/bin/python")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    limits = {"read_bytes_per_s": read_bytes_per_s(), "matmul_flops_per_s": matmul_flops_per_s()}
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [sys.executable, "-m", "pytest", str(ROOT / "benchmarks" / "kernels"), "-k", chosen.k, f"--benchmark-json={raw}"]
        done = subprocess.run([*command, "--benchmark-disable-gc", "--benchmark-quiet"], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
        rounds = json.loads(raw.read_text())["benchmarks"]
    peers = None
    if chosen.peers:
        python = ROOT / ".venv-peers" / "bin" / "python"
        if not python.exists():
            parser.error(f"{python} is not there: see benchmarks/README.md")
        script = ROOT / "benchmarks" / "peers" / "run.py"
        peers = json.loads(subprocess.run([python, script], stdout=subprocess.PIPE, check=True).stdout)
        alibi = ROOT / ".venv-alibi" / "bin" / "python"
        if alibi.exists():  # an environment of its own, since it needs an older NumPy
            peers += json.loads(subprocess.run([alibi, script, "mmd"], stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    result = {
        "machine": f"{processor()}, {numba.get_num_threads()} threads",
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__},
        "limits": limits,
        "results": report.results(rounds, limits),
        "peers": peers and report.beside_peers(peers),
    }
    (chosen.out / "kernels.json").write_text(json.dumps(result, indent=1) + "\n")
    report.plot(result, chosen.out / "kernels.svg")
    report.show(result)
    print(f"\nwritten to {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
