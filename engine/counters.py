"""Counters to rates: what only grows (`metric.<name>_total`) becomes what is watched (`metric.<name>`, a second).

A counter that is smaller than before has started again from nothing, as its producer has; what it shows is what came since. A histogram's
sum and count become the mean of what came in between. The last value of each counter of each device is state, so a restart goes on where
it was, and the cut of batches changes nothing. The first value of a counter says nothing yet: its rate is null.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.state import NEVER, ArraySpec, State
from streams.names import TOTAL

ARRAYS = (
    ArraySpec("counters.value", "float64", ("device", "counter"), np.nan),
    ArraySpec("counters.time_us", "int64", ("device", "counter"), NEVER),
)
SUM, COUNT = f"_sum{TOTAL}", f"_count{TOTAL}"


def rated(batch: Batch, state: State) -> Batch:
    """The batch with rates and means in place of counters; `Batch.arrived` says of these where the counter itself came."""
    totals = [n for n in batch.table.schema.names if n.startswith("metric.") and n.endswith(TOTAL)]
    if batch.stream != "hardware" or not totals or not len(batch):
        return batch
    slots = batch.slots(state, "device", ("host", "device"))
    columns = dict(zip(totals, state.slots("counter", totals, int(batch.time_us.max())).tolist(), strict=True))
    found: dict[str, np.ndarray] = {}
    arrived: dict[str, np.ndarray] = {}
    for name in sorted(totals, key=lambda n: n.endswith(SUM)):  # a count before its sum: it says when both began again
        mean_of = f"{name.removesuffix(SUM)}" if name.endswith(SUM) and f"{name.removesuffix(SUM)}{COUNT}" in columns else None
        values = batch.doubles(name)
        began = found[f"{mean_of}{COUNT} began"] if mean_of else np.zeros(len(batch), np.float64)
        grown, took_us, again = growth(
            slots, batch.time_us, values, began, state["counters.value"], state["counters.time_us"], columns[name]
        )  # fmt: skip
        if mean_of:
            count = found.pop(f"{mean_of}{COUNT} grown")
            del found[f"{mean_of}{COUNT} began"]
            found[mean_of] = np.divide(grown, count, out=np.full(len(batch), np.nan), where=count > 0)
            arrived[mean_of] = ~np.isnan(values)
        elif name.endswith(COUNT) and f"{name.removesuffix(COUNT)}{SUM}" in columns:
            found[f"{name} grown"], found[f"{name} began"] = grown, again
        else:
            rate = name.removesuffix(TOTAL)
            found[rate] = np.divide(grown * 1e6, took_us, out=np.full(len(batch), np.nan), where=took_us > 0)
            arrived[rate] = ~np.isnan(values)
    return replaced(batch, totals, found, arrived)


def replaced(batch: Batch, totals: list[str], found: dict[str, np.ndarray], arrived: dict[str, np.ndarray]) -> Batch:
    """The batch without the counters and with what was made of them; where a row has the metric itself as well, that counts."""
    columns = {n: c for n, c in zip(batch.table.schema.names, batch.table.columns, strict=True) if n not in totals}
    fields = {f.name: f for f in batch.table.schema}
    for name, values in found.items():
        if name in columns:
            given = batch.doubles(name)
            arrived[name] = arrived[name] | ~np.isnan(given)
            values = np.where(np.isnan(given), values, given)
        narrow = values.astype(np.float32)
        columns[name] = pa.array(narrow, mask=~np.isfinite(narrow))
        fields[name] = pa.field(name, pa.float32())
    table = pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema([fields[n] for n in columns]))
    return Batch(batch.stream, table, batch.time_us, batch.offsets, batch.late, arrived)


@numba.njit(cache=True, nogil=True)
def growth(slots, time_us, values, began, last_value, last_us, column):
    """How much a counter grew until each row, and in how many microseconds: NaN and 0 where that is not known.

    `slots`: int32[n] device of each row; `values`: float64[n], NaN where null; `began`: float64[n], 1 where it is known to have begun
    again (0: it has when it is smaller than before). State by device and counter: `last_value` float64, `last_us` int64. Returns
    float64[n] growth, float64[n] microseconds, float64[n] whether it began again. A row no newer than the last one is not used.
    """
    n = len(slots)
    grown, took, again = np.full(n, np.nan), np.zeros(n), np.zeros(n)
    for i in range(n):
        d = slots[i]
        if d < 0 or np.isnan(values[i]):
            continue
        before = last_value[d, column]
        if not np.isnan(before):
            if time_us[i] <= last_us[d, column]:
                continue
            again[i] = 1.0 if values[i] < before or began[i] > 0.0 else 0.0
            grown[i] = values[i] if again[i] > 0.0 else values[i] - before
            took[i] = time_us[i] - last_us[d, column]
        last_value[d, column], last_us[d, column] = values[i], time_us[i]
    return grown, took, again
