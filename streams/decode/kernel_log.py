"""Kernel-log lines as they stand (dmesg, /dev/kmsg, syslog, journal): those about XIDs to rows of `hardware`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np

from streams.decode.attributes import log_row
from streams.decode.format import Format, reject
from streams.decode.tables import Gathered
from streams.records import Decoded, RawBatch

ISO = re.compile(r"^(?:<\d+>)?(?:1 )?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d))(?: (\S+))?")
DMESG = re.compile(r"^\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\]")
SYSLOG = re.compile(r"^(?:<\d+>)?\w{3} [ \d]\d \d\d:\d\d:\d\d (\S+) ")
HOST_HEADER = "telltale-host"


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """A row for each line that speaks of an XID; others are nobody's. The time is the line's, where it has one with a year (in UTC where
    it names no zone), else the record's; the host is the line's, or the header `telltale-host`. Rejects: `kernel_log`, for text that is
    not UTF-8.
    """
    gathered, out = Gathered(), Decoded()
    for i in index.tolist():
        try:
            text = raw.value(i).decode()
        except UnicodeDecodeError as error:
            out.rejects.append(reject(raw, i, "kernel_log", f"not UTF-8 at byte {error.start}"))
            continue
        headers = () if raw.headers is None else raw.headers[i]
        host = next((v.decode("utf-8", "replace") for n, v in headers if n.lower() == HOST_HEADER), None)
        stamp_ns = int(raw.timestamps_ms[i]) * 1_000_000 if raw.timestamps_ms[i] >= 0 else 0
        for line in text.splitlines():
            time_ns, named = placed(line)
            row = log_row(line, {}, {"host.name": h} if (h := named or host) else {}, time_ns or stamp_ns)
            if row is not None:
                gathered.add("hardware", row, int(raw.offsets[i]))
    out.rows = gathered.done()
    return out


def placed(line: str) -> tuple[int, str | None]:
    """(time in nanoseconds or 0, host or None) as the line's own beginning says.

    >>> placed("2026-01-01T00:00:00Z n1 kernel: NVRM: Xid (PCI:0000:05:00): 79")
    (1767225600000000000, 'n1')
    """
    try:
        if match := ISO.match(line):
            return int(datetime.fromisoformat(match[1]).timestamp() * 1e6) * 1000, match[2]
        if match := DMESG.match(line):
            return int(datetime.strptime(match[1], "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC).timestamp()) * 1_000_000_000, None
    except (ValueError, OverflowError):
        return 0, None  # what looks like a time and is none
    match = SYSLOG.match(line)
    return 0, match[1] if match else None
