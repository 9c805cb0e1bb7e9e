"""Where records come from. A source is one file and one row in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streams.sources.files import FileSource
from streams.sources.kafka import KafkaSource
from streams.sources.simulated import SimulatedSource
from streams.sources.source import Change, Fenced, Source, SourceUnavailable

__all__ = ["SOURCES", "Change", "Fenced", "FileSource", "KafkaSource", "SimulatedSource", "Source", "SourceUnavailable"]

SOURCES: Mapping[str, Callable[..., Source]] = {
    "kafka": KafkaSource,
    "files": FileSource,
    "simulated": SimulatedSource,
}
