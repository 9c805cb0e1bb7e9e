"""Checkpoints: one file per partition, one rename, and that rename is the only commit point.

A file holds every array and record of a state, the alerts that are open, the messages not yet delivered, and the offset to go on
from, so a restart that reads it continues as if nothing had happened. Writing:

 1. a temporary file in the same folder, written and synced
 2. the present checkpoint stays reachable as `.previous` (a hard link)
 3. the temporary file is renamed over the present one, and the folder is synced

A file that is cut short or damaged is found out by the digest at its end; then the previous one is used, and more is replayed.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from engine.state import KeyTable, State

FORMAT = 2
DIGEST_BYTES = 32


class CheckpointError(Exception):
    """A checkpoint that exists but can't be used; names the file."""


@dataclass
class Snapshot:
    """A state at an offset. `next_offset`: the first record that is not in it. `meta`: what else the owner wants kept."""

    state: State
    next_offset: int
    outbox: list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """A folder of checkpoints, one file per name."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where the checkpoint of that name is; characters that a file name can't hold are escaped."""
        safe = "".join(c if c.isalnum() or c in "._-" else f"%{ord(c):02x}" for c in name)
        return self.folder / f"{safe}.ckpt"

    def save(self, name: str, snapshot: Snapshot) -> int:
        """Write a snapshot and return its size in bytes. Raises OSError (a full disk) with the old checkpoint untouched."""
        target = self.path(name)
        temporary = target.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as file:
                hashed = Hashed(file)
                np.savez(hashed, **pack(snapshot))  # type: ignore[arg-type]
                file.write(hashed.digest.digest())
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if target.exists():
            previous = target.with_suffix(".previous")
            previous.unlink(missing_ok=True)
            os.link(target, previous)
        os.replace(temporary, target)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return size

    def load(self, name: str, limits: dict[str, int] | None = None, merged_to_us: int | None = None) -> tuple[Snapshot | None, list[str]]:
        """The newest usable snapshot (None: there never was one) and a line for each file that was not used.

        `merged_to_us`: where the population has merged this partition to, if it fell back to an older checkpoint; a newer snapshot of
        the partition, which has handed over more than that, is then passed over for the one before it.

        Raises CheckpointError when files exist but none can be read: starting over would then lose alerts in silence.
        """
        damaged: list[str] = []
        present = [p for p in (self.path(name), self.path(name).with_suffix(".previous")) if p.exists()]
        for path in present:
            try:
                snapshot = read(path, limits)
            except (ValueError, OSError) as error:
                damaged.append(f"{path}: {error}")
                continue
            if merged_to_us is None or snapshot.state.closed_us <= merged_to_us or path == present[-1]:
                return snapshot, damaged
            damaged.append(f"{path}: has handed over what the population's checkpoint does not have")
        if present:
            raise CheckpointError("no usable checkpoint: " + "; ".join(damaged))
        return None, damaged


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


def read(path: Path, limits: dict[str, int] | None) -> Snapshot:
    """Read one file. Raises ValueError when it is not whole, OSError when it can't be read."""
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - DIGEST_BYTES
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        while left > 0:
            block = file.read(min(left, 1 << 20))
            left -= len(block)
            digest.update(block)
        if left < 0 or file.read() != digest.digest():
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
