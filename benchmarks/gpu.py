"""`python -m benchmarks.gpu [--seconds 480]`: check and time every GPU kernel on the machine's CUDA device, in bounded time.

1. the ceilings: copy bandwidth and bf16 matrix product, measured here and now
2. each op against its CPU twin at several shapes; a kernel that is wrong is not timed
3. each op timed by triton.testing.do_bench at sizes several times the L2 cache, as a share of the copy bandwidth

Prints the table last; writes gpu.json to the folder named by $OUT, if it is set. Needs torch, Triton, NumPy and Numba only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from triton.testing import do_bench

from kernels import cardinality, device, profile
from kernels.evidence import BETS, bets_for, evidence
from kernels.transitions import transitions


class Case(NamedTuple):
    """`check` raises AssertionError when GPU and CPU differ; `work` is one round on the GPU, that moves `bytes_moved`."""

    op: str
    shape: str
    items: int
    bytes_moved: int
    check: Callable[[], None]
    work: Callable[[], Any]


def there(array: np.ndarray) -> torch.Tensor:
    """The array on the GPU; uint64 as int64 of the same bits."""
    return torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array).cuda()


def here(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def profile_cases(rng: np.random.Generator) -> Iterator[Case]:
    for columns, n, dtype in ((1, 2**28, np.float32), (20, 2**23, np.float32), (1, 2**27, np.float64)):
        values = torch.randn((columns, n), device="cuda", dtype=torch.float32 if dtype is np.float32 else torch.float64)
        edges = profile.quantile_edges(here(values[0, :10_000]))
        slots = np.arange(columns, dtype=np.int32)
        state = profile.Profile(*(there(a) for a in profile.empty(columns)))

        def check(values=values, edges=edges, slots=slots) -> None:
            part = here(values[:, :1_000_003]).copy()
            part[:, ::97] = np.nan
            part[:, 1::9973] = np.inf
            expected = profile.profile(part, slots, edges, profile.empty(len(slots)))
            got = profile.profile(there(part), there(slots), edges, profile.Profile(*(there(a) for a in profile.empty(len(slots)))))
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(here(a), b)

        on_gpu = there(slots)
        yield Case(
            "profile", f"{columns} x {n:,} {np.dtype(dtype)}", values.numel(), values.nbytes, check,
            lambda values=values, on_gpu=on_gpu, edges=edges, state=state: profile.profile(values, on_gpu, edges, state),
        )  # fmt: skip
    n, series = 2**24, 10_000
    values, rows = rng.normal(size=n).astype(np.float32), rng.integers(0, series, n).astype(np.int32)
    edges = profile.quantile_edges(values[:10_000])
    state = profile.Profile(*(there(a) for a in profile.empty(series)))
    on_gpu_values, on_gpu_rows = there(values), there(rows)

    def check_rows() -> None:
        expected = profile.profile(values, rows, edges, profile.empty(series))
        fresh = profile.Profile(*(there(a) for a in profile.empty(series)))
        for a, b in zip(profile.profile(on_gpu_values, on_gpu_rows, edges, fresh), expected, strict=True):
            np.testing.assert_array_equal(here(a), b)

    yield Case(
        "profile", f"{n:,} float32 in {series:,} series", n, 8 * n, check_rows,
        lambda: profile.profile(on_gpu_values, on_gpu_rows, edges, state),
    )  # fmt: skip


def evidence_cases(rng: np.random.Generator) -> Iterator[Case]:
    for n, slots in ((2**22, 2**18), (2**22, 1000)):
        values, rows = rng.random(n).astype(np.float32), rng.integers(0, slots, n).astype(np.int32)
        bets, on_gpu, state = bets_for(0.5), (there(values), there(rows)), there(np.zeros((slots, BETS)))

        def check(values=values, rows=rows, bets=bets, on_gpu=on_gpu, slots=slots) -> None:
            expected_state, expected = evidence(values, rows, 0.5, bets, np.zeros((slots, BETS)))
            got_state, got = evidence(*on_gpu, 0.5, bets, there(np.zeros((slots, BETS))))
            np.testing.assert_allclose(here(got_state), expected_state, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(here(got), expected, rtol=1e-9, atol=1e-12)

        yield Case(
            "evidence", f"{n:,} rows, {slots:,} slots", n, 16 * n + 128 * slots, check,
            lambda bets=bets, on_gpu=on_gpu, state=state: evidence(*on_gpu, 0.5, bets, state),
        )  # fmt: skip


def cardinality_cases(rng: np.random.Generator) -> Iterator[Case]:
    n, slots = 2**24, 1000
    items, rows = rng.integers(0, 2**63, n).astype(np.uint64), rng.integers(0, slots, n).astype(np.int32)
    on_gpu = (there(items), there(rows))
    for verb, sketch in (
        ("add_distinct", np.zeros((slots, 4096), np.uint8)),
        ("add_counts", np.zeros((slots, 4, 4096), np.int32)),
        ("add_members", np.zeros((slots, 512), np.uint64)),
    ):
        run = getattr(cardinality, verb)

        def check(run=run, sketch=sketch) -> None:
            expected = run(items[:100_003], rows[:100_003], sketch.copy())
            got = here(run(on_gpu[0][:100_003], on_gpu[1][:100_003], there(sketch)))
            np.testing.assert_array_equal(got.view(expected.dtype), expected)

        state = there(sketch)
        yield Case(f"cardinality.{verb}", f"{n:,} items, {slots} slots", n, 12 * n, check, lambda run=run, state=state: run(*on_gpu, state))


def transitions_cases(rng: np.random.Generator) -> Iterator[Case]:
    n = 2**22
    tokens, slots = rng.integers(1, 500, n).astype(np.uint64), rng.integers(0, 100_000, n).astype(np.int32)
    counts = rng.integers(0, 100, (1, 1 << 20)).astype(np.int32)
    on_gpu = [there(a) for a in (tokens, slots, np.zeros((100_000, 2), np.uint64), counts)]

    def check() -> None:
        for learn, m in ((False, 200_003), (True, 3000)):
            expected_counts = counts.copy()
            expected = transitions(tokens[:m], slots[:m], np.zeros((100_000, 2), np.uint64), expected_counts, learn=learn)[2]
            state = there(np.zeros((100_000, 2), np.uint64)), there(counts)
            got = here(transitions(on_gpu[0][:m], on_gpu[1][:m], *state, learn=learn)[2])
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
            np.testing.assert_array_equal(here(state[1]), expected_counts)

    yield Case("transitions", f"{n:,} tokens, scored", n, 44 * n, check, lambda: transitions(*on_gpu, learn=False))


CASES: list[Callable[[np.random.Generator], Iterator[Case]]] = [profile_cases, evidence_cases, cardinality_cases, transitions_cases]


def ceilings() -> dict[str, float]:
    """Copy bandwidth (bytes read and written) and bf16 matrix product of this GPU, per second."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy_ms, product_ms = do_bench(lambda: target.copy_(source)), do_bench(lambda: a @ a)
    return {"copy_bytes_per_s": 2 * source.nbytes / copy_ms * 1e3, "bf16_flops_per_s": 2 * 8192**3 / product_ms * 1e3}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--seconds", type=float, default=480)
    deadline = time.monotonic() + parser.parse_args().seconds
    chosen = device.choose("cuda")
    limits, rows = ceilings(), []
    for cases in CASES:
        for case in cases(np.random.default_rng(0)):
            row: dict[str, Any] = {"op": case.op, "shape": case.shape}
            rows.append(row)
            if time.monotonic() > deadline:
                row["said"] = "left out: no time"
                continue
            try:
                case.check()
            except AssertionError as wrong:
                row["said"] = f"WRONG: {str(wrong).strip().splitlines()[0]}"
                continue
            milliseconds = do_bench(case.work, warmup=50, rep=200)
            row["items_per_s"] = case.items / milliseconds * 1e3
            row["share_of_copy"] = case.bytes_moved / milliseconds * 1e3 / limits["copy_bytes_per_s"]
            row["said"] = "equal"
    result = {"device": chosen.name, "torch": torch.__version__, "limits": limits, "results": rows}
    if out := os.environ.get("OUT"):
        Path(out, "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{chosen.name}: copy {limits['copy_bytes_per_s'] / 1e12:.2f} TB/s, bf16 {limits['bf16_flops_per_s'] / 1e12:.0f} TFLOP/s")
    for row in rows:
        speed = f"{row['items_per_s'] / 1e9:8.2f} G/s {row['share_of_copy']:6.0%} of copy" if "items_per_s" in row else " " * 28
        print(f"{row['op']:28}{row['shape']:44}{speed}  {row['said']}")
    return int(any(row["said"].startswith("WRONG") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
