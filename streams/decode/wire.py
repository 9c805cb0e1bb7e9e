"""Reading bytes in Numba without an object or a bounds check for each: loads, protobuf's varints, UTF-8, hashes, and a verifier.

Positions are int64 and relative to the first byte of `data`. The loads do not check where they read: each caller has compared its
position with the end of what encloses it. Everything is int64, because Numba makes float64 of an int64 and a uint64.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

HIGH_BITS = np.int64(-0x7F7F7F7F7F7F7F80)
FIRST_FACTOR, LAST_FACTOR = np.int64(-0x61C8864680B583EB), np.int64(-0x40A7B892E31B1A47)
compiled = partial(njit, nogil=True, cache=True, _nrt=False)
"""How the scans are compiled: without counting references to the arrays that they pass on. Numba counts them atomically wherever a function
begins, inlined ones too, which took two fifths of a scan. What is compiled so can't make an array."""
OPAQUE, STRING, PACKED, MESSAGE = 0, 1, 2, 3
"""What a field of a message is: no matter, text, a repeated number; from `MESSAGE` on, another message."""
FIELDS = 32
DEPTH = 60
LONG_STRING = 1 << 31


def loading(bits: int) -> Any:
    """An intrinsic that loads a little-endian number of so many bits from any position of a uint8 array, as int64."""

    @intrinsic
    def load(context, data, position):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            view = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
            place = builder.bitcast(builder.gep(view.data, [arguments[1]]), ir.IntType(bits).as_pointer())
            word = builder.load(place)
            word.align = 1
            return word if bits == 64 else builder.zext(word, ir.IntType(64))

        return types.int64(data, types.int64), generate

    return load


load8, load64 = loading(8), loading(64)


@intrinsic
def mixed(context, a, b):  # type: ignore[no-untyped-def]
    """Both halves of the 128-bit product of two int64, one over the other."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        high = builder.lshr(product, ir.Constant(wide, 64))
        return builder.trunc(builder.xor(product, high), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def get(context, array, index):  # type: ignore[no-untyped-def]
    """An element of a C-contiguous array of integers by its flat index, as int64; a negative index does not count from the end."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        view = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        word = builder.load(builder.gep(view.data, [arguments[1]]))
        if array.dtype.bitwidth == 64:
            return word
        return builder.sext(word, ir.IntType(64)) if array.dtype.signed else builder.zext(word, ir.IntType(64))

    return types.int64(array, types.int64), generate


@intrinsic
def put(context, array, index, value):  # type: ignore[no-untyped-def]
    """Set such an element; what is too large for it is cut off."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        view = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        word = arguments[2] if array.dtype.bitwidth == 64 else builder.trunc(arguments[2], ir.IntType(array.dtype.bitwidth))
        builder.store(word, builder.gep(view.data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def copied(context, out, to, data, position, size):  # type: ignore[no-untyped-def]
    """Copy so many bytes of one uint8 array to another. Neither position is checked."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target, source = (cgutils.create_struct_proxy(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        cgutils.raw_memcpy(builder, builder.gep(target, [arguments[1]]), builder.gep(source, [arguments[3]]), arguments[4], 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, data, types.int64, types.int64), generate


@intrinsic
def as_double(context, bits):  # type: ignore[no-untyped-def]
    """The float64 that 64 bits are."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def lowest(context, bits):  # type: ignore[no-untyped-def]
    """The number of the lowest bit that is set; 64 where none is."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate


@compiled(forceinline=True)
def tail(data, at, size):
    """The last eight bytes of a text that ends at `at + size`, or the `size` that there are. It may read before `at`, not before 0."""
    if size >= 8:
        return load64(data, at + size - 8)
    if size == 0:
        return np.int64(0)
    if 0 <= at + size < 8:
        word = np.int64(0)
        for i in range(size):
            word |= load8(data, at + i) << (64 - 8 * size + 8 * i)
        return word >> (64 - 8 * size)
    return load64(data, at + size - 8) >> (64 - 8 * size)


@compiled(forceinline=True)
def equal(data, a, b, size):
    """Whether the texts of one size at `a` and at `b` are the same."""
    for i in range(0, size - 8, 8):
        if load64(data, a + i) != load64(data, b + i):
            return False
    return tail(data, a, size) == tail(data, b, size)


@compiled(forceinline=True)
def hashed(data, at, size, seed):
    """A hash of a text; its high bits are as good as its low ones."""
    h = seed ^ size
    for i in range(0, size - 8, 8):
        h = mixed(h ^ load64(data, at + i), FIRST_FACTOR)
    return mixed(h ^ tail(data, at, size), LAST_FACTOR)


@compiled(forceinline=True)
def is_ascii(data, at, size):
    """Whether a text has no byte above 127."""
    high = tail(data, at, size)
    for i in range(0, size - 8, 8):
        high |= load64(data, at + i)
    return high & HIGH_BITS == 0


@compiled()
def is_utf8(data, at, size):
    """Whether a text is UTF-8 (no surrogates, nothing overlong, nothing above U+10FFFF)."""
    end = at + size
    while at < end:
        c = load8(data, at)
        if c < 0x80:
            at += 8 if at + 8 <= end and load64(data, at) & HIGH_BITS == 0 else 1
            continue
        more = 1 if 0xC2 <= c <= 0xDF else 2 if 0xE0 <= c <= 0xEF else 3 if 0xF0 <= c <= 0xF4 else 0
        if more == 0 or at + more >= end:
            return False
        d = load8(data, at + 1)
        low = 0xA0 if c == 0xE0 else 0x90 if c == 0xF0 else 0x80
        high = 0x9F if c == 0xED else 0x8F if c == 0xF4 else 0xBF
        if d < low or d > high:
            return False
        for i in range(2, more + 1):
            if load8(data, at + i) & 0xC0 != 0x80:
                return False
        at += more + 1
    return True


@compiled()
def varint(data, at, end):
    """(number, next position); the position is -1 where it does not end before `end`, or has more than 64 bits."""
    value, shift = np.int64(0), np.int64(0)
    while at < end and shift < 64:
        byte = load8(data, at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at if shift < 63 or byte <= 1 else np.int64(-1)
        shift += 7
    return np.int64(0), np.int64(-1)


@compiled()
def skip(data, at, end):
    """(field number, wire type, start, stop) of the field at `at`; number 0 where there is none that fits."""
    tag, start = varint(data, at, end)
    if start < 0 or start - at > 5 or tag < 8 or tag >= 1 << 32:
        return np.int64(0), np.int64(0), at, at
    kind, stop = tag & 7, np.int64(-1)
    if kind == 2:
        at = start
        size, start = varint(data, at, end)
        if start >= 0 and start - at <= 5 and size <= end - start:
            stop = start + size
    elif kind == 0:
        _, stop = varint(data, start, end)
    elif kind in (1, 5):
        stop = start + (8 if kind == 1 else 4)
    if stop < 0 or stop > end:
        return np.int64(0), np.int64(0), start, start
    return tag >> 3, kind, start, stop


@compiled()
def verify(data, at, end, message, schema, stack):
    """-1 when protobuf would take these bytes as this message, all messages in it included; else the byte at which that is not sure."""
    depth = 0
    while True:
        while at == end:
            if depth == 0:
                return np.int64(-1)
            depth -= 1
            end, message = stack[depth, 0], stack[depth, 1]
        number, kind, start, stop = skip(data, at, end)
        if number == 0:
            return at
        what = schema[message, number] if number < schema.shape[1] else OPAQUE
        if what == PACKED:
            return at
        if kind == 2 and what == STRING and not is_utf8(data, start, stop - start):
            return start
        at = stop
        if kind == 2 and what >= MESSAGE:
            if depth == len(stack):
                return start
            stack[depth, 0], stack[depth, 1] = end, message
            depth += 1
            at, end, message = start, stop, what - MESSAGE


def schema_of(root: Any) -> tuple[np.ndarray, dict[str, int]]:
    """(int16[messages, fields]: what each field is, messages' numbers by name) of a protobuf class and all that it holds.

    >>> from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    >>> schema, numbers = schema_of(KeyValue)
    >>> schema[numbers["KeyValue"], :3].tolist() == [OPAQUE, STRING, MESSAGE + numbers["AnyValue"]]
    True
    """
    found, numbers = [root.DESCRIPTOR], {root.DESCRIPTOR.name: 0}
    table = np.zeros((64, FIELDS), np.int16)
    for number, message in enumerate(found):  # grows while it is read
        for field in message.fields:
            if field.message_type is not None:
                if field.message_type.name not in numbers:
                    numbers[field.message_type.name] = len(found)
                    found.append(field.message_type)
                table[number, field.number] = MESSAGE + numbers[field.message_type.name]
            elif field.type == field.TYPE_STRING:
                table[number, field.number] = STRING
            elif field.is_repeated and field.type != field.TYPE_BYTES:
                table[number, field.number] = PACKED
    return table[: len(found)], numbers
