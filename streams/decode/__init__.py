"""Decode: bytes to typed columns. `decode` finds out what each record is and hands it to the decoder of its encoding.

A decoder is one file and one row in `DECODERS`: `(raw, index, fmt, stream) -> Decoded`, where `index` are the positions of the
records that it is to read. What can't be decoded comes back as a `Reject` with a reason; every other row is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from streams.decode import arrow, cloudevents, json, kernel_log, otlp, otlp_json, prometheus, sagemaker
from streams.decode.format import Format, reject, reject_all
from streams.decode.sniff import encodings_of
from streams.decode.tables import in_order
from streams.records import Decoded, RawBatch

__all__ = ["DECODERS", "ENCODINGS", "Decoder", "Format", "decode"]

Decoder = Callable[[RawBatch, np.ndarray, Format, "str | None"], Decoded]

DECODERS: Mapping[str, Decoder] = {
    "json": json.decode,
    "arrow": arrow.decode,
    "otlp_proto": otlp.decode,
    "otlp_json": otlp_json.decode,
    "prometheus": prometheus.decode,
    "cloudevents": cloudevents.decode,
    "sagemaker": sagemaker.decode,
    "kernel_log": kernel_log.decode,
}
ENCODINGS = ("auto", *DECODERS)
"""What a topic's setting may be."""


def decode(raw: RawBatch, fmt: Format) -> Decoded:
    """All rows and rejects of a raw batch. Never raises because of what the records hold.

    Records without a value (tombstones) have no rows. Rejects: `too_large` (longer than `fmt.max_record_bytes`), `format` (nothing we
    know), and whatever the encoding's decoder says.

    >>> from streams.records import Partition, RawBatch
    >>> raw = RawBatch.of(Partition("t"), [b'{"time": 1, "host": "h", "device": "gpu0", "metric.gpu_temp": 41}', b'{"time'])
    >>> out = decode(raw, Format("hardware"))
    >>> out.rows[0].table.to_pylist()[0]["metric.gpu_temp"], out.rejects[0].reason
    (41.0, 'json')
    """
    lengths = raw.ends - raw.starts
    out = Decoded([], list(raw.refused))
    usable = np.flatnonzero(lengths > 0)
    if (large := lengths > fmt.max_record_bytes).any():
        for i in np.flatnonzero(large).tolist():
            detail = f"{int(lengths[i])} bytes; at most {fmt.max_record_bytes} are read"
            out.rejects.append(reject(raw, i, "too_large", detail))
        usable = usable[~large[usable]]
    for (encoding, stream), index in encodings_of(raw, usable, fmt).items():
        decoder = DECODERS.get(encoding)
        if decoder is None:
            out.rejects += reject_all(raw, index, "format", f"unknown format {encoding!r}" if encoding else "the format is not recognised")
            continue
        part = decoder(raw, index, fmt, stream)
        out.rows += [rows for rows in part.rows if len(rows.offsets)]
        out.rejects += part.rejects
    out.rows = in_order(out.rows)
    return out
