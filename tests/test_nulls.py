"""The table of false alarms: every detector has a null, and each null reaches the detectors that it is for."""

import numpy as np
import pytest

from benchmarks.quality import nulls
from engine.detectors import DETECTORS
from engine.evidence import Budget
from engine.finding import Context


def test_every_detector_has_a_null():
    covered = {detector for null in nulls.NULLS for detector in null.detectors}
    assert set(DETECTORS) - covered == set(), "a new detector needs a row in benchmarks/quality/nulls.py"


def test_every_null_is_read_by_its_detectors():
    for null in nulls.NULLS:
        for name in null.detectors:
            made = DETECTORS[name].make(DETECTORS[name].settings(), Context(Budget()))
            assert null.stream in made.streams or name == "quality", f"{name} does not read {null.stream}"


def test_a_deployment_counts_alerts(tmp_path):
    null = next(n for n in nulls.NULLS if n.make is nulls.synthetic_retrievals)
    generator = np.random.default_rng(0)
    (_, rows) = next(null.make(tmp_path, generator))
    assert nulls.deployment(null, rows.slice(0, 3000), 1.0, tmp_path).get("grounding", 0) == 0


def test_the_interval_is_exact():
    low, high = nulls.poisson_interval(0, 10.0)
    assert (low, round(high, 3)) == (0.0, 0.369)
    kept = nulls.measured("x", 1.0, [{"budget": 1.0, "weeks": 2.0, "rows": 5, "alerts": {"x": 12}}])
    assert kept["per_week"] == 6.0 and not kept["kept"]
    assert nulls.shown({"detectors": {"x": [kept]}}).count("**no**") == 1


@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_memory_keeps_the_distribution(kept):
    values = nulls.memory(np.random.default_rng(1), 20_000, kept)
    assert abs(values.std() - 1) < 0.1 and abs(np.corrcoef(values[1:], values[:-1])[0, 1] - kept) < 0.05
