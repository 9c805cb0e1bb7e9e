"""`python -m benchmarks.gpu [--seconds 480] [--interpret]`: check and time every GPU kernel on the machine's CUDA device, in bounded time.

1. the ceilings: copy bandwidth and bf16 matrix product, measured here and now
2. each op against its CPU twin at several shapes; a kernel that is wrong is not timed
3. each op timed by triton.testing.do_bench at sizes several times the L2 cache, as a share of copy bandwidth, or of the product's rate
   where a product bounds it

The work is done by a process of its own. If it faults, or says nothing for two minutes (a kernel that hangs can't be interrupted
otherwise), the op is named and another process goes on with the next. Prints the table last; writes gpu.json to the folder named by $OUT,
if it is set. Exits 1 if a kernel is wrong or fails, or the time was too short. Needs torch, Triton, NumPy and Numba only. --interpret
needs no GPU: Triton's interpreter does tiny sizes, which shows that kernels are right and this script runs, and says nothing of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kernels.device import cuda_missing

CEILINGS = "ceilings"
OPS = (
    "profile", "rff", "neighbors", "evidence", "edetector", "cardinality", "mahalanobis", "peers", "textsketch", "transitions",
)  # fmt: skip
PATIENCE_S = 120.0  # longer than any case takes, with its CPU twin's compilation


def ceilings(tiny: bool) -> dict[str, float]:
    """Copy bandwidth (bytes read and written) and bf16 matrix product of this device, per second."""
    import torch

    place, size, side = ("cpu", 2**20, 256) if tiny else ("cuda", 2**30, 8192)
    source = torch.empty(size, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    a = torch.randn(side, side, device=place, dtype=torch.bfloat16)
    copy_ms, product_ms = milliseconds(lambda: target.copy_(source), tiny), milliseconds(lambda: a @ a, tiny)
    return {"copy_bytes_per_s": 2 * size / copy_ms * 1e3, "bf16_flops_per_s": 2 * side**3 / product_ms * 1e3}


def milliseconds(work: Any, interpret: bool) -> float:
    """Of one round: the mean of do_bench's, or of a single one where the interpreter does it."""
    if interpret:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3
    from triton.testing import do_bench

    return float(do_bench(work, warmup=50, rep=200))


def first_line(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {next(iter(str(fault).strip().splitlines()), '')}"


def say(**message: Any) -> None:
    """A line for the process that waits."""
    print(json.dumps(message), flush=True)


def work_through(names: list[str], interpret: bool) -> None:
    """Say the device and the versions, then a row for each case of these ops, and which of them are done. Ends after a fault, since the
    device may be of no use to this process any more."""
    import numpy as np
    import torch
    import triton

    from kernels import device

    name = "Triton's interpreter" if interpret else device.choose("cuda").name
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "triton": triton.__version__, "numpy": np.__version__}
    say(device=name, versions=versions)
    for op in names:
        row: dict[str, Any] = {"op": op, "shape": ""}
        try:
            if op == CEILINGS:
                say(limits=ceilings(interpret))
            else:
                from benchmarks.gpu_cases import CASES, Place

                for case in CASES[op](Place("cpu" if interpret else "cuda", interpret), np.random.default_rng(0)):
                    row = {"op": case.op, "shape": case.shape}
                    try:
                        case.check()
                    except AssertionError as wrong:
                        say(row=row | {"said": f"WRONG: {first_line(wrong)}"})
                        continue
                    took = milliseconds(case.work, interpret)
                    counted = {"items": case.items, "bytes_moved": case.bytes_moved, "flops": case.flops}
                    say(row=row | {"said": "equal", "milliseconds": took} | counted)
        except Exception as fault:  # noqa: BLE001 - of any kind; it is shown, and the other kernels are still worth their figures
            say(row=row | {"said": f"FAILED: {first_line(fault)}"}, done=op)
            return
        say(done=op)


def worker_command(interpret: bool) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", *(["--interpret"] if interpret else []), "--worker"]


def run(names: list[str], interpret: bool, seconds: float) -> dict[str, Any]:
    """What processes that work through the ops have said: device, versions, limits, rows, and the ops that there was no time for."""
    result: dict[str, Any] = {"limits": {}, "results": []}
    left, ends = list(names), time.monotonic() + seconds
    while left and time.monotonic() < ends:
        lines: queue.Queue[str | None] = queue.Queue()
        with subprocess.Popen(
            [*worker_command(interpret), *left], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
        ) as worker:
            listener = threading.Thread(target=listen, args=(worker.stdout, lines), daemon=True)
            listener.start()
            fault = None
            while True:
                try:
                    line = lines.get(timeout=max(0.0, min(PATIENCE_S, ends - time.monotonic())))
                except queue.Empty:
                    worker.kill()
                    fault = f"nothing was heard for {PATIENCE_S:g} s" if time.monotonic() < ends else None
                    break
                if line is None:
                    fault = f"its process ended with {worker.returncode}" if worker.wait() else None
                    break
                message = json.loads(line)
                result["results"] += [message.pop("row")] if "row" in message else []
                done = message.pop("done", None)
                left = [op for op in left if op != done]
                result |= message
        if fault and left:
            result["results"].append({"op": left.pop(0), "shape": "", "said": f"FAILED: {fault}"})
    return result | {"complete": not left, "missing": left}


def listen(stream: Any, lines: queue.Queue[str | None]) -> None:
    """Hand on what is said, line by line, and None at the end; what is no message goes to standard error."""
    for line in stream:
        if line.startswith("{"):
            lines.put(line)
        else:
            sys.stderr.write(line)
    lines.put(None)


def rated(row: dict[str, Any], limits: dict[str, float]) -> dict[str, Any]:
    """A row with its rates, as far as it was timed and there are limits."""
    if "milliseconds" not in row:
        return row
    per_s = 1e3 / row["milliseconds"]
    row = row | {"items_per_s": row["items"] * per_s, "share_of_copy": None, "share_of_product": None}
    if limits:
        row["share_of_copy"] = row["bytes_moved"] * per_s / limits["copy_bytes_per_s"]
        row["share_of_product"] = row["flops"] * per_s / limits["bf16_flops_per_s"] if row["flops"] else None
    return row


def shown(row: dict[str, Any]) -> str:
    """A row of the table."""
    speed = ""
    if "items_per_s" in row:
        speed = f"{row['milliseconds']:10.3f} ms {row['items_per_s'] / 1e9:11.3f} G/s"
        bound = "product" if row["share_of_product"] else "copy"
        speed += f" {row[f'share_of_{bound}']:6.1%} of {bound}" if row[f"share_of_{bound}"] is not None else ""
    return f"{row['op']:26}{row['shape']:44}{speed:46}  {row['said']}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=480, help="after which the table is printed as far as it goes")
    parser.add_argument("--interpret", action="store_true", help="tiny sizes by Triton's interpreter; needs no GPU")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before any gpu.py is imported
    if chosen.worker:
        work_through(chosen.worker, chosen.interpret)
        return 0
    if not chosen.interpret and (missing := cuda_missing()):
        print(f"{missing}; --interpret needs none")
        return 1
    out = os.environ.get("OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
    result = run([CEILINGS, *OPS], chosen.interpret, chosen.seconds)
    limits = result["limits"]
    result["results"] = [rated(row, limits) for row in result["results"]]
    if out:
        Path(out, "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    if limits:
        name, copy, product = result["device"], limits["copy_bytes_per_s"] / 1e12, limits["bf16_flops_per_s"] / 1e12
        print(f"{name}: copy {copy:.3f} TB/s, bf16 {product:.3f} TFLOP/s")
    print(*(shown(row) for row in result["results"]), sep="\n")
    if result["missing"]:
        print(f"out of time after {chosen.seconds:g} s: not measured are {', '.join(result['missing'])}")
    return int(bool(result["missing"]) or any(row["said"] != "equal" for row in result["results"]))


if __name__ == "__main__":
    sys.exit(main())
