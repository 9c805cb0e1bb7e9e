"""`telltale warm`: after it no other traffic makes the compiler run. In a process of its own, since this one has compiled much already."""

import subprocess
import sys

OTHERS = """
import sys, tempfile
from pathlib import Path
import orjson
import pyarrow.parquet as pq
from numba.core.dispatcher import Dispatcher

from benchmarks import ingest
from engine import bench, warm
from engine.config import parse
from engine.outbox import Outbox
from engine.wiring import make_detectors
from engine.run import Engine
from engine.metrics import Metrics
from streams.decode import Format
from streams.sources import SimulatedSource
from tests.e2e.chaos.workload import DETECTORS, segment

def compiled():
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] in ("engine", "kernels", "streams") and m is not None]
    found = {v for m in modules for v in vars(m).values() if isinstance(v, Dispatcher)}
    return {(f.py_func.__module__, f.py_func.__qualname__, str(s)) for f in found for s in f.signatures}

said = warm.warm()
before = compiled()
assert len(before) > 40, len(before)

with tempfile.TemporaryDirectory() as folder:  # a fleet, and requests without content, from files
    for stream, rows in (("hardware", bench.hardware_rows(20_000)), ("inference", bench.inference_rows(20_000))):
        pq.write_table(rows, Path(folder) / f"{stream}.parquet")
        bench.timed(stream, Path(folder) / f"{stream}.parquet")

config = parse(orjson.dumps({"detectors": DETECTORS, "store": None}).decode())  # records with alerts of many kinds, and spans
source = SimulatedSource(["hardware", "inference", "spans"])
formats = {"hardware": Format("hardware"), "inference": Format("inference"), "spans": Format()}
one = Engine(config, make_detectors(config), source, formats, Outbox([], threads=False), Metrics())
for number in range(3):
    for record in segment(1, number, 1):
        source.put(record.stream, record.value, orjson.loads(record.value)["time"] // 1000)
    while one.step(0.0):
        pass
ingest.SPANS = 2000
for value in ingest.requests():
    source.put("spans", value, 1_700_000_100_000)
while one.step(0.0):
    pass
one.judge_population(final=True)
assert one.opened["extraction"] and one.opened["drift"] and one.rows > 14_000, (one.rows, one.opened)
new = sorted(compiled() - before)
assert not new, new
print(*said)
"""


def test_nothing_is_left_to_compile():
    done = subprocess.run([sys.executable, "-c", OTHERS], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    compiled, seconds = done.stdout.split()
    assert int(compiled) >= 0 and float(seconds) > 0
