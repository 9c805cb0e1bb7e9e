"""Dead letters: what could not be used, with the reason and where it was, so that it can be looked at and sent again."""

from __future__ import annotations

import base64

from streams.records import Message, Reject

KEPT_BYTES = 900_000
"""Of a larger record only the beginning is kept: a broker takes 1 MB a record by default."""


def dead_letter(reject: Reject) -> Message:
    """The original bytes as the value; reason and position as headers, and as a record for sinks that write JSON.

    >>> from streams.records import Partition
    >>> m = dead_letter(Reject(Partition("t", 1), 7, "json", "line 1: not JSON", b"{"))
    >>> m.id, dict(m.headers)["telltale-reason"]
    ('t-1/7', b'json')
    """
    where = f"{reject.partition}/{reject.offset}" + (f"/{reject.row}" if reject.row >= 0 else "")
    kept = reject.value[:KEPT_BYTES]
    headers = (
        ("telltale-reason", reject.reason.encode()),
        ("telltale-detail", reject.detail.encode()),
        ("telltale-topic", reject.partition.topic.encode()),
        ("telltale-partition", str(reject.partition.number).encode()),
        ("telltale-offset", str(reject.offset).encode()),
        ("telltale-row", str(reject.row).encode()),
        ("telltale-bytes", str(len(reject.value)).encode()),
    )
    record = {
        "reason": reject.reason, "detail": reject.detail, "topic": reject.partition.topic, "partition": reject.partition.number,
        "offset": reject.offset, "row": reject.row, "bytes": len(reject.value), "value_base64": base64.b64encode(kept).decode(),
    }  # fmt: skip
    return Message(where, "dead_letter", str(reject.partition), kept, headers, record)
