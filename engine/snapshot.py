"""A snapshot: all that an owner's restart needs, and its bytes: a NumPy archive with a digest at its end."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import orjson

from engine.state import KeyTable, State

FORMAT = 3
DIGEST_BYTES = 32


@dataclass
class Snapshot:
    """A state at an offset. `next_offset`: the first record that is not in it. `meta`: what else the owner wants kept."""

    state: State
    next_offset: int
    outbox: list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


class Hashed(io.RawIOBase):
    """A file that only grows, and the digest of what was written to it."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)


def write(snapshot: Snapshot, file: BinaryIO) -> None:
    """Write one snapshot."""
    hashed = Hashed(file)
    np.savez(hashed, **pack(snapshot))  # type: ignore[arg-type]
    file.write(hashed.digest.digest())


def read(file: BinaryIO, limits: dict[str, int] | None) -> Snapshot:
    """Read one snapshot. Raises ValueError when it is not whole, OSError when it can't be read."""
    left = file.seek(0, os.SEEK_END) - DIGEST_BYTES
    file.seek(0)
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        left -= len(block)
        digest.update(block)
    if left or file.read() != digest.digest():
        raise ValueError("cut short or damaged")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return unpack({k: archive[k] for k in archive.files}, limits)


def pack(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Named arrays for one archive; everything that is not an array goes into one JSON document."""
    state = snapshot.state
    if any(state.pending.values()):
        raise AssertionError(f"checkpoint before judge: {[k for k, v in state.pending.items() if v]} pending")
    document = {
        "format": FORMAT,
        "next_offset": snapshot.next_offset,
        "outbox": snapshot.outbox,
        "meta": snapshot.meta,
        "watermarks": state.watermarks,
        "closed_us": state.closed_us,
        "records": state.records,
        "tables": {name: {"keys": t.keys, "free": t.free, "evicted": t.evicted, "refused": t.refused} for name, t in state.tables.items()},
    }
    arrays = {f"array/{name}": array for name, array in state.arrays.items()}
    arrays |= {f"last/{name}": t.last_us[: len(t.keys)] for name, t in state.tables.items()}
    arrays |= {f"again/{name}": t.again[: len(t.keys)] for name, t in state.tables.items()}
    arrays["document"] = np.frombuffer(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS), np.uint8)
    return arrays


def unpack(archive: dict[str, np.ndarray], limits: dict[str, int] | None) -> Snapshot:
    """The reverse of `pack`."""
    document = orjson.loads(archive["document"].tobytes())
    if document["format"] != FORMAT:
        raise ValueError(f"checkpoint format {document['format']}, this version reads {FORMAT}")
    state = State(limits)
    state.watermarks, state.closed_us = document["watermarks"], document["closed_us"]
    state.records = document["records"]
    for name, saved in document["tables"].items():
        table: KeyTable = state.table(name)
        table.keys, table.free = saved["keys"], saved["free"]
        table.evicted, table.refused = saved["evicted"], saved["refused"]
        table.index = {key: slot for slot, key in enumerate(saved["keys"]) if key}
        table.last_us, table.again = archive[f"last/{name}"].copy(), archive[f"again/{name}"].copy()
    for key, array in archive.items():
        if key.startswith("array/"):
            state.arrays[key.removeprefix("array/")] = array
    return Snapshot(state, document["next_offset"], document["outbox"], document["meta"])
