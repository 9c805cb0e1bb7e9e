"""OTLP metrics to rows of `hardware`: gauges, sums, histograms and summaries that the registry knows, in either temporality.

What is cumulative goes on as it is, as `metric.<name>_total`; the engine, which remembers the last one, makes rates of it. A delta says
itself which time it covers, so it becomes a rate, or a histogram's mean, at once; it may be left out when nothing happened (`SPARSE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from streams import names
from streams.decode.points import Cell, Points, cell_of, place_of, value_of

DELTA = 1
NO_VALUE = 1
"""The flag of a point that says only that its series has ended."""
Attributes = Callable[[Iterable[Any]], dict[str, Any]]


def metrics(request: Any, offset: int, out: Points, attributes_of: Attributes) -> None:
    """Add the points of one export request. A metric of another kind than the registry says is nobody's."""
    for group in request.resource_metrics:
        resource = attributes_of(group.resource.attributes)
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind, known = metric.WhichOneof("data"), names.METRICS.get(metric.name)
                if kind is None or known is None or (known.kind == "histogram") != (kind not in ("gauge", "sum")):
                    continue
                data = getattr(metric, kind)
                delta = kind not in {"summary", "gauge"} and data.aggregation_temporality == DELTA
                for point in data.data_points:
                    if point.flags & NO_VALUE:
                        continue
                    own = attributes_of(point.attributes)
                    row = out.row(offset, place_of(own, resource), point.time_unix_nano // 1000)
                    if known.kind == "histogram":
                        histogram(metric.name, kind, point, delta, row, out)
                    else:
                        number(metric.name, point, delta, own, row, out)


def number(name: str, point: Any, delta: bool, own: dict[str, Any], row: int, out: Points) -> None:
    """A point of a gauge or a sum. The change of a gauge is nothing that we could tell a level from."""
    known = names.METRICS[name]
    value = point.as_double if point.WhichOneof("value") == "as_double" else float(point.as_int)
    scaled = value_of(known, value, own)
    if scaled is None or (delta and known.kind == "gauge"):
        return
    if not delta:
        out.add(row, cell_of(known), scaled, name)
    elif (covered_ns := point.time_unix_nano - point.start_time_unix_nano) > 0 < point.start_time_unix_nano:
        column = f"metric.{known.name}"
        out.sparse.add(column)
        out.add(row, Cell(column, True), scaled * 1e9 / covered_ns, name)


def histogram(name: str, kind: str, point: Any, delta: bool, row: int, out: Points) -> None:
    """A point of a histogram, exponential or not, or of a summary: its sum and count are all that is taken."""
    if kind != "summary" and not point.HasField("sum"):
        return
    known = names.METRICS[name]
    column, total = f"metric.{known.name}", point.sum * known.scale
    if delta:
        out.mean(row, column, total, float(point.count), name)
    else:
        out.add(row, Cell(f"{column}_sum{names.TOTAL}", True), total, name)
        out.add(row, Cell(f"{column}_count{names.TOTAL}", True), float(point.count), name)
