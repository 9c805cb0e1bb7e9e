"""Configuration: one YAML file, read once, checked whole, and passed on as arguments.

Unknown keys are refused, and every message names the key and the line. Secrets are never in the file: a value `env:NAME` or
`file:PATH` in a place marked as a secret is looked up when it is needed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from engine.alerts import Severity
from engine.api_config import ApiConfig
from engine.detectors import DETECTORS
from engine.scrape_config import ScrapeSourceConfig
from streams.decode import ENCODINGS

STREAMS = ("inference", "agent", "hardware", "feedback", "evaluation")


class ConfigError(Exception):
    """What is wrong with a configuration file, one line a problem, each with the line of the file and the key."""


class Section(BaseModel):
    """A part of the file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TopicConfig(Section):
    """How to read one topic. `stream`: whose rows it holds, where the records do not say; `principal`: span attributes to try, in order."""

    name: str
    stream: Literal["inference", "agent", "hardware", "feedback", "evaluation"] | None = None
    encoding: str = "auto"
    principal: tuple[str, ...] = ()

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ENCODINGS:
            raise ValueError(f"unknown encoding {value!r}; there are {', '.join(ENCODINGS)}")
        return value


class KafkaSourceConfig(Section):
    """Where telemetry comes from. `options` goes to the Kafka client as it is (security_protocol, sasl_*, ssl_*, ...). `sketches`: a topic
    of one partition through which the processes of the group share one population; without it each judges its own partitions alone."""

    bootstrap: str
    group: str = "telltale"
    topics: tuple[TopicConfig, ...] = Field(min_length=1)
    sketches: str | None = None
    options: dict[str, Any] = {}
    raw: bool = True

    @field_validator("topics")
    @classmethod
    def _distinct(cls, value: tuple[TopicConfig, ...]) -> tuple[TopicConfig, ...]:
        names = [t.name for t in value]
        if repeated := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"topic {sorted(repeated)[0]!r} is listed twice")
        return value


class SourceConfig(Section):
    """Where telemetry comes from: Kafka, or targets that are scraped, or both."""

    kafka: KafkaSourceConfig | None = None
    scrape: ScrapeSourceConfig | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> SourceConfig:
        if self.kafka is None and self.scrape is None:
            raise ValueError("nothing to read from; there are kafka and scrape")
        if self.kafka and self.kafka.sketches in {t.name for t in self.kafka.topics}:
            raise ValueError(f"kafka.sketches {self.kafka.sketches!r} is a topic of telemetry")
        if self.kafka and self.kafka.sketches and self.scrape:
            raise ValueError("kafka.sketches beside scrape: a group can't share what one process scrapes; scrape in another")
        if self.kafka and self.scrape and self.scrape.name in {t.name for t in self.kafka.topics}:
            raise ValueError(f"scrape.name {self.scrape.name!r} is a topic of kafka's")
        return self


class KafkaSinkConfig(Section):
    """Topics for what leaves. A topic left out (null) is not written. `transactional`: each message once for readers of committed
    records; the topics must be in the cluster that the source reads."""

    type: Literal["kafka"]
    bootstrap: str
    alerts: str | None = "telltale.alerts"
    triggers: str | None = "telltale.triggers"
    dead_letters: str | None = "telltale.dead-letters"
    transactional: bool = False
    options: dict[str, Any] = {}


class WebhookSinkConfig(Section):
    """POSTs each alert as a CloudEvent."""

    type: Literal["webhook"]
    url: str
    headers: dict[str, str] = {}
    timeout_s: float = Field(5.0, gt=0)


class AlertmanagerSinkConfig(Section):
    """POSTs alerts to Prometheus Alertmanager's v2 API."""

    type: Literal["alertmanager"]
    url: str
    headers: dict[str, str] = {}
    timeout_s: float = Field(5.0, gt=0)


class FileSinkConfig(Section):
    """Appends JSON lines to a file."""

    type: Literal["file"]
    path: Path
    kinds: tuple[Literal["alert", "trigger", "dead_letter"], ...] = ("alert",)


SinkConfig = Annotated[KafkaSinkConfig | WebhookSinkConfig | AlertmanagerSinkConfig | FileSinkConfig, Field(discriminator="type")]


class StoreSection(Section):
    """Where alerts are kept for the REST API: any SQLAlchemy URL; SQLite by default."""

    url: str = "sqlite:///telltale.db"


class CheckpointConfig(Section):
    """Where state is kept: a path, `file:///path` or `s3://bucket/prefix` with the `options` of boto3's client. `interval_s`: how much
    may have to be replayed after a crash."""

    dir: str = "checkpoints"
    options: dict[str, Any] = {}
    interval_s: float = Field(5.0, gt=0)


class LimitsConfig(Section):
    """Bounds on what hostile or broken input can cost."""

    record_bytes: int = Field(16 << 20, gt=0)
    keys: int = Field(1_000_000, gt=0)
    metrics: int = Field(256, gt=0)
    state_bytes: int = Field(1 << 30, ge=1 << 20)
    open_alerts: int = Field(20_000, gt=0)
    outbox_messages: int = Field(100_000, gt=0)
    outbox_bytes: int = Field(64 << 20, gt=0)
    future_s: float = Field(300.0, gt=0)
    skew_s: float = Field(5.0, ge=0)
    lateness_s: float = Field(2.0, ge=0)
    idle_s: float = Field(5.0, gt=0)
    poll_bytes: int = Field(8 << 20, gt=0)

    @property
    def of_state(self) -> dict[str, int]:
        """The limits of one partition's state, as `State` takes them."""
        return {"default": self.keys, "metric": self.metrics, "bytes": self.state_bytes, "open_alerts": self.open_alerts}


class PolicyConfig(Section):
    """Which alerts become remediation triggers. Nothing is triggered that no policy names."""

    detector: str
    actions: tuple[str, ...] = Field(min_length=1)
    min_severity: Severity = "error"

    @field_validator("detector")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DETECTORS:
            raise ValueError(f"unknown detector {value!r}; there are {', '.join(DETECTORS)}")
        return value


class RemediationConfig(Section):
    """Remediation triggers. `signing_key`: `file:` or `env:` reference to an Ed25519 private key in PEM."""

    policies: tuple[PolicyConfig, ...] = ()
    signing_key: str | None = None
    expires_s: float = Field(600.0, gt=0)

    @model_validator(mode="after")
    def _signed(self) -> RemediationConfig:
        if self.policies and self.signing_key is None:
            raise ValueError("policies without signing_key: an executor could not tell a trigger of ours from a forged one")
        return self


DetectorsSection: type[Section] = create_model(
    "DetectorsSection",
    __base__=Section,
    __doc__="Settings of each detector, by name; `null` switches one off.",
    **{name: (row.settings | None, Field(default_factory=row.settings)) for name, row in DETECTORS.items()},  # type: ignore[call-overload]
)


class Config(Section):
    """The whole file."""

    name: str = "telltale"
    source: SourceConfig | None = None
    sinks: dict[str, SinkConfig] = {}
    store: StoreSection | None = StoreSection()
    api: ApiConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    false_alarms_per_week: dict[str, float] = {}
    detectors: Any = Field(default_factory=DetectorsSection)
    baseline: Path | None = None
    limits: LimitsConfig = LimitsConfig()
    remediation: RemediationConfig = RemediationConfig()
    pane_s: float = Field(1.0, gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    hash: str = Field("", exclude=True)

    @property
    def pane_us(self) -> int:
        """Length of a sketch's pane of event time, microseconds."""
        return int(self.pane_s * 1e6)

    @property
    def lateness_us(self) -> int:
        """How far a row may be behind the newest one without being late, microseconds."""
        return int(self.limits.lateness_s * 1e6)

    @property
    def skew_us(self) -> int:
        """How far a producer's clock may be off before that is reported, microseconds."""
        return int(self.limits.skew_s * 1e6)

    @property
    def future_us(self) -> int:
        """How far a row's time may be after its record was written, microseconds."""
        return int(self.limits.future_s * 1e6)

    @field_validator("detectors", mode="before")
    @classmethod
    def _detectors(cls, value: Any) -> Any:
        return value if isinstance(value, BaseModel) else DetectorsSection.model_validate(value or {})

    @field_validator("sinks")
    @classmethod
    def _named(cls, value: dict[str, SinkConfig]) -> dict[str, SinkConfig]:
        if "store" in value:
            raise ValueError("store is what the place for the REST API is called; name the sink otherwise")
        return value

    @field_validator("false_alarms_per_week")
    @classmethod
    def _families(cls, value: dict[str, float]) -> dict[str, float]:
        known = {row.family for row in DETECTORS.values()}
        for family, budget in value.items():
            if family not in known:
                raise ValueError(f"unknown family {family!r}; there are {', '.join(sorted(known))}")
            if not budget > 0:
                raise ValueError(f"{family}: the budget must be greater than 0, not {budget}")
        return value


def load(path: Path) -> Config:
    """Read and check a file. Raises ConfigError naming every wrong key and its line."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return parse(text, str(path))


def parse(text: str, name: str = "configuration") -> Config:
    """Check the text of a file; `name` stands in messages.

    >>> parse("detectors: {drift: {windw: 3}}", "c.yaml")
    Traceback (most recent call last):
    engine.config.ConfigError: c.yaml:1: detectors.drift.windw: unknown key
    """
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1: expected keys and values, not {type(data).__name__}")
    if "hash" in data:
        raise ConfigError(f"{name}:{line_of(tree, ('hash',))}: hash: unknown key")
    try:
        config = Config.model_validate(data)
    except ValidationError as errors:
        raise ConfigError("\n".join(problem(name, tree, data, e) for e in errors.errors())) from errors
    return config.model_copy(update={"hash": hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]})


def problem(name: str, tree: Any, data: Any, error: Any) -> str:
    """One line of a message: file, line, key, what is wrong."""
    loc = tuple(p for p in error["loc"])
    if "detectors" not in loc and error["type"] != "extra_forbidden" and loc and loc[0] in DETECTORS:
        loc = ("detectors", *loc)
    if loc and isinstance(data.get("detectors"), dict) and loc[0] not in Config.model_fields:
        loc = ("detectors", *loc)
    path = tuple(p for i, p in enumerate(loc) if reaches(data, loc[:i], p) or i == len(loc) - 1)
    message = "unknown key" if error["type"] == "extra_forbidden" else error["msg"].removeprefix("Value error, ")
    return f"{name}:{line_of(tree, path)}: {'.'.join(str(p) for p in path) or '(top)'}: {message}"


def reaches(data: Any, before: tuple[Any, ...], key: Any) -> bool:
    """Whether `key` is really in the data there (pydantic adds the tag of a union to its paths)."""
    for part in before:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            data = data[part]
    return (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int))


def line_of(node: Any, path: tuple[Any, ...]) -> int:
    """The line (from 1) where the key of that path stands, or where its nearest parent does."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def secret(reference: str, key: str) -> str:
    """The secret that `env:NAME` or `file:PATH` refers to. Raises ConfigError naming the key, never the secret."""
    kind, _, where = reference.partition(":")
    if kind == "env" and where:
        value = os.environ.get(where)
        if value is None:
            raise ConfigError(f"{key}: the environment has no variable {where}")
        return value
    if kind == "file" and where:
        try:
            return Path(where).read_text().strip()
        except OSError as error:
            raise ConfigError(f"{key}: {where}: {error.strerror}") from error
    raise ConfigError(f"{key}: a secret is given as env:NAME or file:PATH")


def resolved_options(options: dict[str, Any], key: str) -> dict[str, Any]:
    """Client options with every `env:` and `file:` value looked up."""
    return {
        name: secret(value, f"{key}.{name}") if isinstance(value, str) and value.startswith(("env:", "file:")) else value
        for name, value in options.items()
    }
