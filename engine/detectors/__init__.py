"""The table of detectors: adding one is a file in this folder and a row here. What a detector is: `engine.finding.Detector`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.detectors import drift, extraction, hardware, missing, rules
from engine.finding import Context, Detector, Settings


@dataclass(frozen=True)
class Row:
    """Where a detector's settings and the detector come from. Detectors of one `family` share one false-alarm budget."""

    family: str
    settings: type[Settings]
    make: Callable[[Any, Context], Detector]


DETECTORS: dict[str, Row] = {
    "drift": Row("drift", drift.DriftSettings, drift.Drift),
    "extraction": Row("extraction", extraction.ExtractionSettings, extraction.Extraction),
    "hardware": Row("hardware", hardware.HardwareSettings, hardware.Hardware),
    "rules": Row("hardware", rules.RulesSettings, rules.Rules),
    "missing": Row("hardware", missing.MissingSettings, missing.Missing),
}
