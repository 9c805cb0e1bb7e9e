"""What `benchmarks.gpu` checks and times: each op, its CPU twin's answer, and a round of work on the device.

Sizes are several times a GPU's L2 cache, or tiny where Triton's interpreter does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from kernels import cardinality, mahalanobis, neighbors, profile, rff
from kernels.edetector import PARTS, edetector
from kernels.evidence import BETS, bets_for, evidence
from kernels.peers import peers
from kernels.textsketch import textsketch
from kernels.transitions import transitions
from tests.kernels.tolerances import assert_close


class Case(NamedTuple):
    """`check` raises AssertionError when the kernel and its CPU twin differ; `work` is one round on the device, which moves
    `bytes_moved`, and multiplies `flops` where a matrix product bounds it."""

    op: str
    shape: str
    items: int
    bytes_moved: int
    check: Callable[[], None]
    work: Callable[[], Any]
    flops: int = 0


class Place(NamedTuple):
    """Where the work is done: "cuda", or "cpu" for the interpreter, which takes the tiny sizes."""

    device: str
    tiny: bool

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def there(self, array: np.ndarray) -> torch.Tensor:
        """A copy of the array on the device; uint64 as int64 of the same bits."""
        return torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array).to(self.device, copy=True)


def here(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def same(got: Any, expected: Any) -> None:
    """AssertionError unless tensors and arrays hold the same bits."""
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(here(a).view(b.dtype), b)


def profile_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    for columns, n, dtype in ((1, 2**28, np.float32), (20, 2**23, np.float32), (1, 2**27, np.float64)):
        n = place.size(n, 3000)
        values = torch.randn((columns, n), device=place.device, dtype=torch.float32 if dtype is np.float32 else torch.float64)
        edges = profile.quantile_edges(here(values[0, :10_000]))
        slots = np.arange(columns, dtype=np.int32)
        state = profile.Profile(*(place.there(a) for a in profile.empty(columns)))

        def check(values=values, edges=edges, slots=slots) -> None:
            part = here(values[:, :1_000_003]).copy()
            part[:, ::97] = np.nan
            part[:, 1::973] = np.inf
            expected = profile.profile(part, slots, edges, profile.empty(len(slots)))
            fresh = profile.Profile(*(place.there(a) for a in profile.empty(len(slots))))
            same(profile.profile(place.there(part), place.there(slots), edges, fresh), expected)

        on_device = place.there(slots)
        yield Case(
            "profile", f"{columns} x {n:,} {np.dtype(dtype)}", values.numel(), values.nbytes, check,
            lambda values=values, on_device=on_device, edges=edges, state=state: profile.profile(values, on_device, edges, state),
        )  # fmt: skip
    n, series = place.size(2**24, 3000), place.size(10_000, 50)
    values, rows = rng.normal(size=n).astype(np.float32), rng.integers(0, series, n).astype(np.int32)
    edges = profile.quantile_edges(values[:10_000])
    state = profile.Profile(*(place.there(a) for a in profile.empty(series)))
    on_device = place.there(values), place.there(rows)

    def check_rows() -> None:
        expected = profile.profile(values, rows, edges, profile.empty(series))
        fresh = profile.Profile(*(place.there(a) for a in profile.empty(series)))
        same(profile.profile(*on_device, edges, fresh), expected)

    yield Case(
        "profile", f"{n:,} float32 in {series:,} series", n, 8 * n, check_rows, lambda: profile.profile(*on_device, edges, state)
    )  # fmt: skip


def evidence_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    for slots in (place.size(2**18, 100), place.size(1000, 3)):
        n = place.size(2**22, 300)
        values, rows = rng.random(n).astype(np.float32), rng.integers(0, slots, n).astype(np.int32)
        bets, on_device, state = bets_for(0.5), (place.there(values), place.there(rows)), place.there(np.zeros((slots, BETS)))

        def check(values=values, rows=rows, bets=bets, on_device=on_device, slots=slots) -> None:
            expected = evidence(values, rows, 0.5, bets, np.zeros((slots, BETS)))
            got = evidence(*on_device, 0.5, bets, place.there(np.zeros((slots, BETS))))
            for a, b in zip(got, expected, strict=True):
                assert_close("evidence", here(a), b)

        yield Case(
            "evidence", f"{n:,} rows, {slots:,} slots", n, 16 * n + 128 * slots, check,
            lambda bets=bets, on_device=on_device, state=state: evidence(*on_device, 0.5, bets, state),
        )  # fmt: skip


def edetector_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    n, slots, tests, lanes = place.size(2**18, 90), place.size(2**14, 5), 2, 12
    totals = rng.integers(1, 30, n).astype(np.float64)
    successes = rng.binomial(totals.astype(int)[:, None], 0.3, (n, tests)).astype(np.float64)
    rows = successes, totals, np.full(n, 1e-6), np.arange(n) * 1e6, rng.integers(0, slots, n).astype(np.int32)
    shape = (slots, lanes)
    bets = [rng.uniform(0.1, 0.8, shape), rng.uniform(0.1, 0.8, shape), rng.uniform(0.2, 1, shape), np.full(shape, 1 / lanes)]
    on_device, state = [place.there(a) for a in rows], place.there(np.zeros((slots, PARTS, lanes)))

    def check() -> None:
        fresh = np.zeros((slots, PARTS, lanes))
        expected = edetector(*rows, *bets, fresh)[1]
        there = place.there(np.zeros((slots, PARTS, lanes)))
        for a, b in zip((*edetector(*on_device, *bets, there)[1], there), (*expected, fresh), strict=True):
            assert_close("edetector", here(a), b)

    yield Case(
        "edetector", f"{n:,} steps, {slots:,} slots of {lanes} bets", n, n * (8 * tests + 68) + 2 * state.nbytes, check,
        lambda: edetector(*on_device, *bets, state),
    )  # fmt: skip


def cardinality_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    n, slots = place.size(2**24, 2000), place.size(1000, 3)
    items, rows = rng.integers(0, 2**63, n).astype(np.uint64), rng.integers(0, slots, n).astype(np.int32)
    on_device = (place.there(items), place.there(rows))
    part = place.size(100_003, 1000)
    for verb, sketch in (
        ("add_distinct", np.zeros((slots, 4096), np.uint8)),
        ("add_counts", np.zeros((slots, 4, 4096), np.int32)),
        ("add_members", np.zeros((slots, 512), np.uint64)),
    ):
        run = getattr(cardinality, verb)

        def check(run=run, sketch=sketch) -> None:
            expected = run(items[:part], rows[:part], sketch.copy())
            same([run(on_device[0][:part], on_device[1][:part], place.there(sketch))], [expected])

        state = place.there(sketch)
        work = lambda run=run, state=state: run(*on_device, state)  # noqa: E731
        yield Case(f"cardinality.{verb}", f"{n:,} items, {slots} slots", n, 12 * n, check, work)


def transitions_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    n, sequences = place.size(2**22, 120), place.size(100_000, 7)
    tokens, slots = rng.integers(1, 500, n).astype(np.uint64), rng.integers(0, sequences, n).astype(np.int32)
    counts = rng.integers(0, 100, (1, 1 << 20)).astype(np.int32)
    on_device = [place.there(a) for a in (tokens, slots, np.zeros((sequences, 2), np.uint64), counts)]

    def check() -> None:
        for learn, m in ((False, 200_003), (True, 3000)):
            expected_counts = counts.copy()
            expected = transitions(tokens[:m], slots[:m], np.zeros((sequences, 2), np.uint64), expected_counts, learn=learn)[2]
            state = place.there(np.zeros((sequences, 2), np.uint64)), place.there(counts)
            got = transitions(on_device[0][:m], on_device[1][:m], *state, learn=learn)[2]
            assert_close("transitions.cuda", here(got), expected)
            same([state[1]], [expected_counts])

    yield Case("transitions", f"{n:,} tokens, scored", n, 44 * n, check, lambda: transitions(*on_device, learn=False))


def rff_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    dims, features = place.size(384, 70), place.size(4096, 256)
    w = rff.frequencies(dims, features, sigma=dims**0.5)
    for keys in (1, place.size(10_000, 40)):
        n = place.size(2**18, 200)
        x, slots = rng.normal(size=(n, dims)).astype(np.float32), np.sort(rng.integers(0, keys, n)).astype(np.int32)
        on_device = place.there(x), place.there(slots), place.there(w)
        state = [place.there(a) for a in rff.empty(keys, features)]

        def check(x=x[:3000], slots=slots[:3000], keys=keys) -> None:
            sums, counts = rff.rff(x, slots, w, *rff.empty(keys, features))
            got_sums, got_counts = rff.rff(
                place.there(x), place.there(slots), place.there(w), *(place.there(a) for a in rff.empty(keys, features))
            )
            same([got_counts], [counts])
            off = np.abs(here(got_sums) - sums).max(initial=0, axis=1) / np.maximum(2, counts)
            assert (off <= 1).all(), f"sums differ by {off.max()} of what rounding explains"

        yield Case(
            "rff", f"{n:,} rows of {keys:,} keys, d={dims}, D={features}", n, x.nbytes, check,
            lambda on_device=on_device, state=state: rff.rff(*on_device, *state), n * dims * features,
        )  # fmt: skip


def neighbors_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    n, m, dims, k = place.size(2**14, 40), place.size(2**20, 500), place.size(256, 40), place.size(50, 5)
    queries, reservoir = (torch.randn((rows, dims), device=place.device) for rows in (n, m))

    def check() -> None:
        part, rows = queries[:200], reservoir[:20_000]
        got, expected = neighbors.nearest(part, rows, k), neighbors.nearest(here(part), here(rows), k)
        assert_close("neighbors", here(got.distance), expected.distance)

    yield Case(
        "neighbors.nearest", f"{n:,} x {m:,}, d={dims}, k={k}", n * m, queries.nbytes + reservoir.nbytes, check,
        lambda: neighbors.nearest(queries, reservoir, k), 2 * n * m * dims,
    )  # fmt: skip
    n = place.size(1_000_000, 300)
    rows = torch.randn((n, dims), device=place.device)
    rows[n // 2 : n // 2 + 20] = rows[:20] + 0.01 * rows[20:40]

    def check_pairs() -> None:
        part = torch.cat([rows[: min(n, 5000) // 2], rows[n // 2 : n // 2 + min(n, 5000) // 2]])
        got, expected = neighbors.similar_pairs(part, 0.9), neighbors.similar_pairs(here(part), 0.9)
        assert got.found == 20, f"{got.found} of 20 pairs found"
        same(got[:2], expected[:2])

    pairs = n * (n - 1) // 2
    rounded = rows.to(torch.bfloat16) if place.device == "cuda" else rows
    yield Case(
        "neighbors.similar_pairs", f"{n:,}, d={dims}", pairs, rounded.nbytes, check_pairs,
        lambda: neighbors.similar_pairs(rounded, 0.9), 2 * pairs * dims,
    )  # fmt: skip


def mahalanobis_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    for metrics in (8, place.size(64, 3)):
        devices, ticks = place.size(10_000, 4), place.size(8, 12)
        n = devices * ticks
        x, slots = rng.normal(size=(n, metrics)), np.tile(np.arange(devices, dtype=np.int32), ticks)
        x[rng.random(x.shape) < 0.01] = np.nan
        on_device = place.there(x), place.there(slots)
        state = mahalanobis.Mahalanobis(*(place.there(a) for a in mahalanobis.empty(devices, metrics)))

        def check(x=x, slots=slots, metrics=metrics) -> None:
            few = slots < 40
            fresh = mahalanobis.empty(40, metrics)
            there = mahalanobis.Mahalanobis(*(place.there(a) for a in fresh))
            expected = mahalanobis.mahalanobis(x[few], slots[few], fresh, warmup=2)
            got = mahalanobis.mahalanobis(place.there(x[few]), place.there(slots[few]), there, warmup=2)
            for a, b in zip((*got[:3], *there), (*expected[:3], *fresh), strict=True):
                assert_close("mahalanobis", here(a), b)

        yield Case(
            "mahalanobis", f"{n:,} rows of {metrics} metrics, {devices:,} devices", n,
            x.nbytes + devices * metrics * metrics * 8 * (1 + 2 * ticks), check,
            lambda on_device=on_device, state=state: mahalanobis.mahalanobis(*on_device, state),
        )  # fmt: skip


def peers_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    n, groups = place.size(2**20, 90), place.size(2**14, 4)
    x, group = rng.normal(size=(n, 8)).astype(np.float32), rng.integers(0, groups, n).astype(np.int32)
    x[::31, 3] = np.nan
    on_device = place.there(x), place.there(group)

    def check() -> None:
        for a, b in zip(peers(*on_device, groups), peers(x, group, groups), strict=True):
            assert_close("peers", here(a), b)

    yield Case(
        "peers", f"{n:,} rows of 8 metrics, {groups:,} groups", n, x.nbytes + 8 * x.size, check, lambda: peers(*on_device, groups)
    )  # fmt: skip


def textsketch_cases(place: Place, rng: np.random.Generator) -> Iterator[Case]:
    n, length = place.size(100_000, 20), place.size(600, 15)
    data = rng.choice(np.frombuffer(b"etaoin shrdlu 0123 ABC", np.uint8), n * length)
    offsets = np.arange(0, n * length + 1, length, dtype=np.int64)
    on_device = place.there(data), place.there(offsets)

    def check() -> None:
        few = min(n, 2000)
        expected = textsketch(data[: few * length], offsets[: few + 1])
        got = textsketch(on_device[0][: few * length], on_device[1][: few + 1])
        assert_close("textsketch", here(got.projection), expected.projection)
        same(got[1:], expected[1:])

    yield Case(
        "textsketch (bytes)", f"{n:,} texts of {length} bytes", len(data), len(data) + n * 256 * 12, check, lambda: textsketch(*on_device)
    )  # fmt: skip


CASES: dict[str, Callable[[Place, np.random.Generator], Iterator[Case]]] = {
    "profile": profile_cases, "rff": rff_cases, "neighbors": neighbors_cases, "evidence": evidence_cases, "edetector": edetector_cases,
    "cardinality": cardinality_cases, "mahalanobis": mahalanobis_cases, "peers": peers_cases, "textsketch": textsketch_cases,
    "transitions": transitions_cases,
}  # fmt: skip
