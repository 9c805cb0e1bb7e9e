"""Where messages go. A sink is one file and one row in `SINKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streams.sinks.alertmanager import AlertmanagerSink
from streams.sinks.file import FileSink
from streams.sinks.kafka import KafkaSink
from streams.sinks.kafka_transactional import Ticket, TransactionalKafkaSink
from streams.sinks.sink import Sink, Undeliverable
from streams.sinks.webhook import WebhookSink

__all__ = ["SINKS", "AlertmanagerSink", "FileSink", "KafkaSink", "Sink", "Ticket", "TransactionalKafkaSink", "Undeliverable", "WebhookSink"]

SINKS: Mapping[str, Callable[..., Sink]] = {
    "kafka": KafkaSink,
    "webhook": WebhookSink,
    "alertmanager": AlertmanagerSink,
    "file": FileSink,
}
