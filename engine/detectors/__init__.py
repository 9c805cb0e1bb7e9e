"""The table of detectors: adding one is a file in this folder and a row here. What a detector is: `engine.finding.Detector`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.detectors.campaign import Campaign, CampaignSettings
from engine.detectors.drift import Drift, DriftSettings
from engine.detectors.drift_embeddings import DriftEmbeddings, DriftEmbeddingsSettings
from engine.detectors.extraction import Extraction, ExtractionSettings
from engine.detectors.grounding import Grounding, GroundingSettings
from engine.detectors.hardware import Hardware, HardwareSettings
from engine.detectors.missing import Missing, MissingSettings
from engine.detectors.performance import Performance, PerformanceSettings
from engine.detectors.poisoning import Poisoning, PoisoningSettings
from engine.detectors.probing import Probing, ProbingSettings
from engine.detectors.quality import Quality, QualitySettings
from engine.detectors.rates import Rates, RatesSettings
from engine.detectors.rules import Rules, RulesSettings
from engine.finding import Context, Detector, Settings


@dataclass(frozen=True)
class Row:
    """Where a detector's settings and the detector come from. Detectors of one `family` share one false-alarm budget."""

    family: str
    settings: type[Settings]
    make: Callable[[Any, Context], Detector]


DETECTORS: dict[str, Row] = {
    "drift": Row("drift", DriftSettings, Drift),
    "drift_embeddings": Row("drift_embeddings", DriftEmbeddingsSettings, DriftEmbeddings),
    "rates": Row("rates", RatesSettings, Rates),
    "performance": Row("performance", PerformanceSettings, Performance),
    "grounding": Row("grounding", GroundingSettings, Grounding),
    "quality": Row("quality", QualitySettings, Quality),
    "extraction": Row("extraction", ExtractionSettings, Extraction),
    "probing": Row("probing", ProbingSettings, Probing),
    "campaign": Row("campaign", CampaignSettings, Campaign),
    "hardware": Row("hardware", HardwareSettings, Hardware),
    "rules": Row("hardware", RulesSettings, Rules),
    "poisoning": Row("poisoning", PoisoningSettings, Poisoning),
    "missing": Row("hardware", MissingSettings, Missing),
}
