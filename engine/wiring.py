"""From a configuration to parts that run: detectors, formats, sinks, and the engine over a source. Straight line, no framework."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from engine import config as configuration
from engine.approvals import approvals
from engine.baseline import Baseline
from engine.checkpoint import Checkpoints
from engine.config import Config, ConfigError, FileSinkConfig, KafkaSinkConfig, KafkaSourceConfig, resolved_options
from engine.detectors import DETECTORS
from engine.evidence import Budget
from engine.exchange import SharedPopulation
from engine.finding import Context, Detector
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.remediate import Remediation
from engine.run import Engine
from engine.scrape_config import ScrapeSourceConfig
from engine.sketch_wire import KIND as SKETCH
from engine.storage import local, storage
from engine.store import Store, StoreSink
from engine.worker import of_population
from streams.decode import Format
from streams.sinks import AlertmanagerSink, FileSink, KafkaSink, TransactionalKafkaSink, WebhookSink
from streams.sources import KafkaSource, ScrapeSource, SeveralSources, Source, Target

EVERYTHING = frozenset({"alert", "trigger", "dead_letter"})


def make_detectors(config: Config, fitting: bool = False, approved: Sequence[dict[str, Any]] = ()) -> dict[str, Detector]:
    """The detectors that the configuration switches on, each with the false-alarm budget and its part of the baseline."""
    baseline = Baseline.load(config.baseline) if config.baseline else Baseline()
    budget = Budget(config.false_alarms_per_week)
    context = Context(budget, config.pane_us, baseline.parts, fitting, baseline.about, approved)
    chosen = {name: getattr(config.detectors, name) for name in DETECTORS}
    return {name: DETECTORS[name].make(settings, context) for name, settings in chosen.items() if settings is not None}


def make_formats(config: Config) -> dict[str, Format]:
    """How each topic of the source is read."""
    if config.source is None:
        return {}
    kafka, scrape = config.source.kafka, config.source.scrape
    topics = kafka.topics if kafka else ()
    formats = {t.name: Format(t.stream, t.encoding, t.principal, config.limits.record_bytes) for t in topics}
    return formats | ({scrape.name: Format("hardware", "prometheus", (), scrape.max_bytes + (1 << 10))} if scrape else {})


def make_routes(config: Config, store: Store | None) -> list[Route]:
    """Where messages go: the store, and every configured sink."""
    routes = [Route("store", StoreSink(store), frozenset({"alert"}))] if store else []
    for name, sink in config.sinks.items():
        key = f"sinks.{name}"
        if isinstance(sink, KafkaSinkConfig):
            topics = {"alert": sink.alerts, "trigger": sink.triggers, "dead_letter": sink.dead_letters}
            wanted = {kind: topic for kind, topic in topics.items() if topic}
            options = resolved_options(sink.options, f"{key}.options")
            kind = TransactionalKafkaSink if sink.transactional else KafkaSink
            routes.append(Route(name, kind(sink.bootstrap, wanted, options), frozenset(wanted)))
        elif isinstance(sink, FileSinkConfig):
            routes.append(Route(name, FileSink(sink.path), frozenset(sink.kinds)))
        else:
            make = WebhookSink if sink.type == "webhook" else AlertmanagerSink
            headers = resolved_options(sink.headers, f"{key}.headers")
            routes.append(Route(name, make(sink.url, headers, sink.timeout_s), frozenset({"alert"})))
    return routes


def make_sketches_route(kafka: KafkaSourceConfig) -> Route:
    """Where sketches go that the processes of a group share: the cluster that the source reads, by the same way in."""
    options = resolved_options(kafka.options, "source.kafka.options")
    secured = {name: value for name, value in options.items() if name.startswith(("security_", "sasl_", "ssl_"))}
    return Route(
        "source.kafka.sketches", KafkaSink(kafka.bootstrap, {SKETCH: str(kafka.sketches)}, secured), frozenset({SKETCH}), ordered=True
    )


def make_population(config: Config, detectors: Mapping[str, Detector], source: KafkaSource, outbox: Outbox) -> SharedPopulation:
    """The population that all processes of the group share. Raises ConfigError when the topic is not as it must be."""
    kafka = config.source.kafka if config.source else None
    assert kafka is not None and kafka.sketches is not None
    streams = {s for d in detectors.values() if of_population(d) for s in d.streams}
    topics = [t.name for t in kafka.topics if t.stream is None or t.stream in streams]
    if (there := len(source.partitions([kafka.sketches]))) != 1:
        raise ConfigError(f"source.kafka.sketches: the topic {kafka.sketches} must have one partition, and has {there}")
    return SharedPopulation(
        detectors, config.hash, config.pane_us, config.lateness_us, config.limits.idle_s, kafka.sketches,
        lambda: [str(p) for p in source.partitions(topics)], outbox.put,
    )  # fmt: skip


def make_remediation(config: Config) -> Remediation | None:
    """The policies with their key, if there are any."""
    settings = config.remediation
    if not settings.policies or settings.signing_key is None:
        return None
    pem = configuration.secret(settings.signing_key, "remediation.signing_key").encode()
    return Remediation(settings.policies, pem, settings.expires_s)


def make_checkpoints(config: Config) -> Checkpoints:
    """Where checkpoints are kept. Raises ConfigError when the place is none."""
    try:
        return Checkpoints(storage(config.checkpoint.dir, resolved_options(config.checkpoint.options, "checkpoint.options")))
    except ValueError as error:
        raise ConfigError(f"checkpoint.dir: {error}") from error


def make_kafka_source(config: Config) -> KafkaSource:
    """The consumer of the configured topics. Raises ConfigError when there is none."""
    kafka = config.source.kafka if config.source else None
    if kafka is None:
        raise ConfigError("source: nothing to read from; `source.kafka` names a broker and topics")
    options = resolved_options(kafka.options, "source.kafka.options")
    topics = [t.name for t in kafka.topics] + ([kafka.sketches] if kafka.sketches else [])
    return KafkaSource(kafka.bootstrap, kafka.group, topics, options, raw=kafka.raw)


def make_scrape_source(scrape: ScrapeSourceConfig) -> ScrapeSource:
    """The configured targets; every secret is looked up once, so that one that is not there stops the start. Raises ConfigError."""
    targets = []
    for k, t in enumerate(scrape.targets):
        key = f"source.scrape.targets.{k}"
        headers = partial(resolved_options, t.headers, f"{key}.headers")
        headers()
        try:
            tls = ssl.create_default_context(cafile=t.ca_file) if t.ca_file else None
        except OSError as error:
            raise ConfigError(f"{key}.ca_file: {t.ca_file}: {error.strerror or error}") from error
        targets.append(Target(t.url, t.labels, headers, t.interval_s or scrape.interval_s, t.timeout_s or scrape.timeout_s, tls))
    return ScrapeSource(targets, scrape.name, scrape.max_bytes)


def make_source(config: Config) -> Source:
    """Everything that the configuration reads from, as one. Raises ConfigError when there is nothing."""
    scrape = config.source.scrape if config.source else None
    if scrape is None:
        return make_kafka_source(config)
    if any(isinstance(sink, KafkaSinkConfig) and sink.transactional for sink in config.sinks.values()):
        raise ConfigError(
            "source.scrape: a transactional sink commits offsets of Kafka, and scrapes have none; scrape in a process of its own"
        )
    scraped = make_scrape_source(scrape)
    return SeveralSources([scraped, make_kafka_source(config)]) if config.source and config.source.kafka else scraped


def make_engine(config: Config, source: Source, store: Store | None, formats: Mapping[str, Format] | None = None, **more: Any) -> Engine:
    """An engine that serves: outbox threads, checkpoints, remediation. `more` overrides parts (tests, demo)."""
    metrics = more.pop("metrics", None) or Metrics()
    limits, kafka = config.limits, config.source.kafka if config.source else None
    shared = kafka if kafka and kafka.sketches else None
    routes = make_routes(config, store) + ([make_sketches_route(shared)] if shared else [])
    outbox = Outbox(routes, limits.outbox_messages, allowed=lambda: not source.lapsed, limit_bytes=limits.outbox_bytes)
    parts: dict[str, Any] = {"checkpoints": make_checkpoints(config), "remediation": make_remediation(config)} | more
    folder = local(config.checkpoint.dir)
    detectors = make_detectors(config, approved=approvals(folder) if folder else ())
    if shared and isinstance(source, KafkaSource):
        parts["population"] = make_population(config, detectors, source, outbox)
    return Engine(config, detectors, source, formats or make_formats(config), outbox, metrics, **parts)
