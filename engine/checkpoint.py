"""Checkpoints: numbered files, of which the highest whole one counts; writing it is the only commit point.

A file holds every array and record of a state, the alerts that are open, the messages not yet delivered, and the offset to go on
from, so a restart that reads it continues as if nothing had happened. No file is ever written twice: its name carries the *epoch* of
its writer and a number that grows. Whoever comes to own a partition claims the next epoch first, by creating a file that only one can
create. An owner that was stopped meanwhile goes on writing files of its old epoch: they can't overwrite the new owner's, and never
count again. Claiming:

 1. the highest epoch that there is
 2. the source confirms, now, that the partition is ours: whoever it is given to later makes its claim later
 3. the next epoch is created, and is seen to be the highest; where someone else was first, from 1 again

A file that is cut short or damaged is found out by the digest at its end; then the one before it is used, and more is replayed.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import orjson

from engine import snapshot as archive
from engine.snapshot import Snapshot
from engine.storage import Folder, Storage
from streams.sources import Fenced

KEPT = 2
"""Whole files kept of each name: the newest, and one to fall back on."""
PATTERN = re.compile(r"(?P<name>.+)\.(?P<epoch>\d{8})\.(?:(?P<number>\d{12})\.ckpt|owner)(?P<rest>(?:\.[0-9a-f]+)?(?:\.tmp)?)")


class CheckpointError(Exception):
    """A checkpoint that exists but can't be used; names the file."""


class Checkpoints:
    """The checkpoints of one storage. A *place* (a partition) is claimed; a *name* is what is saved under a place's claim, mostly the
    place itself."""

    def __init__(self, storage: Storage | Path):
        self.storage = Folder(storage) if isinstance(storage, Path) else storage
        self.epochs: dict[str, int] = {}
        self.written: dict[str, list[File]] = {}

    def claim(self, places: Sequence[str], confirm: Callable[[], bool] = lambda: True) -> None:
        """Become the owner of places. Raises Fenced when the source says that they are not ours."""
        claim = orjson.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        mine: dict[str, int] = {}
        while True:
            there = self.storage.names()
            if not (behind := {p: now for p in places if (now := highest(p, there)) != mine.get(p)}):
                break
            if not confirm():
                raise Fenced(f"{', '.join(sorted(behind))}: taken by another process while they were assigned to this one")
            for place, now in behind.items():
                if self.storage.create(str(File(place, now + 1, 0)), claim):
                    mine[place] = now + 1
        self.epochs |= mine
        for place in places:
            self._tidy(place, there)

    def release(self, place: str) -> None:
        """Own a place no more."""
        self.epochs.pop(place, None)

    def check(self) -> None:
        """Raises Fenced when another process has claimed something of ours."""
        there = self.storage.names() if self.epochs else []
        for place, epoch in self.epochs.items():
            if (now := highest(place, there)) > epoch:
                raise Fenced(
                    f"{place} belongs to another process now (epoch {now}, ours was {epoch}): this one was stopped or cut off for too"
                    " long. Nothing of it was lost or overwritten; start it again to join the group"
                )

    def save(self, name: str, snapshot: Snapshot, place: str | None = None) -> int:
        """Write a snapshot and return its size in bytes. Raises OSError (a full disk) with the checkpoints before it untouched."""
        epoch = self.epochs[place or name]
        if name not in self.written:
            self.written[name] = self.files(name)[::-1]
        written = self.written[name]
        number = 1 + max((f.number for f in written if f.epoch == epoch), default=0)
        file = File(name, epoch, number)
        size = self.storage.write(str(file), lambda f: archive.write(snapshot, f))
        written.append(file)
        while len(written) > KEPT:
            self.storage.delete(str(written.pop(0)))
        return size

    def load(self, name: str, limits: dict[str, int] | None = None, merged_to_us: int | None = None) -> tuple[Snapshot | None, list[str]]:
        """The newest usable snapshot (None: there never was one) and a line for each file that was not used.

        `merged_to_us`: where the population has merged this partition to, if it fell back to an older checkpoint; a newer snapshot of
        the partition, which has handed over more than that, is then passed over for the one before it.

        Raises CheckpointError when files exist but none can be read: starting over would then lose alerts in silence.
        """
        self.written.pop(name, None)
        damaged: list[str] = []
        tried: set[File] = set()
        while files := [f for f in self.files(name) if f not in tried]:  # a former owner may write and delete meanwhile: look again
            tried.add(files[0])
            where = self.storage.where(str(files[0]))
            try:
                with self.storage.open(str(files[0])) as opened:
                    snapshot = archive.read(opened, limits)
            except FileNotFoundError:
                continue
            except (ValueError, OSError) as error:
                damaged.append(f"{where}: {error}")
                continue
            if merged_to_us is None or snapshot.state.closed_us <= merged_to_us or len(files) == 1:
                return snapshot, damaged
            damaged.append(f"{where}: has handed over what the population's checkpoint does not have")
        if damaged:
            raise CheckpointError("no usable checkpoint: " + "; ".join(damaged))
        return None, damaged

    def files(self, name: str) -> list[File]:
        """What there is of a name, newest first."""
        found = [f for n in self.storage.names() if (f := File.of(n)) is not None and f.name == name and f.number and not f.rest]
        return sorted(found, key=lambda f: (f.epoch, f.number), reverse=True)

    def _tidy(self, place: str, there: Sequence[str]) -> None:
        """Remove claims before ours, and what writers that were killed left half written."""
        for name in there:
            file = File.of(name)
            if file is None or file.name.partition("@")[0] != place or file.epoch >= self.epochs[place]:
                continue
            if not file.number or file.rest:
                self.storage.delete(name)


@dataclass(frozen=True)
class File:
    """A file's name, read. `number` 0: a claim, not a checkpoint. `rest`: what follows the name of one that is not finished."""

    name: str
    epoch: int
    number: int
    rest: str = ""

    def __str__(self) -> str:
        return f"{escaped(self.name)}.{self.epoch:08d}." + (f"{self.number:012d}.ckpt" if self.number else "owner") + self.rest

    @classmethod
    def of(cls, text: str) -> File | None:
        """The reverse; None for a file that is none of ours."""
        if (m := PATTERN.fullmatch(text)) is None:
            return None
        return cls(unescaped(m["name"]), int(m["epoch"]), int(m["number"] or 0), m["rest"])


def highest(place: str, there: Sequence[str]) -> int:
    """The highest epoch that a place has; 0: nobody ever owned it."""
    return max((f.epoch for n in there if (f := File.of(n)) is not None and f.name == place), default=0)


def escaped(name: str) -> str:
    """A name as part of a file's name: characters that some storage can't hold are written as their number.

    >>> escaped("a/b-0"), unescaped(escaped("a/b-0"))
    ('a%2fb-0', 'a/b-0')
    """
    return "".join(c if c.isalnum() or c in "._-@" else "".join(f"%{b:02x}" for b in c.encode()) for c in name)


def unescaped(text: str) -> str:
    """The reverse of `escaped`."""
    return unquote(text)
