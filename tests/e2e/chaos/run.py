"""A run: one segment of records per fault, one line of figures each."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.chaos.faults import Fault
from tests.e2e.chaos.group import Group

HEADER = f"{'fault':26} {'members':>7} {'struck':>6} {'rows':>6} {'alerts expected':>15} {'found':>6} {'lost':>5} {'invented':>8} {'duplicated':>10} {'seconds':>7}"


@dataclass(frozen=True)
class Outcome:
    """What came of one fault. `expected`: alerts that the undisturbed run knows by then; `duplicated`: versions published again."""

    fault: str
    members: int
    struck: int
    rows: int
    expected: int
    found: int
    lost: tuple[str, ...]
    invented: tuple[str, ...]
    duplicated: int
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.lost and not self.invented

    def __str__(self) -> str:
        return (
            f"{self.fault:26} {self.members:7} {self.struck:6} {self.rows:6} {self.expected:15} {self.found:6} {len(self.lost):5} "
            f"{len(self.invented):8} {self.duplicated:10} {self.seconds:7.1f}"
        )


def strike(group: Group, fault: Fault, flow_s: float, settle_s: float = 90.0) -> Outcome:
    """Let a segment flow, do the harm, wait for the end, compare."""
    started, duplicated = time.monotonic(), group.seen.duplicated
    records = group.records()
    if fault.rewrite is not None:
        records = fault.rewrite(records, group.random)
    flow = group.produce(records, flow_s)
    struck = fault.strike(group)
    flow.join()
    group.start()  # a member that was fenced has ended itself; what supervises it starts it again
    group.settle(settle_s)
    verdict = group.verdict()
    wanted = group.reference.states()
    return Outcome(
        fault.name, len(group.members), struck, len(records), len(wanted), len(wanted) - len(verdict["lost"]),
        tuple(group.told(verdict["lost"])), tuple(group.told(verdict["invented"])), group.seen.duplicated - duplicated,
        time.monotonic() - started,
    )  # fmt: skip


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[Path]:
    """A disk of its own for checkpoints, where we may mount one; else a plain folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
