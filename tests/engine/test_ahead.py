"""Reading ahead gives what unpacking and decoding in turn gives, in the same order, and its faults where they belong."""

import orjson
import pytest

from engine.ahead import DEPTH, LEAST_BYTES, Ahead, Coming
from streams.decode import Format, decode
from streams.records import Packed, Partition, RawBatch

FORMATS = {"t": Format("hardware")}


def batch(first: int, rows: int) -> RawBatch:
    values = [orjson.dumps({"time": i, "host": f"h{i % 7}", "device": "gpu0", "metric.gpu_temp": i}) for i in range(first, first + rows)]
    return RawBatch.of(Partition("t"), [*values, b"{"], first_offset=first)


@pytest.mark.parametrize("sizes", [(3, 5000, 8000, 2, 6000), (3, 2)])
def test_the_rows_are_those_of_decoding_in_turn(sizes: tuple[int, ...]):
    ahead = Ahead(FORMATS)
    batches = [batch(k * 10_000, rows) for k, rows in enumerate(sizes)]
    other = RawBatch.of(Partition("not telemetry"), [b"x"])
    together = Packed(Partition("t"), sum(len(b.data) for b in batches[1:]), lambda: iter(batches[1:]))
    assert (together.nbytes > LEAST_BYTES) == (len(sizes) > 2)
    found = list(ahead.read(Coming([batches[0], other, together])))
    assert [id(raw) for raw, _ in found] == [id(raw) for raw in (batches[0], other, *batches[1:])] and found.pop(1)[1] is None
    for raw, decoded in found:
        alone = decode(raw, FORMATS["t"])
        assert [r.table.to_pylist() for r in decoded.rows] == [r.table.to_pylist() for r in alone.rows]
        assert [r.offset for r in decoded.rejects] == [r.offset for r in alone.rejects] == [int(raw.offsets[-1])]
    assert list(ahead.read(Coming([]))) == []
    ahead.close()


def test_no_more_than_the_depth_is_unpacked_before_it_is_asked_for():
    ahead, made = Ahead(FORMATS), []

    def unpack():
        for k in range(4):
            made.append(k)
            yield batch(k * 10_000, 3000)

    for k, _ in enumerate(ahead.read(Coming([Packed(Partition("t"), LEAST_BYTES, unpack)]))):
        assert k in made and max(made) <= k + DEPTH
    ahead.close()
    assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("when", [0, 1])
def test_what_comes_after_is_begun_when_all_before_it_is_read(when: int):
    ahead = Ahead(FORMATS)
    polls = [Coming([batch(k * 50_000, 3000), batch(k * 50_000 + 10_000, 3000)]) for k in range(3)]
    offsets = []
    for now, after in zip(polls, [*polls[1:], None], strict=True):
        for k, (raw, decoded) in enumerate(ahead.read(now)):
            offsets.append(int(raw.offsets[0]))
            assert decoded.rows[0].table.num_rows == 3000
            if after is not None and k == when:
                ahead.follow(now, after)
            for _ in range(3):  # what is begun begins more
                ahead._thread.submit(int).result()
            assert after is None or bool(after.begun) == (k >= when)  # both of these were read while the first is in use
    assert offsets == sorted(offsets) and len(offsets) == 6
    ahead.close()


def test_a_fault_is_raised_at_its_own_batch():
    ahead, first, second = Ahead(FORMATS), batch(0, 5000), batch(10_000, 5000)
    broken = RawBatch(Partition("t"), second.data, None, None, second.offsets, second.timestamps_ms)
    coming = ahead.read(Coming([first, broken]))
    assert next(coming)[1].rows
    with pytest.raises(TypeError):
        next(coming)
    ahead.close()
