"""Triton: cardinality. Items are hashed in the kernel; counters and bits are set by integer atomics, in any order.

64-bit hashes and words are int64 tensors here, whose bits are those of the CPU's uint64.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def mixed(item):
    """SplitMix64's finaliser, as in `cpu.mixed`."""
    h = item.to(tl.uint64, bitcast=True) + 0x9E3779B97F4A7C15
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB
    return h ^ (h >> 31)


@triton.jit
def hll_kernel(items, slots, places, ranks, n, P: tl.constexpr, BLOCK: tl.constexpr):
    """Place in the flat registers and rank of each item."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = i < n
    h = mixed(tl.load(items + i, mask=here, other=0))
    slot = tl.load(slots + i, mask=here, other=-1).to(tl.int64)
    rest = h << P
    zeros = tl.zeros((BLOCK,), tl.int32) + 64
    for power in tl.static_range(6):
        shift = 32 >> power
        upper = rest >> shift
        zeros = tl.where(upper != 0, zeros - shift, zeros)
        rest = tl.where(upper != 0, upper, rest)
    zeros = tl.where(rest != 0, zeros - 1, zeros)
    rank = tl.minimum(zeros, 64 - P) + 1
    place = (h >> (64 - P)).to(tl.int64)
    tl.store(places + i, tl.where(slot >= 0, (slot << P) + place, 0), mask=here)
    tl.store(ranks + i, tl.where(slot >= 0, rank, 0).to(tl.uint8), mask=here)


@triton.jit(do_not_specialize=["W"])
def count_min_kernel(
    items, slots, counts, weights, found, n, W, D: tl.constexpr, ADD: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):
    """Add items to a count-min sketch, or write the least of their counters."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = i < n
    h = mixed(tl.load(items + i, mask=here, other=0))
    slot = tl.load(slots + i, mask=here, other=-1).to(tl.int64)
    used = here & (slot >= 0)
    first = h & 0xFFFFFFFF
    second = (h >> 32) | 1
    least = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
    weight = tl.full((BLOCK,), 1, tl.int32)
    if WEIGHTED:
        weight = tl.load(weights + i, mask=used, other=0)
    for j in tl.static_range(D):
        place = ((first + j * second) & (W - 1).to(tl.uint64)).to(tl.int64)
        at = counts + (slot * D + j) * W + place
        if ADD:
            tl.atomic_add(at, weight, mask=used, sem="relaxed")
        else:
            least = tl.minimum(least, tl.load(at, mask=used, other=0))
    if not ADD:
        tl.store(found + i, tl.where(used, least, 0), mask=here)


@triton.jit(do_not_specialize=["W"])
def bloom_kernel(items, slots, bits, found, n, W, K: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """Set the bits of items, or write whether all of them are set."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = i < n
    h = mixed(tl.load(items + i, mask=here, other=0))
    slot = tl.load(slots + i, mask=here, other=-1).to(tl.int64)
    used = here & (slot >= 0)
    first = h & 0xFFFFFFFF
    second = (h >> 32) | 1
    every = used
    for j in tl.static_range(K):
        place = ((first + j * second) & (64 * W - 1).to(tl.uint64)).to(tl.int64)
        at = bits + slot * W + (place >> 6)
        bit = place & 63
        if ADD:
            tl.atomic_or(at, tl.full((BLOCK,), 1, tl.int64) << bit, mask=used, sem="relaxed")
        else:
            every = every & (((tl.load(at, mask=used, other=0) >> bit) & 1) == 1)
    if not ADD:
        tl.store(found + i, every.to(tl.int8), mask=here)


def add_distinct(items, slots, registers):
    """As `cpu.add_distinct`; registers uint8. Torch reduces the ranks, since Triton has no atomics on bytes."""
    n = len(items)
    if not n:
        return
    places = torch.empty(n, dtype=torch.int64, device=items.device)
    ranks = torch.empty(n, dtype=torch.uint8, device=items.device)
    precision = registers.shape[1].bit_length() - 1
    hll_kernel[(triton.cdiv(n, BLOCK),)](signed(items), slots, places, ranks, n, P=precision, BLOCK=BLOCK, enable_fp_fusion=False)
    registers.view(-1).scatter_reduce_(0, places, ranks, "amax")


def distinct(registers):
    """As `cpu.distinct`, all slots at once."""
    m = registers.shape[1]
    longest = 64 - (m.bit_length() - 1)
    having = torch.zeros((len(registers), longest + 2), dtype=torch.float64, device=registers.device)
    having.scatter_add_(1, registers.to(torch.int64), torch.ones(registers.shape, dtype=torch.float64, device=registers.device))
    x = 1 - having[:, -1] / m
    z = 1 - x
    for k in range(1, 60):
        x = torch.sqrt(x)
        z = z - (1 - x) ** 2 * 0.5**k
    z = torch.where(having[:, -1] == 0, torch.zeros_like(z), m * z / 3)
    for k in range(longest, 0, -1):
        z = (z + having[:, k]) / 2
    x = having[:, 0] / m
    small = x.clone()
    for k in range(60):
        x = x * x
        small = small + x * 2.0**k
    estimate = m * m / (2 * math.log(2)) / (z + m * small)
    estimate = torch.where(having[:, 0] == m, torch.zeros_like(estimate), estimate)
    return torch.where(having[:, -1] == m, torch.full_like(estimate, math.inf), estimate)


def add_counts(items, slots, counts, weights):
    run_count_min(items, slots, counts, weights, None)


def counts_of(items, slots, counts):
    found = torch.empty(len(items), dtype=torch.int32, device=items.device)
    run_count_min(items, slots, counts, None, found)
    return found


def run_count_min(items, slots, counts, weights, found):
    n, (_, d, w) = len(items), counts.shape
    if n:
        count_min_kernel[(triton.cdiv(n, BLOCK),)](
            signed(items), slots, counts, counts if weights is None else weights, counts if found is None else found, n, w,
            D=d, ADD=found is None, WEIGHTED=weights is not None, BLOCK=BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


def add_members(items, slots, bits, hashes):
    run_bloom(items, slots, bits, hashes, None)


def members(items, slots, bits, hashes):
    found = torch.empty(len(items), dtype=torch.int8, device=items.device)
    run_bloom(items, slots, bits, hashes, found)
    return found.to(torch.bool)


def run_bloom(items, slots, bits, hashes, found):
    n = len(items)
    if n:
        words = signed(bits)
        bloom_kernel[(triton.cdiv(n, BLOCK),)](
            signed(items),
            slots,
            words,
            words if found is None else found,
            n,
            bits.shape[1],
            K=hashes,
            ADD=found is None,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )


def signed(words):
    """The same bits as int64."""
    return words.view(torch.int64)
