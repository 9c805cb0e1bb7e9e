"""`python -m benchmarks.gpu [--seconds 480] [--interpret]`: check and time every GPU kernel on the machine's CUDA device, in bounded time.

1. the ceilings: copy bandwidth and bf16 matrix product, measured here and now
2. each op against its CPU twin at several shapes; a kernel that is wrong is not timed
3. each op timed by triton.testing.do_bench at sizes several times the L2 cache, as a share of copy bandwidth, or of the product's rate
   where a product bounds it

Prints the table last; writes gpu.json to the folder named by $OUT, if it is set. Exits 1 if a kernel is wrong or fails. Needs torch,
Triton, NumPy and Numba only. --interpret needs no GPU: Triton's interpreter does tiny sizes, which shows that kernels are right and
this script runs, and says nothing of speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class OutOfTimeError(BaseException):
    """The time that was given is over; what is measured by then is shown. No `Exception`: what is running may catch those, as Triton's
    interpreter does."""


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


def measured(case: Any, limits: dict[str, float], interpret: bool) -> dict[str, Any]:
    """What a case comes to: "equal" with its rates, or what is wrong."""
    try:
        case.check()
        took = milliseconds(case.work, interpret)
    except AssertionError as wrong:
        return {"said": f"WRONG: {str(wrong).strip().splitlines()[0]}"}
    except Exception as fault:  # noqa: BLE001 - of any kind; it is shown, and the other kernels are still worth their figures
        return {"said": f"FAILED: {type(fault).__name__}: {str(fault).strip().splitlines()[0] if str(fault).strip() else ''}"}
    return {
        "said": "equal",
        "items_per_s": case.items / took * 1e3,
        "share_of_copy": case.bytes_moved / took * 1e3 / limits["copy_bytes_per_s"],
        "share_of_product": case.flops / took * 1e3 / limits["bf16_flops_per_s"] if case.flops else None,
    }


def run(interpret: bool) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
    """Limits, a row for each case, and whether there was time for all of them."""
    from benchmarks.gpu_cases import CASES, Place

    place = Place("cpu" if interpret else "cuda", interpret)
    limits: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    try:
        limits |= ceilings(interpret)
        for cases in CASES:
            for case in cases(place, np.random.default_rng(0)):
                rows.append({"op": case.op, "shape": case.shape} | measured(case, limits, interpret))
    except OutOfTimeError:
        return limits, rows, False
    return limits, rows, True


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    speed = " " * 31
    if "items_per_s" in row:
        bound, share = ("bf16", row["share_of_product"]) if row["share_of_product"] else ("copy", row["share_of_copy"])
        speed = f"{row['items_per_s'] / 1e9:11.3f} G/s {share:6.1%} of {bound}"
    return f"{row['op']:26}{row['shape']:44}{speed}  {row['said']}"


def out_of_time(*_: object) -> None:
    raise OutOfTimeError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--seconds", type=float, default=480, help="after which the table is printed as far as it goes")
    parser.add_argument("--interpret", action="store_true", help="tiny sizes by Triton's interpreter; needs no GPU")
    chosen = parser.parse_args(arguments)
    if chosen.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before any gpu.py is imported
    started = time.monotonic()
    import torch
    import triton

    from kernels import device

    name = "Triton's interpreter" if chosen.interpret else device.choose("cuda").name
    signal.signal(signal.SIGALRM, out_of_time)
    limits, rows, complete = {}, [], False
    with contextlib.suppress(OutOfTimeError):  # the imports above may have used up the time
        signal.setitimer(signal.ITIMER_REAL, max(0.001, chosen.seconds - (time.monotonic() - started)), 1.0)
        limits, rows, complete = run(chosen.interpret)
    signal.setitimer(signal.ITIMER_REAL, 0)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "triton": triton.__version__, "numpy": np.__version__}
    result = {"device": name, "versions": versions, "limits": limits, "complete": complete, "results": rows}
    if out := os.environ.get("OUT"):
        Path(out, "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    if limits:
        print(f"{name}: copy {limits['copy_bytes_per_s'] / 1e12:.3f} TB/s, bf16 {limits['bf16_flops_per_s'] / 1e12:.3f} TFLOP/s")
    print(*(line(row) for row in rows), sep="\n")
    if not complete:
        print(f"out of time after {chosen.seconds:g} s: what is missing was not measured")
    return int(any(row["said"] != "equal" for row in rows) or not rows)


if __name__ == "__main__":
    sys.exit(main())
