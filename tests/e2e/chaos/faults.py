"""The table of faults. Each is a function of the group that does its harm while records flow, and undoes it before it returns.

A fault returns how often it struck. `rewrite` is harm done to the input itself (the undisturbed run gets the same input).
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.e2e.chaos.group import SESSION_MS, Group
from tests.e2e.chaos.workload import Record

BALLAST = "ballast"


@dataclass(frozen=True)
class Fault:
    """`short`: the number of members that the short form strikes with it; 0: it is in the long form only."""

    name: str
    strike: Callable[[Group], int]
    short: int = 0
    rewrite: Callable[[Sequence[Record], random.Random], list[Record]] | None = None


def nothing(group: Group) -> int:
    """The control: a run to which nothing happens."""
    return 0


def kill_9(group: Group) -> int:
    """Members die at random instants and come back."""
    strikes = 0
    for _ in range(2):
        time.sleep(group.random.uniform(0.2, 1.5))
        member = group.random.choice(group.members)
        member.kill()
        member.start()
        strikes += 1
    return strikes


def kill_all(group: Group) -> int:
    """The machine loses power: all members at once."""
    time.sleep(group.random.uniform(0.2, 2.0))
    for member in group.members:
        member.kill()
    group.start()
    return len(group.members)


def stop_politely(group: Group) -> int:
    """SIGTERM, as a rolling update does it."""
    for member in group.members:
        member.signal(signal.SIGTERM)
        code = member.wait(60)
        assert code == 0, f"exit code {code}\n{member.said()}"
        member.start()
    return len(group.members)


def rebalance_storm(group: Group) -> int:
    """Members leave and join faster than the group settles."""
    strikes = 0
    for _ in range(3):
        member = group.random.choice(group.members)
        member.signal(signal.SIGTERM) if group.random.random() < 0.5 else member.kill()
        member.wait(60)
        time.sleep(group.random.uniform(0, 0.4))
        member.start()
        strikes += 1
    return strikes


def freeze(group: Group) -> int:
    """A member stands still until the group has given its partitions away, and then goes on as if it still had them."""
    member = group.random.choice(group.members)
    member.signal(signal.SIGSTOP)
    time.sleep(2.5 * SESSION_MS / 1000)
    member.signal(signal.SIGCONT)
    return 1


def broker_crash(group: Group) -> int:
    """The broker dies and comes back."""
    time.sleep(group.random.uniform(0.5, 1.5))
    group.broker.kill()
    time.sleep(group.random.uniform(0, 1.0))
    group.broker.start()
    return 1


def partition_cut(group: Group) -> int:
    """The network of one member is cut for longer than its session, and healed."""
    return through(group, "cut", 1.5 * SESSION_MS / 1000)


def partition_stall(group: Group) -> int:
    """Packets to and from one member vanish, its connections stay open."""
    return through(group, "stall", 1.5 * SESSION_MS / 1000)


def partition_deaf(group: Group) -> int:
    """One member is heard and hears nothing."""
    return through(group, "deaf", 1.5 * SESSION_MS / 1000)


def slow_network(group: Group) -> int:
    """Every packet of all members takes its time."""
    return through(group, "delay", 3.0, everybody=True)


def lossy_network(group: Group) -> int:
    """Connections of all members are reset at random."""
    return through(group, "drop", 3.0, everybody=True)


def through(group: Group, mode: str, seconds: float, everybody: bool = False) -> int:
    """Put proxies of members into a mode for a while."""
    chosen = group.proxies if everybody else [group.random.choice(group.proxies)]
    time.sleep(group.random.uniform(0.2, 1.0))
    for proxy in chosen:
        proxy.set(mode)
    time.sleep(seconds)
    for proxy in chosen:
        proxy.set("pass")
    return len(chosen)


def sink_down(group: Group) -> int:
    """The sink can't be reached while alerts are made; one member dies with them in its outbox."""
    group.sink_proxy.set("cut")
    time.sleep(2.0)
    group.random.choice(group.members).kill()
    time.sleep(0.5)
    group.start()
    time.sleep(0.5)
    group.sink_proxy.set("pass")
    return 2


def sink_in_doubt(group: Group) -> int:
    """The sink takes messages and its answers do not come back: sent, or not?"""
    group.sink_proxy.set("deaf")
    time.sleep(3.0)
    group.sink_proxy.set("cut")
    group.sink_proxy.set("pass")
    return 1


def truncated_checkpoints(group: Group) -> int:
    """Every newest checkpoint is cut short while nobody runs."""
    return damaged(group, lambda data, at: data[: at % max(1, len(data))])


def corrupted_checkpoints(group: Group) -> int:
    """One bit of every newest checkpoint is another while nobody runs."""
    return damaged(group, lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def one_corrupted_checkpoint(group: Group) -> int:
    """One of them alone: the others are newer than what it falls back to."""
    return damaged(group, lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], only=1)


def corrupted_population(group: Group) -> int:
    """The one that partitions were merged into: what they handed over since its previous one is no longer in them."""
    return damaged(group, lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], name="*@population.*")


def damaged(group: Group, how: Callable[[bytes, int], bytes], only: int = 0, name: str = "*") -> int:
    """Kill everybody, damage newest checkpoints whose previous one is there, start everybody."""
    time.sleep(2.0)
    for member in group.members:
        member.kill()
    kept: dict[str, list[Path]] = {}
    for path in sorted(group.checkpoints.rglob(f"{name}.ckpt")):  # NAME.EPOCH.NUMBER.ckpt
        kept.setdefault(path.name.rsplit(".", 3)[0], []).append(path)
    files = [paths[-1] for paths in kept.values() if len(paths) > 1]
    files = group.random.sample(files, only) if only and len(files) > only else files
    for path in files:
        data = path.read_bytes()
        path.write_bytes(how(data, group.random.randrange(len(data))))
    group.start()
    return len(files)


def disk_full(group: Group) -> int:
    """No byte more goes to the checkpoints' disk: a small tmpfs where we may mount one, else a limit on the size of members' files."""
    time.sleep(0.5)
    if os.path.ismount(group.checkpoints):
        ballast = group.checkpoints / BALLAST
        with suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        time.sleep(2.5)
        ballast.unlink()
        return 1
    everyone = [m.process.pid for m in group.members if m.alive]
    for pid in everyone:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
    time.sleep(2.5)
    for pid in everyone:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return len(everyone)


def wall_clock_jump(group: Group) -> int:
    """The machines' clocks jump an hour ahead, and back."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        return 0
    clock = group.folder / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    member = group.random.choice(group.members)
    member.kill()
    member.environment = faked
    member.start()
    for offset in ("+3600", "-3600", "+0"):
        time.sleep(1.0)
        clock.write_text(offset)
    member.kill()
    member.environment = {}
    member.start()
    return 3


def duplicated(records: Sequence[Record], generator: random.Random) -> list[Record]:
    """A producer's retries: stretches of a partition's records come once more, a little later."""
    out: list[Record] = []
    recent: list[Record] = []
    for record in records:
        out.append(record)
        recent = [*recent[-19:], record]
        if generator.random() < 0.01:
            out += recent
    return out


def skewed(records: Sequence[Record], generator: random.Random) -> list[Record]:
    """Producers whose clocks jump: now and then a row is minutes ahead or behind of the others."""
    out = []
    for record in records:
        if generator.random() < 0.004:
            row = orjson.loads(record.value)
            row["time"] += generator.choice([-300, -30, 4, 20]) * 1_000_000
            record = Record(record.stream, record.partition, orjson.dumps(row))
        out.append(record)
    return out


FAULTS = (
    Fault("nothing", nothing),
    Fault("kill -9", kill_9, short=3),
    Fault("kill -9 of all", kill_all),
    Fault("rolling restart", stop_politely),
    Fault("rebalance storm", rebalance_storm, short=3),
    Fault("frozen past its session", freeze, short=3),
    Fault("broker crash", broker_crash, short=3),
    Fault("network cut", partition_cut, short=3),
    Fault("network stalled", partition_stall),
    Fault("network one-way", partition_deaf),
    Fault("network slow", slow_network),
    Fault("connections reset", lossy_network, short=1),
    Fault("sink down", sink_down, short=3),
    Fault("sink in doubt", sink_in_doubt),
    Fault("checkpoints truncated", truncated_checkpoints, short=1),
    Fault("checkpoints corrupted", corrupted_checkpoints),
    Fault("one checkpoint corrupted", one_corrupted_checkpoint),
    Fault("population corrupted", corrupted_population, short=1),
    Fault("disk full", disk_full, short=1),
    Fault("wall clock jumps", wall_clock_jump),
    Fault("duplicate delivery", nothing, rewrite=duplicated, short=3),
    Fault("producers' clocks jump", nothing, rewrite=skewed, short=1),
)
