"""Where records come from. A source is one file and one row in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streams.sources.files import FileSource
from streams.sources.kafka import KafkaSource
from streams.sources.scrape import ScrapeSource, Target
from streams.sources.several import SeveralSources
from streams.sources.simulated import SimulatedSource
from streams.sources.source import Change, Fenced, Source, SourceUnavailable

__all__ = [
    "SOURCES", "Change", "Fenced", "FileSource", "KafkaSource", "ScrapeSource", "SeveralSources", "SimulatedSource", "Source",
    "SourceUnavailable", "Target",
]  # fmt: skip

SOURCES: Mapping[str, Callable[..., Source]] = {
    "kafka": KafkaSource,
    "files": FileSource,
    "scrape": ScrapeSource,
    "simulated": SimulatedSource,
}
