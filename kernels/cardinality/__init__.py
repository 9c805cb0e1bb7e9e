"""cardinality: how many distinct items, how often each, and which were seen before; per slot, in fixed space.

Items are uint64 hashes or identifiers of any kind; each is mixed again (SplitMix64's finaliser), so consecutive numbers are fine.
Three sketches, each with a verb that adds (in place; the result does not depend on order or batches) and one that asks:

- HyperLogLog, registers uint8[S, 2**p], p from 4 to 18: `add_distinct`, `distinct`; relative standard error 1.04 / sqrt(2**p).
  Two states merge by the greater register
- count-min, counts int32[S, d, w], w a power of two: `add_counts`, `counts_of`, which never says too little, and too much by more
  than e/w of the slot's total with probability e**-d at most. Two states add; a slot's total must stay under 2**31
- Bloom filter, bits uint64[S, w], w a power of two: `add_members`, `members`, which never forgets. Two states merge by bitwise or

Sources: Flajolet et al. 2007 with the estimator of Ertl 2017 (arXiv 1702.01284), which needs no bias tables; Cormode and
Muthukrishnan 2005; Bloom 1970 with double hashing (Kirsch and Mitzenmacher 2006).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["add_counts", "add_distinct", "add_members", "counts_of", "distinct", "members"]


def add_distinct(items: Any, slots: Any, registers: Any) -> Any:
    """Add items uint64[n] to their slots' HyperLogLog registers, in place, and return these.

    slots: int32[n], -1 to leave an item out, or an int for all. ValueError for shapes and types that do not fit.

    >>> registers = add_distinct(np.arange(5000, dtype=np.uint64) % 1000, 0, np.zeros((1, 1024), np.uint8))
    >>> bool(abs(distinct(registers)[0] - 1000) < 100)
    True
    """
    table(registers, "uint8", 2, least=16, most=2**18)
    items, slots = rows(items, slots, len(registers))
    implementation(items).add_distinct(items, slots, registers)
    return registers


def distinct(registers: Any) -> Any:
    """float64[S]: the estimated number of distinct items of each slot; infinity where every register is full."""
    table(registers, "uint8", 2, least=16, most=2**18)
    return implementation(registers).distinct(registers)


def add_counts(items: Any, slots: Any, counts: Any, weights: Any = None) -> Any:
    """Add items uint64[n], each `weights` int32[n] times (default once), to their slots' count-min sketch, in place; return it.

    >>> counts = add_counts(np.array([7, 7, 9], np.uint64), 0, np.zeros((1, 3, 64), np.int32))
    >>> counts_of(np.array([7, 9, 8], np.uint64), 0, counts).tolist()
    [2, 1, 0]
    """
    table(counts, "int32", 3, least=1, most=2**31)
    items, slots = rows(items, slots, len(counts))
    if weights is not None and (kind_of(weights) != "int32" or tuple(weights.shape) != tuple(items.shape)):
        raise ValueError(f"weights must be int32[{len(items)}]")
    implementation(items).add_counts(items, slots, counts, weights)
    return counts


def counts_of(items: Any, slots: Any, counts: Any) -> Any:
    """int32[n]: how often each item was added to its slot, or more; 0 where the slot is -1."""
    table(counts, "int32", 3, least=1, most=2**31)
    items, slots = rows(items, slots, len(counts))
    return implementation(items).counts_of(items, slots, counts)


def add_members(items: Any, slots: Any, bits: Any, hashes: int = 4) -> Any:
    """Add items uint64[n] to their slots' Bloom filter, in place, and return it. `hashes`: bits an item sets, 1 to 16.

    >>> bits = add_members(np.array([7, 9], np.uint64), 0, np.zeros((1, 16), np.uint64))
    >>> members(np.array([7, 8], np.uint64), 0, bits).tolist()
    [True, False]
    """
    bloom(bits, hashes)
    items, slots = rows(items, slots, len(bits))
    implementation(items).add_members(items, slots, bits, hashes)
    return bits


def members(items: Any, slots: Any, bits: Any, hashes: int = 4) -> Any:
    """bool[n]: whether each item was added to its slot; True for some that were not (a share of about fill**hashes); False where the
    slot is -1. `hashes` must be what the items were added with."""
    bloom(bits, hashes)
    items, slots = rows(items, slots, len(bits))
    return implementation(items).members(items, slots, bits, hashes)


def implementation(array: Any) -> ModuleType:
    """The module for arrays of this type."""
    if type(array).__module__.partition(".")[0] == "torch":
        from kernels.cardinality import gpu

        return gpu
    from kernels.cardinality import cpu

    return cpu


def kind_of(array: Any) -> str:
    """The name of an array's element type, NumPy's or Torch's."""
    return str(array.dtype).removeprefix("torch.")


def rows(items: Any, slots: Any, size: int) -> tuple[Any, Any]:
    """Items and a slot for each, checked. Torch tensors may hold the hashes' bits as int64, and must have slots as a tensor."""
    if kind_of(items) not in ({"uint64"} if isinstance(items, np.ndarray) else {"uint64", "int64"}) or len(items.shape) != 1:
        raise ValueError(f"items must be uint64[n], not {kind_of(items)}{list(items.shape)}")
    if isinstance(slots, int | np.integer):
        if not -1 <= int(slots) < size:
            raise ValueError(f"slot {slots} is not in a sketch of {size} rows")
        if not isinstance(items, np.ndarray):
            import torch

            return items, torch.full_like(items, int(slots), dtype=torch.int32)
        return items, np.full(len(items), slots, np.int32)
    if kind_of(slots) != "int32" or tuple(slots.shape) != tuple(items.shape):
        raise ValueError(f"slots must be int32[{len(items)}], not {kind_of(slots)}{list(slots.shape)}")
    if len(slots) and int(slots.max()) >= size:
        raise ValueError(f"slots must be in a sketch of {size} rows")
    return items, slots


def table(sketch: Any, dtype: str, dimensions: int, *, least: int, most: int) -> None:
    """ValueError unless the sketch has this type and number of dimensions, and its last is a power of two within bounds."""
    width = int(sketch.shape[-1]) if len(sketch.shape) else 0
    allowed = {dtype} if isinstance(sketch, np.ndarray) else {dtype, dtype.removeprefix("u")}
    if kind_of(sketch) not in allowed or len(sketch.shape) != dimensions or not least <= width <= most or width & (width - 1):
        raise ValueError(
            f"the sketch must be {dtype} of {dimensions} dimensions, the last a power of two from {least} to {most}, "
            f"not {kind_of(sketch)}{list(sketch.shape)}"
        )


def bloom(bits: Any, hashes: int) -> None:
    """ValueError unless these are a Bloom filter's bits and a sensible number of hashes."""
    table(bits, "uint64", 2, least=1, most=2**26)
    if not 1 <= hashes <= 16:
        raise ValueError(f"hashes must be from 1 to 16, not {hashes}")
