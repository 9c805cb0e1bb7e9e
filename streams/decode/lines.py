"""Records to lines: one buffer with a newline after each record, and which record each line came from."""

from __future__ import annotations

import numpy as np

from streams.decode.wire import compiled

OPEN, CLOSE, NEWLINE, RETURN, SPACE, TAB = ord("{"), ord("}"), ord("\n"), ord("\r"), ord(" "), ord("\t")


@compiled()
def join_lines(data, starts, ends, index, out, lines):
    """Copy records `index` into `out` (uint8[bytes + records]), each with its blank ends cut off and a newline after it.

    Fills lines[i], the number of lines of each record. Returns (bytes written, whether every record begins with `{` and ends with `}`).
    """
    at, braces = 0, True
    for k in range(len(index)):
        start, end = starts[index[k]], ends[index[k]]
        while start < end and (data[start] == SPACE or data[start] == NEWLINE or data[start] == RETURN or data[start] == TAB):
            start += 1
        while start < end and (data[end - 1] == SPACE or data[end - 1] == NEWLINE or data[end - 1] == RETURN or data[end - 1] == TAB):
            end -= 1
        n = end - start
        braces &= n >= 2 and data[start] == OPEN and data[end - 1] == CLOSE
        inside = np.int32(0)
        for j in range(n):
            c = data[start + j]
            out[at + j] = c
            inside += np.int32(c == NEWLINE)
        out[at + n] = NEWLINE
        at += n + 1
        lines[k] = inside + 1
    return at, braces


@compiled()
def may_hold(data):
    """Whether a quote and `res`, `spe` or `cap` stand anywhere, as in all keys of special kinds: a quick look before the exact one."""
    found = False
    for i in range(len(data) - 4):
        a, b, c = data[i + 1], data[i + 2], data[i + 3]
        resource = (a == 0x72) & (b == 0x65) & (c == 0x73)
        specversion = (a == 0x73) & (b == 0x70) & (c == 0x65)
        capture = (a == 0x63) & (b == 0x61) & (c == 0x70)
        found |= (data[i] == 0x22) & (resource | specversion | capture)
    return found


def joined(data: bytes | memoryview, starts: np.ndarray, ends: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(uint8 buffer of lines, record position of each line); the second is None unless every line is one that begins with `{` and
    ends with `}`, so that no JSON object can span two lines.

    >>> text, owner = joined(b'{}{}\\n{}', np.array([0, 2]), np.array([2, 7]), np.array([0, 1]))
    >>> bytes(text), owner.tolist()
    (b'{}\\n{}\\n{}\\n', [0, 1, 1])
    """
    out = np.empty(int((ends[index] - starts[index]).sum()) + len(index), np.uint8)
    lines = np.empty(len(index), np.int64)
    size, braces = join_lines(np.frombuffer(data, np.uint8), starts, ends, index, out, lines)
    out = out[:size]
    if not braces:
        return out, None
    if int(lines.sum()) == len(index):
        return out, index
    breaks = np.flatnonzero(out == NEWLINE)
    first = np.concatenate([[0], breaks[:-1] + 1])
    last = breaks - 1
    last -= (last > first) & (out[last] == RETURN)
    if not ((breaks > first) & (out[first] == OPEN) & (out[last] == CLOSE)).all():
        return out, None
    return out, np.repeat(index, lines)
