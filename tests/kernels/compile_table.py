"""What each Triton kernel costs on each architecture, compiled ahead of time with no GPU: registers, stack (spills), shared memory.

A kernel is one row of `KERNELS`. `python -m tests.kernels.compile_table` prints the table; `--write` commits what it measured as the
new limits (registers rounded up to eight) to compile_limits.csv; `--check` exits 1 where a kernel is over its limits. It must run
in a process where TRITON_INTERPRET is not set.
"""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = (80, 90, 100)
LIMITS = Path(__file__).with_name("compile_limits.csv")


class Kernel(NamedTuple):
    """`arguments`: a word for each argument, in order: `name:type` in Triton's notation (`:16` after it: a multiple of 16), or
    `NAME=constant`. `options`: of the launch."""

    path: str
    arguments: str
    options: dict[str, object] = {}  # noqa: RUF012 - never changed
    name: str = ""

    @property
    def label(self) -> str:
        return self.path.removeprefix("kernels.").replace(".gpu:", ".") + (f"[{self.name}]" if self.name else "")


class Usage(NamedTuple):
    registers: int
    stack_bytes: int
    shared_bytes: int


PROFILE = "thresholds:*{0} bins:*i32 centers:*{0} per_quantum:*{0}"
PROFILE_SHAPE = "T=33 STEP=32 WIDTH=32"
MODEL = (
    "weight:*fp64:16 mean:*fp64:16 cov:*fp64:16 low:*fp64:16 high:*fp64:16 scale:*fp64:16 precision:*fp64:16 ticks:*i64:16 recent:*fp64:16"
)
WIDE = "BLOCK_N=64 BLOCK_M=128 BLOCK_D=64"
EXACT = {"enable_fp_fusion": False}

KERNELS = [
    *(
        Kernel(
            "kernels.profile.gpu:columns_kernel",
            f"values:*{kind} valid:*u8 first_bit:i64 edge_of:*i32 {PROFILE.format(kind)} counts:*i32 sums:*i64 ends:*fp64 n:i64 share:i64 "
            f"{PROFILE_SHAPE} PLACES=64 END=33554432.0 VALID={nulls} BLOCK=1024",
            EXACT,
            f"{kind} {'bitmap' if nulls else 'plain'}",
        )
        for kind, nulls in (("fp32", False), ("fp32", True), ("fp64", False))
    ),
    Kernel(
        "kernels.profile.gpu:rows_kernel",
        f"values:*fp32 valid:*u8 first_bit:i64 slots:*i32 edge_rows:*i32 {PROFILE.format('fp32')} counts:*i64 moments:*i64 keys:*i64 n:i64 "
        f"{PROFILE_SHAPE} END=33554432.0 VALID=True MOMENTS=True EXTREMES=True BLOCK=1024",
        EXACT,
    ),
    Kernel(
        "kernels.evidence.gpu:evidence_kernel",
        "values:*fp32 order:*i64 starts:*i64 keys:*i32 null_mean:*fp64 bets:*fp64 weights:*fp64 state:*fp64 rule:*fp64 out:*fp64 runs:i32 "
        "OWN_MEAN=1 OWN_BETS=1 RUNS=16 BETS=8",
        EXACT,
    ),
    Kernel(
        "kernels.edetector.gpu:edetector_kernel",
        "successes:*fp64 totals:*fp64 spend:*fp64 time_us:*fp64 order:*i64 starts:*i64 keys:*i32 up:*fp64 down:*fp64 weights:*fp64 state:*fp64 "
        "caps:*fp64 out:*fp64 lane_out:*i32 runs:i32 tests:i32 lanes:i32 of_test:i32 n:i64 RUNS=4 LANES=64",
        EXACT,
    ),
    Kernel("kernels.cardinality.gpu:hll_kernel", "items:*i64 slots:*i32 places:*i64 ranks:*u8 n:i64 P=12 BLOCK=1024", EXACT),
    *(
        Kernel(
            "kernels.cardinality.gpu:count_min_kernel",
            f"items:*i64 slots:*i32 counts:*i32 weights:*i32 found:*i32 n:i64 W:i64 D=4 ADD={add} WEIGHTED={add} BLOCK=1024",
            EXACT,
            "add" if add else "ask",
        )
        for add in (True, False)
    ),
    *(
        Kernel(
            "kernels.cardinality.gpu:bloom_kernel",
            f"items:*i64 slots:*i32 bits:*i64 found:*{'i64' if add else 'i8'} n:i64 W:i64 K=4 ADD={add} BLOCK=1024",
            EXACT,
            "add" if add else "ask",
        )
        for add in (True, False)
    ),
    *(
        Kernel(
            "kernels.transitions.gpu:transitions_kernel",
            "tokens:*i64 before:*i64 contexts_of:*i64 slots:*i32 groups:*i32 order:*i64 starts:*i64 counts:*i32 out:*fp64 n:i64 M:i64 scale:*fp64 "
            f"LEARN={learn} BLOCK={1 if learn else 256}",
            EXACT | {"num_warps": 1 if learn else 4},
            "learn" if learn else "score",
        )
        for learn in (True, False)
    ),
    Kernel(
        "kernels.transitions.gpu:remember_kernel",
        "tokens:*i64 contexts_of:*i64 ordered:*i32 order:*i64 contexts:*i64 n:i32 BLOCK=256",
        EXACT,
    ),
    Kernel(
        "kernels.rff.gpu:fold_kernel",
        "x:*bf16:16 order:*i64:16 keys:*i32:16 w:*bf16:16 sums:*i32:16 n:i32 dims:i32:16 half:i32:16 BLOCK_N=128 BLOCK_F=64 BLOCK_D=64 FEW=8",
        {"num_warps": 8, "num_stages": 3},
    ),
    *(
        Kernel(
            "kernels.neighbors.gpu:nearest_kernel",
            f"queries:*{kind}:16 reservoir:*{kind}:16 own:*fp32:16 norms:*fp32:16 order:*i64:16 tasks:*i64:16 keys:*i64:16 dims:i32:16 "
            f"SPLITS=4 K={width} {blocks}",
            {"num_warps": 8, "num_stages": 2},
            f"{kind} {width}",
        )
        for kind, width, blocks in (("bf16", 8, WIDE), ("bf16", 32, WIDE), ("fp32", 8, "BLOCK_N=32 BLOCK_M=64 BLOCK_D=16"))
    ),
    Kernel(
        "kernels.neighbors.gpu:pairs_kernel",
        "unit:*bf16:16 squares:*i32:16 found:*i64:16 pairs:*i32:16 room:i64 n:i32 dims:i32:16 near:*fp32:16 SQUARE=8 TILE=128 BLOCK_D=64",
        {"num_warps": 8, "num_stages": 3},
    ),
    *(
        Kernel(
            "kernels.neighbors.gpu:measure_kernel",
            f"a:*fp32:16 b:*fp32:16 i:*i64:16 j:*i64:16 out:*fp64:16 count:i64 dims:i32:16 PRODUCT={product} BLOCK=128 BLOCK_D=16",
            {},
            "product" if product else "distance",
        )
        for product in (True, False)
    ),
    *(
        Kernel(
            "kernels.peers.gpu:peers_kernel",
            f"x:*{kind}:16 order:*i64:16 starts:*i64:16 spread:*fp64:16 deviation:*fp64:16 median:*fp64:16 mad:*fp64:16 "
            "values:*i32:16 p:i32 ROWS=64 METRICS=4",
            EXACT,
            kind,
        )
        for kind in ("fp32", "fp64")
    ),
    *(
        Kernel(
            "kernels.mahalanobis.gpu:fold_kernel",
            f"x:*fp32:16 order:*i64:16 starts:*i64:16 slots:*i32:16 {MODEL} rule:*fp64:16 room:*fp64:16 distance:*fp64:16 score:*fp64:16 "
            "observed:*i32:16 parts:*fp64:16 devices:i32 p:i32 window:i32 warmup:i32 learning_ticks:i32 every:i32 PARTS=True "
            f"P={width} ROWS={rows} WINDOW=32",
            EXACT | {"num_warps": warps, "maxnreg": 255},
            f"{width} metrics",
        )
        for width, rows, warps in ((8, 8, 1), (64, 8, 4), (128, 4, 4))
    ),
    Kernel(
        "kernels.textsketch.gpu:grams_kernel",
        "data:*u8:16 offsets:*i32:16 lengths:*i64:16 order:*i64:16 table:*i32:16 sums:*i32:16 minhash:*u64:16 n:i32 longest_of:*i64:16 "
        "BITS_OF=8 HASHES=32 TEXTS=64",
        EXACT | {"num_warps": 2},
    ),
    Kernel("kernels.textsketch.gpu:finish_kernel", "sums:*i32:16 projection:*fp32:16 simhash:*i64:16 DIMS=256 BITS=64 FOLD=16", EXACT),
]


def usage(kernel: Kernel, architecture: int) -> Usage:
    """Compile one kernel for sm_`architecture` and read what the assembler says of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, function = kernel.path.partition(":")
    signature, constants, multiples = {}, {}, {}
    for at, word in enumerate(kernel.arguments.split()):
        if "=" in word:
            name, _, value = word.partition("=")
            signature[name] = "constexpr"
            constants[name] = {"True": True, "False": False}.get(value, float(value) if "." in value else value)
            constants[name] = int(value) if re.fullmatch(r"-?\d+", value) else constants[name]
        else:
            name, kind, *multiple = word.split(":")
            signature[name] = kind
            if multiple:
                multiples[(at,)] = [["tt.divisibility", int(multiple[0])]]
    source = ASTSource(getattr(importlib.import_module(module), function), signature=signature, constexprs=constants, attrs=multiples)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(kernel.options))
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    return Usage(found["REG"], found["STACK"] + found["LOCAL"], compiled.metadata.shared)


def table() -> Iterator[tuple[str, Usage]]:
    """(kernel and architecture, usage) of every row."""
    for kernel in KERNELS:
        for architecture in ARCHITECTURES:
            yield f"{kernel.label} sm_{architecture}", usage(kernel, architecture)


def limits() -> dict[str, Usage]:
    """The committed limits of each kernel and architecture."""
    if not LIMITS.exists():
        return {}
    with LIMITS.open(newline="") as file:
        return {row.pop("kernel"): Usage(**{name: int(number) for name, number in row.items()}) for row in csv.DictReader(file)}


def write(measured: dict[str, Usage]) -> None:
    with LIMITS.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["kernel", *Usage._fields])
        rows.writerows([name, -(-used.registers // 8) * 8, *used[1:]] for name, used in measured.items())


def main(arguments: list[str]) -> int:
    committed = limits()
    measured, over = {}, []
    print(f"{'kernel':64}{'registers':>10}{'stack B':>10}{'shared B':>10}")
    for name, used in table():
        measured[name] = used
        print(f"{name:64}{used.registers:>10}{used.stack_bytes:>10}{used.shared_bytes:>10}")
        limit = committed.get(name)
        if limit is None or any(u > at_most for u, at_most in zip(used, limit, strict=True)):
            over.append(f"{name}: {used} is over {limit or 'no limit: run with --write'}")
    if "--write" in arguments:
        write(measured)
    if "--check" in arguments:
        over += [f"{name}: no such kernel" for name in committed.keys() - measured.keys()]
        print("\n".join(over), file=sys.stderr)
        return int(bool(over))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
