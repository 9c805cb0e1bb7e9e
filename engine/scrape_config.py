"""Configuration of scraping: `source.scrape`."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class TargetConfig(BaseModel):
    """One address that answers with Prometheus text. `labels`: of all its samples (`instance`, `rack`, `job`, ...); `headers`: values may
    be `env:NAME` or `file:PATH`, looked up before each scrape; `interval_s`, `timeout_s`: this target's own; `ca_file`: who signed its
    certificate, where that is not the system's to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    labels: dict[str, str] = {}
    headers: dict[str, str] = {}
    interval_s: float | None = Field(None, gt=0)
    timeout_s: float | None = Field(None, gt=0)
    ca_file: str | None = None

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https address")
        if parts.username or parts.password:
            raise ValueError("no user or password in an address; use headers with env:NAME or file:PATH")
        return value


class ScrapeSourceConfig(BaseModel):
    """Targets to scrape. `name`: the topic that their records have, in checkpoints and alerts; it must be no topic of Kafka's, and two
    processes that share a checkpoint folder need two names. `max_bytes`: of one answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "scrape"
    targets: tuple[TargetConfig, ...] = Field(min_length=1, max_length=10_000)
    interval_s: float = Field(15.0, gt=0)
    timeout_s: float = Field(5.0, gt=0)
    max_bytes: int = Field(16 << 20, gt=0)

    @model_validator(mode="after")
    def _distinct(self) -> ScrapeSourceConfig:
        urls = [t.url for t in self.targets]
        if repeated := {u for u in urls if urls.count(u) > 1}:
            raise ValueError(f"target {sorted(repeated)[0]!r} is listed twice")
        return self
