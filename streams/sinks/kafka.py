"""Kafka: messages to topics by kind, keyed so that one alert's versions stay in order, confirmed by all in-sync replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from streams.records import Message
from streams.sinks.sink import Undeliverable

DEFAULTS: Mapping[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 5,
    "batch_size": 1 << 17,
    "compression_type": "lz4",
    "max_block_ms": 5_000,
    "request_timeout_ms": 5_000,
    "delivery_timeout_ms": 10_000,
    "bootstrap_timeout_ms": 5_000,
    "reconnect_backoff_max_ms": 2_000,
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}
HOPELESS = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.InvalidTopicError,
)


class KafkaSink:
    """`topics`: kind of message -> topic. `options` goes to kafka-python's producer as it is, over our `DEFAULTS`.

    The producer connects with the first messages, so a broker that is away delays and loses nothing. Raises ValueError for an option
    that the client does not have.
    """

    def __init__(self, bootstrap: str, topics: Mapping[str, str], options: Mapping[str, Any] | None = None):
        self._bootstrap, self._topics = bootstrap, dict(topics)
        self._settings = {**DEFAULTS, **(options or {})}
        if unknown := sorted(self._settings.keys() - KafkaProducer.DEFAULT_CONFIG.keys()):
            raise ValueError(f"Kafka producer: there is no option {unknown[0]!r}")
        self._producer: KafkaProducer | None = None

    def send(self, messages: Sequence[Message]) -> set[str]:
        """Send all, and wait, no longer than `delivery_timeout_ms`, for the broker's word on each.

        Raises ConnectionError when none was confirmed, Undeliverable for what no repetition helps (refused, no such topic name). A
        message that is larger than the broker takes is cut off at what `max_request_size` leaves, and says so in a header.
        """
        futures: dict[str, Any] = {}
        try:
            producer = self._connected()
            futures = {m.id: self._queue(producer, m) for m in messages if m.kind in self._topics}
            producer.flush(timeout=self._settings["delivery_timeout_ms"] / 1000)
        except HOPELESS as error:
            raise Undeliverable(f"Kafka at {self._bootstrap}: {error}") from error
        except kafka_errors.KafkaTimeoutError:
            pass  # some are confirmed, perhaps
        except (kafka_errors.KafkaError, OSError) as error:
            self._drop()
            raise ConnectionError(f"Kafka at {self._bootstrap}: {error or type(error).__name__}") from error
        delivered = {m.id for m in messages if m.kind not in self._topics}
        problem: BaseException | None = None
        for message_id, future in futures.items():
            if future.succeeded():
                delivered.add(message_id)
            else:
                problem = future.exception or problem
        if problem is not None or len(delivered) < len(messages):
            self._drop()  # what it still holds must not come later than what is sent again
            if isinstance(problem, HOPELESS):
                raise Undeliverable(f"Kafka at {self._bootstrap}: {problem}")
            if not delivered:
                raise ConnectionError(f"Kafka at {self._bootstrap}: {problem or 'not confirmed in time'}")
        return delivered

    def close(self) -> None:
        """Leave; `send` has waited for everything already."""
        if self._producer is not None:
            with suppress(kafka_errors.KafkaTimeoutError):  # a broker that is away; what it did not confirm is in the checkpoint
                self._producer.close(timeout=2)
            self._producer = None

    def _connected(self) -> KafkaProducer:
        if self._producer is None:
            self._producer = KafkaProducer(bootstrap_servers=self._bootstrap.split(","), **self._settings)
        return self._producer

    def _queue(self, producer: KafkaProducer, message: Message) -> Any:
        headers = [*message.headers, ("telltale-id", message.id.encode())]
        value, room = message.value, self._settings.get("max_request_size", 1 << 20) - 4096
        if len(value) > room:
            headers.append(("telltale-cut-from-bytes", str(len(value)).encode()))
            value = value[:room]
        return producer.send(self._topics[message.kind], value=value, key=message.key.encode(), headers=headers)

    def _drop(self) -> None:
        """Let a producer in doubt go, at once."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with suppress(kafka_errors.KafkaTimeoutError):  # what it gives up is sent again by the outbox
                producer.close(timeout=0)
