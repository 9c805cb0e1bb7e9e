"""Decoding ahead gives what decoding in turn gives, in the same order, and its faults where they belong."""

import orjson
import pytest

from engine.ahead import LEAST_BYTES, Ahead
from streams.decode import Format, decode
from streams.records import Partition, RawBatch

FORMATS = {"t": Format("hardware")}


def batch(first: int, rows: int) -> RawBatch:
    values = [orjson.dumps({"time": i, "host": f"h{i % 7}", "device": "gpu0", "metric.gpu_temp": i}) for i in range(first, first + rows)]
    return RawBatch.of(Partition("t"), [*values, b"{"], first_offset=first)


def test_the_rows_are_those_of_decoding_in_turn():
    ahead = Ahead(FORMATS)
    batches = [batch(k * 10_000, rows) for k, rows in enumerate((3, 5000, 8000, 2, 6000))]
    assert len(batches[1].data) > LEAST_BYTES > len(batches[3].data)
    other = RawBatch.of(Partition("not telemetry"), [bytes(2 * LEAST_BYTES)])
    ahead.expect([batches[0], other, *batches[1:]])
    for raw in [*batches, batch(90_000, 4)]:  # the last comes unexpected
        found, alone = ahead.decoded(raw), decode(raw, FORMATS["t"])
        assert [r.table.to_pylist() for r in found.rows] == [r.table.to_pylist() for r in alone.rows]
        assert [r.offset for r in found.rejects] == [r.offset for r in alone.rejects] == [int(raw.offsets[-1])]
    ahead.close()


def test_a_fault_is_raised_at_its_own_batch():
    ahead, first, second = Ahead(FORMATS), batch(0, 5000), batch(10_000, 5000)
    ahead.expect([first, broken := RawBatch(Partition("t"), second.data, None, None, second.offsets, second.timestamps_ms)])
    assert ahead.decoded(first).rows
    with pytest.raises(TypeError):
        ahead.decoded(broken)
    ahead.close()
