"""Triton: textsketch. A lane walks a text, byte by byte, as the CPU does; the lanes of a program have texts of like length.

Sums of signs are integers and least hashes are minima, so the order of the atomics changes nothing. simhash and minhash are int64 of
the bits that are uint64 on the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.textsketch import TextSketch, check
from kernels.textsketch.cpu import READ, WORD

TEXTS = 64  # of a program
BITS = 64
FOLD = 16  # runs of 64 coordinates that are read at once


@triton.jit
def mix(h):
    """As `cpu.mix`."""
    h = h * 0xBF58476D1CE4E5B9
    h = h ^ (h >> 31)
    return h * 0x94D049BB133111EB


@triton.jit
def add(h, to, here, BITS_OF: tl.constexpr):
    """Add grams' signs to their coordinates of the rows `to`."""
    sign = 1 - ((h >> (62 - BITS_OF)) & 2).to(tl.int32)
    tl.atomic_add(to + (h >> (64 - BITS_OF)).to(tl.int64), sign, mask=here, sem="relaxed")


@triton.jit
def keep_least(h, to, here, HASHES: tl.constexpr):
    """As `cpu.keep_least`, of the rows `to`."""
    h = mix(h ^ (h >> 32))
    at = ((h ^ (h >> 32)) & (HASHES - 1)).to(tl.int64)
    tl.atomic_min(to + at, h, mask=here, sem="relaxed")


@triton.jit
def grams_kernel(
    data, offsets, lengths, order, table, sums, minhash, n, longest_of,
    BITS_OF: tl.constexpr, HASHES: tl.constexpr, TEXTS: tl.constexpr,
):  # fmt: skip
    """Add the grams of texts order[:n] to sums int32 [texts, 2**BITS_OF] and minhash uint64 [texts, HASHES].

    lengths int64: bytes of each of these, -1 where there is no text; longest_of int64: the greatest of each program's. table int32[256]:
    what a byte is read as, and 256 more where it belongs to a word.
    """
    lane = tl.program_id(0) * TEXTS + tl.arange(0, TEXTS)
    is_text = lane < n
    text = tl.load(order + lane, mask=is_text, other=0)
    start = tl.load(offsets + text, mask=is_text, other=0).to(tl.int64)
    length = tl.load(lengths + lane, mask=is_text, other=-1)
    row = sums + (text << BITS_OF)
    least = minhash + text * HASHES
    zero = tl.zeros((TEXTS,), tl.uint64)
    window, word, before, filled = zero + 32, zero, zero, zero + 1
    blank = is_text
    for t in range(tl.load(longest_of + tl.program_id(0)) + 1):
        going = is_text & (t <= length)
        raw = tl.load(data + start + t, mask=going & (t < length), other=32).to(tl.int32)
        read = tl.load(table + raw)
        c = (read & 255).to(tl.uint64)
        in_word = going & (read >= 256)
        ends = going & (read < 256) & (word != 0)
        if tl.max(ends.to(tl.int32), axis=0) > 0:
            h = mix(word)
            add(h, row, ends, BITS_OF)
            pair = mix(before * 0xD6E8FEB86659FD93 + h)
            add(pair, row, ends & (before != 0), BITS_OF)
            if HASHES:
                keep_least(h, least, ends, HASHES)
                keep_least(pair, least, ends & (before != 0), HASHES)
            before = tl.where(ends, h, before)
        word = tl.where(in_word, (word ^ c) * 0x100000001B3 + 1, tl.where(ends, zero, word))
        taken = going & ((c != 32) | (blank == 0))
        blank = tl.where(going, c == 32, blank)
        window = tl.where(taken, (window << 8) | c, window)
        filled = tl.where(taken, filled + 1, filled)
        add(mix((window & 0xFFFFFF) | (3 << 56)), row, taken & (filled >= 3), BITS_OF)
        add(mix((window & 0xFFFFFFFF) | (4 << 56)), row, taken & (filled >= 4), BITS_OF)
        add(mix((window & 0xFFFFFFFFFF) | (5 << 56)), row, taken & (filled >= 5), BITS_OF)


@triton.jit
def finish_kernel(sums, projection, simhash, DIMS: tl.constexpr, BITS: tl.constexpr, FOLD: tl.constexpr):
    """Projection and SimHash of a text from its sums."""
    text = tl.program_id(0).to(tl.int64)
    b = tl.arange(0, BITS)
    square = tl.zeros((BITS,), tl.int64)
    folded = tl.zeros((BITS,), tl.int64)
    for first in range(0, DIMS, BITS * FOLD):
        j = first + tl.arange(0, FOLD)[:, None] * BITS + b[None, :]
        v = tl.load(sums + text * DIMS + j, mask=j < DIMS, other=0).to(tl.int64)
        square += tl.sum(v * v, axis=0)
        positive = (mix((j + 1).to(tl.uint64)) >> 63) != 0
        folded += tl.sum(tl.where(positive, v, -v), axis=0)
    total = tl.sum(square, axis=0)
    norm = tl.where(total > 0, 1.0 / tl.sqrt(tl.maximum(total, 1).to(tl.float64)), 0.0).to(tl.float32)
    for first in range(0, DIMS, BITS * FOLD):
        j = first + tl.arange(0, BITS * FOLD)
        v = tl.load(sums + text * DIMS + j, mask=j < DIMS, other=0)
        tl.store(projection + text * DIMS + j, v.to(tl.float32) * norm, mask=j < DIMS)
    odd = b[:, None] & b[None, :]  # Hadamard's matrix is -1 where this has an odd number of bits
    odd = odd ^ (odd >> 4)
    odd = odd ^ (odd >> 2)
    odd = (odd ^ (odd >> 1)) & 1
    rotated = tl.sum(tl.where(odd == 1, -folded[None, :], folded[None, :]), axis=1)
    bit = tl.full((BITS,), 1, tl.int64) << b.to(tl.int64)
    tl.store(simhash + text, tl.sum(tl.where(rotated > 0, bit, 0), axis=0))


def textsketch(data, offsets, *, dims: int, hashes: int, valid, first_bit: int) -> TextSketch:
    """As `kernels.textsketch.textsketch`, of tensors."""
    check(dims, hashes)
    device, n = data.device, len(offsets) - 1
    if data.dtype != torch.uint8 or data.ndim != 1:
        raise ValueError(f"data must be uint8[bytes], not {data.dtype}{list(data.shape)}")
    if offsets.dtype not in (torch.int32, torch.int64) or offsets.ndim != 1 or n < 0:
        raise ValueError(f"offsets must be int32 or int64 [n + 1], not {offsets.dtype}{list(offsets.shape)}")
    if int(offsets[0]) < 0 or int(offsets[-1]) > len(data) or bool((offsets.diff() < 0).any()):
        raise ValueError("offsets must ascend within data")
    if valid is not None and (valid.dtype != torch.uint8 or first_bit < 0 or 8 * len(valid) < first_bit + n):
        raise ValueError("valid must be uint8 with a bit for every text")
    return launch(data.contiguous(), offsets.contiguous(), table_on(device), dims, hashes, valid, first_bit)


def table_on(device):
    """int32[256]: what a byte is read as, and 256 more where it belongs to a word."""
    return torch.from_numpy(READ.astype("int32") + 256 * WORD.astype("int32")).to(device)


def launch(data, offsets, table, dims: int, hashes: int, valid, first_bit: int) -> TextSketch:
    """Sketch texts whose offsets are known to ascend within data. Asks the device nothing, so that a CUDA graph can hold it (see
    `kernels.device.tick`): n and the buffers' sizes are static."""
    device, n = data.device, len(offsets) - 1
    sums = torch.zeros((n, dims), dtype=torch.int32, device=device)
    projection = torch.full((n, dims), torch.nan, dtype=torch.float32, device=device)
    simhash = torch.zeros(n, dtype=torch.int64, device=device)
    minhash = torch.full((n, hashes), -1, dtype=torch.int64, device=device)
    if n:
        lengths = offsets.diff().long()
        if valid is not None:
            bit = first_bit + torch.arange(n, device=device)
            lengths = torch.where((valid[bit >> 3] >> (bit & 7) & 1) == 1, lengths, -1)
        lengths, order = torch.sort(lengths)
        longest_of = torch.nn.functional.pad(lengths, (0, -n % TEXTS), value=-1).view(-1, TEXTS).amax(1)
        grams_kernel[(len(longest_of),)](
            data, offsets, lengths, order, table, sums, minhash.view(torch.uint64), n, longest_of,
            BITS_OF=dims.bit_length() - 1, HASHES=hashes, TEXTS=TEXTS, num_warps=TEXTS // 32,
        )  # fmt: skip
        finish_kernel[(n,)](sums, projection, simhash, DIMS=dims, BITS=BITS, FOLD=FOLD, enable_fp_fusion=False)
    return TextSketch(projection, simhash, minhash)
