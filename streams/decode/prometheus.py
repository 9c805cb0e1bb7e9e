"""Prometheus text, exposition and OpenMetrics: what exporters and servers answer to a scrape, one scrape a record, to rows of
`hardware`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import orjson

from streams import names
from streams.decode.format import Format, reject
from streams.decode.points import Cell, Place, Points, cell_of, place_of, value_of
from streams.decode.prometheus_scan import FIELDS, SAID, scan
from streams.records import Decoded, Headers, RawBatch

LABELS_HEADER = "telltale-labels"
"""A header with labels of the whole scrape as a JSON object (`instance`, `rack`, ...); a sample's own labels win."""
PAIR = re.compile(r'\s*(?:([^\s="{},]+)|"((?:[^"\\]|\\.)*)")\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)', re.S)
ESCAPE = re.compile(r"\\(.)", re.S)
LONGEST_KEPT = 1024


def wire() -> dict[bytes, tuple[names.Metric, Cell]]:
    """Sample names that the registry knows, with what becomes of their values."""
    found: dict[bytes, tuple[names.Metric, Cell]] = {}
    for spelling, metric in names.METRICS.items():
        if metric.kind == "histogram":
            for part in ("sum", "count"):
                found[f"{spelling}_{part}".encode()] = metric, Cell(f"metric.{metric.name}_{part}{names.TOTAL}", True)
        else:
            found[spelling.encode()] = metric, cell_of(metric)
            if metric.kind == "counter":
                found[f"{spelling.removesuffix('_total')}_total".encode()] = metric, cell_of(metric)
    return found


WIRE = wire()


class Malformed(ValueError):
    """A sample that is none; the message says why."""


def labels_of(text: str) -> dict[str, str]:
    """Labels by name. Raises Malformed.

    >>> labels_of('gpu="0",model="a \\\\"b\\\\"",')
    {'gpu': '0', 'model': 'a "b"'}
    """
    found, at = {}, 0
    while at < len(text) and text[at:].strip():
        match = PAIR.match(text, at)
        if match is None or match.end() == at:
            raise Malformed("labels that are none")
        name, quoted, value = match.groups()
        found[name if quoted is None else unescaped(quoted)] = unescaped(value)
        at = match.end()
    return found


def unescaped(text: str) -> str:
    """Text as it was before it was quoted."""
    return ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], text) if "\\" in text else text


@lru_cache(1 << 14)
def labelled(labels: bytes, outer: bytes) -> tuple[dict[str, str], Place]:
    """Labels of a sample, and whose it is. Raises Malformed, UnicodeDecodeError."""
    own = labels_of(labels.decode())
    return own, place_of(own, outer_labels(outer))


def outer_labels(header: bytes) -> Mapping[str, str]:
    """Labels of the whole scrape. Raises Malformed."""
    try:
        found = orjson.loads(header) if header else {}
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the header {LABELS_HEADER} is not JSON") from error
    if not isinstance(found, dict):
        raise Malformed(f"the header {LABELS_HEADER} is no object")
    return {k: v for k, v in found.items() if isinstance(v, str)}


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """Rows of `hardware`, one for each device and moment of a scrape. A sample without a timestamp has the record's.

    Samples that the registry does not know are nobody's. Reject: `prometheus`, one for a record with lines that are no samples (the others
    are used), with the first one's number and byte; `time`, where neither sample nor record say when.
    """
    points, out = Points(), Decoded()
    data = np.frombuffer(raw.data, np.uint8)
    for i in index.tolist():
        start, end = int(raw.starts[i]), int(raw.ends[i])
        most = int(np.count_nonzero(data[start:end] == 10)) + 2
        rows, lines = np.empty((most, FIELDS), np.int64), np.empty(most, np.int64)
        n, wrong, code, place, line, closed = scan(data, start, end, rows, lines)
        headers = () if raw.headers is None else raw.headers[i]
        problems, untimed = add_samples(raw, i, rows[:n], closed, headers, points)
        if problems and (not wrong or int(lines[problems[0][0]]) < line):
            first, why = problems[0]
            place, line = int(rows[first, 0]) - start, int(lines[first])
        else:
            why = SAID[code]
        if wrong + len(problems):
            out.rejects.append(reject(raw, i, "prometheus", f"line {line}, byte {place}: {why}; {wrong + len(problems)} such lines"))
        if untimed:
            out.rejects.append(reject(raw, i, "time", f"{untimed} samples without a timestamp, and the record has none"))
    out.rows = points.done()
    return out


def add_samples(
    raw: RawBatch, record: int, rows: np.ndarray, closed: bool, headers: Headers, points: Points
) -> tuple[list[tuple[int, str]], int]:
    """Add the samples of one record that we know. Returns (sample, what is wrong with it) of those that are none, and how many have no
    time."""
    value, start = raw.value(record), int(raw.starts[record])
    outer = next((v for name, v in headers if name.lower() == LABELS_HEADER), b"")
    open_metrics = closed or any(n.lower() == "content-type" and b"openmetrics" in v for n, v in headers)
    stamp_us, offset = int(raw.timestamps_ms[record]) * 1000, int(raw.offsets[record])
    problems: list[tuple[int, str]] = []
    numbers: dict[tuple[bytes, int], tuple[int, dict[str, str]]] = {}
    untimed = 0
    for k, (n0, n1, l0, l1, v0, v1, t0, t1) in enumerate(np.where(rows < 0, -1, rows - start).tolist()):
        known = WIRE.get(value[n0:n1])
        if known is None:
            continue
        metric, cell = known
        try:
            number = float(value[v0:v1])
            time_us = stamp_us if t0 < 0 else moment(value[t0:t1], open_metrics)
            if time_us < 0:
                untimed += 1
                continue
            labels = b"" if l0 < 0 else value[l0:l1]
            found = numbers.get((labels, time_us))
            if found is None:
                own, place = (labelled if len(labels) <= LONGEST_KEPT else labelled.__wrapped__)(labels, outer)
                found = numbers[labels, time_us] = points.row(offset, place, time_us), own
        except (ValueError, OverflowError) as error:
            problems.append((k, str(error) if isinstance(error, Malformed) else "a number or a text that is none"))
            continue
        row, own = found
        scaled = value_of(metric, number, own)
        if scaled is not None:
            points.add(row, cell, scaled, value[n0:n1])
    return problems, untimed


def moment(text: bytes, open_metrics: bool) -> int:
    """A sample's timestamp, microseconds: seconds in OpenMetrics, whole milliseconds else. Raises ValueError, OverflowError."""
    time_us = round(float(text) * 1e6) if open_metrics else int(text) * 1000
    if not 0 <= time_us < 1 << 62:
        raise ValueError("out of range")
    return time_us
