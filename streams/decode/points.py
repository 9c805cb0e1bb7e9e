"""Single measurements to rows of `hardware`: what one record says of one device at one moment makes one row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from streams import names
from streams.decode.attributes import HOSTS, named
from streams.records import Rows

DEVICES = (
    "hw.id", "hw_id", "UUID", "gpu_uuid", "gpu", "device", "gen_ai.request.model", "gen_ai_request_model", "model_name", "model",
)  # fmt: skip
PARTS = ("GPU_I_ID", "engine", "version", "dp_rank", "tp_rank", "pp_rank")
"""What tells apart instances of one device or server, beside the labels of a single one: they belong to the device's name."""
SERVICES = ("service.name", "service_name", "job")
LAST_HOSTS = ("server.address", "server_address", *SERVICES)
XID_FIELD = 230


class Place(NamedTuple):
    """Whose measurement it is: the columns of a `hardware` row that are not measured."""

    host: str | None
    device: str
    rack: str | None = None
    job: str | None = None
    sku: str | None = None


class Cell(NamedTuple):
    """A column of a row, and whether several values of it are added up (else the greatest counts)."""

    column: str
    adds: bool


def place_of(attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> Place:
    """Host and device of a measurement, by its own attributes first; what a server says of itself has the service as its device, or `-`.

    >>> place_of({"gpu": "3", "Hostname": "n1"}, {})[:2], place_of({"model_name": "llama", "engine": "1"}, {"instance": "n1:8000"})[:2]
    (('n1', 'gpu3'), ('n1:8000', 'llama:engine=1'))
    """
    device = named(DEVICES, attributes, resource) or named(SERVICES, attributes, resource) or "-"
    device = f"gpu{device}" if device.isdigit() else device
    parts = [f":{name}={value}" for name in PARTS if (value := attributes.get(name)) not in (None, "", "0", 0)]
    return Place(
        named(HOSTS, attributes, resource) or named(LAST_HOSTS, attributes, resource),
        device + "".join(parts),
        named(("rack", "topology.rack"), attributes, resource),
        named(("hpc_job", "slurm_job_id", "job"), attributes, resource),
        named(("modelName", "hw.model", "hw_model"), attributes, resource),
    )


def value_of(metric: names.Metric, value: float, attributes: Mapping[str, Any]) -> float | None:
    """A gauge's or counter's value in the canonical unit; None where there is none (not a number, a state that does not hold)."""
    if not math.isfinite(value):
        return None
    if metric.name == "status":
        state = attributes.get("hw.state", attributes.get("hw_state", ""))
        return names.HW_STATES.get(str(state)) if value > 0 else None
    return value * metric.scale


def cell_of(metric: names.Metric) -> Cell:
    """Where values of a gauge or counter go, as they come on the wire. The XID gauge is the column `xid`.

    >>> cell_of(names.METRICS["DCGM_FI_DEV_PCIE_REPLAY_COUNTER"])
    Cell(column='metric.pcie_replay_total', adds=True)
    """
    if metric.field_id == XID_FIELD:
        return Cell("xid", False)
    return Cell(f"metric.{metric.name}{names.TOTAL}", True) if metric.kind == "counter" else Cell(f"metric.{metric.name}", False)


class Points:
    """Measurements as a decoder finds them, column by column."""

    def __init__(self) -> None:
        self.keys: dict[tuple[int, int, Place], int] = {}
        self.cells: dict[Cell, tuple[list[int], list[float]]] = {}
        self.sparse: set[str] = set()
        self.said: dict[tuple[int, Cell], str | bytes] = {}

    def row(self, offset: int, place: Place, time_us: int) -> int:
        """The number of the row of this record, device and moment (0: not known)."""
        return self.keys.setdefault((offset, time_us, place), len(self.keys))

    def add(self, row: int, cell: Cell, value: float, name: str | bytes) -> None:
        """A value of that row. `name`: the metric's on the wire; where a producer says the same under an old and a new name, the first
        one counts."""
        if self.said.setdefault((row, cell), name) != name:
            return
        found = self.cells.get(cell)
        if found is None:
            found = self.cells[cell] = ([], [])
        found[0].append(row)
        found[1].append(value)

    def mean(self, row: int, column: str, total: float, count: float, name: str) -> None:
        """What a histogram took in since its last report: it may be left out when that is nothing."""
        self.sparse.add(column)
        self.add(row, Cell(f"{column} sum", True), total, name)
        self.add(row, Cell(f"{column} count", True), count, name)

    def done(self) -> list[Rows]:
        """All rows, by record and time."""
        if not self.cells:
            return []
        keys = list(self.keys)
        offsets, times = np.array([k[0] for k in keys], np.int64), np.array([k[1] for k in keys], np.int64)
        used = np.zeros(len(keys), np.bool_)
        found: dict[str, np.ndarray] = {}
        for cell, (rows, values) in self.cells.items():
            column = np.full(len(keys), 0.0 if cell.adds else -np.inf)
            at = np.array(rows, np.int64)
            (np.add if cell.adds else np.maximum).at(column, at, values)
            here = np.zeros(len(keys), np.bool_)
            here[at] = True
            used |= here
            found[cell.column] = np.where(here, column, np.nan)
        for name in [n.removesuffix(" sum") for n in found if n.endswith(" sum")]:
            total, count = found.pop(f"{name} sum"), found.pop(f"{name} count")
            found[name] = np.divide(total, count, out=np.full(len(keys), np.nan), where=count > 0)
        order = np.lexsort((np.arange(len(keys)), times, offsets))
        order = order[used[order]]
        places = [keys[i][2] for i in order.tolist()]
        columns = {"time": pa.array(times[order], mask=times[order] == 0).cast(names.TIME)}
        for k, name in enumerate(Place._fields):
            if any(p[k] is not None for p in places):
                columns[name] = pa.array([p[k] for p in places], pa.string()).dictionary_encode()
        columns |= {name: typed(name, values[order]) for name, values in found.items()}
        fields = [pa.field(n, c.type, metadata=names.SPARSE if n in self.sparse else None) for n, c in columns.items()]
        return [Rows("hardware", pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields)), offsets[order])]


def typed(name: str, values: np.ndarray) -> pa.Array:
    """A column of the stream; NaN is null, and so is what the column can't hold."""
    column = names.column("hardware", name)
    assert column is not None and column.type is not None
    if pa.types.is_integer(column.type):
        values = np.where(np.abs(values) < 2.0**31, values, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(column.type.to_pandas_dtype())
    return pa.array(narrow, mask=~np.isfinite(values) | ~np.isfinite(narrow))
