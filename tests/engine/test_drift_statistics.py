"""Distances of two histograms, against scipy on the same binned data, and against exact computations on the rows themselves."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from benchmarks.peers.ours import distances_differ
from engine.detectors.drift_reference import learn
from engine.detectors.drift_statistics import distances, filled, g_tests, log10_f_tail, log10_tail

ROOT = Path(__file__).resolve().parents[2]
COUNTS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=35).filter(
    lambda rows: all(sum(side) > 0 for side in zip(*rows, strict=True))
)


@settings(max_examples=150, deadline=None)
@given(COUNTS)
def test_every_distance_is_scipys(rows):
    a, b = (np.array(side) for side in zip(*rows, strict=True))
    x = np.arange(len(a)) ** 1.5
    said = distances(a, b, x)
    keep = (a + b) > 0
    p, q = a / a.sum(), b / b.sum()
    assert said["jensen_shannon"] == pytest.approx(distance.jensenshannon(p, q), abs=1e-6)
    assert said["kullback_leibler"] == pytest.approx(stats.entropy(filled(a[keep]), filled(b[keep])), abs=1e-9)
    assert said["wasserstein"] == pytest.approx(stats.wasserstein_distance(x, x, a, b), rel=1e-9, abs=1e-9)
    assert said["energy"] == pytest.approx(stats.energy_distance(x, x, a, b), rel=1e-9, abs=1e-9)
    assert said["hellinger"] == pytest.approx(distance.euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2), abs=1e-9)
    assert said["total_variation"] == pytest.approx(distance.cityblock(p, q) / 2, abs=1e-12)
    if keep.sum() > 1:
        table = np.array([a[keep], b[keep]])
        assert said["chi_square"] == pytest.approx(stats.chi2_contingency(table, correction=False).statistic, rel=1e-9, abs=1e-9)
        assert said["g"] == pytest.approx(stats.chi2_contingency(table, False, "log-likelihood").statistic, rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(COUNTS)
def test_the_kernel_of_the_test_agrees(rows):
    a, b = (np.array(side, np.float64) for side in zip(*rows, strict=True))
    g, df, _ = g_tests(a[None], b[None])[0]
    assert g == pytest.approx(distances(a, b)["g"], rel=1e-9, abs=1e-6)
    assert df == max(1, ((a + b) > 0).sum() - 1)


def test_kolmogorov_smirnov_and_mmd_are_those_of_the_rows():
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 12, 300).astype(float), generator.integers(2, 14, 200).astype(float)
    places = np.arange(14.0)
    said = distances(np.bincount(x.astype(int), minlength=14), np.bincount(y.astype(int), minlength=14), places)
    assert said["kolmogorov_smirnov"] == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-12)
    apart = np.abs(x[:, None] - x)[np.triu_indices(len(x), 1)]
    sigma = np.median(apart[apart > 0])

    def mean_kernel(u, v):
        return np.exp(-((u[:, None] - v) ** 2) / (2 * sigma**2)).mean()

    assert said["mmd"] == pytest.approx(mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y), abs=1e-12)


def test_binned_distances_are_near_those_of_the_rows():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=20_000), generator.normal(0.4, 1.2, 20_000)
    reference = learn(x, np.arange(len(x)))
    said = distances(reference.counts, reference.histogram(y), reference.places)
    assert said["wasserstein"] == pytest.approx(stats.wasserstein_distance(x, y), rel=0.1)
    assert said["kolmogorov_smirnov"] == pytest.approx(stats.ks_2samp(x, y).statistic, rel=0.05)
    assert said["energy"] == pytest.approx(stats.energy_distance(x, y), rel=0.05)


def test_tails_agree_with_scipy_and_go_on_beyond_it():
    x, df = np.array([3.0, 300.0, 1300.0, 1400.0, 1e5]), np.array([2, 31, 31, 31, 31])
    assert log10_tail(x[:3], df[:3]) == pytest.approx(stats.chi2.logsf(x[:3], df[:3]) / np.log(10), rel=1e-9)
    assert log10_tail(x[3:4], df[3:4]) == pytest.approx(stats.chi2.logsf(1400.0, 31) / np.log(10), rel=1e-6)
    assert -1e5 < log10_tail(x, df)[4] < log10_tail(x, df)[3]


def test_evidently_says_the_same():
    python = ROOT / ".venv-peers" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-peers with Evidently: see benchmarks/README.md")
    code = "import json; from benchmarks.peers import run; print(json.dumps(run.evidently_distances()))"
    done = subprocess.run([python, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert distances_differ(json.loads(done.stdout)) < 1e-6


def test_the_tail_of_f_is_scipy_s_and_goes_on_beyond_float64():
    df, scale_df, x = (a.ravel() for a in np.meshgrid([0.5, 3.0, 33.0], [1.0, 20.0, 250.0], [0.5, 2.0, 30.0, 1e4]))
    with np.errstate(divide="ignore"):
        known = np.log10(stats.f.sf(x, df, scale_df))
    near = known > -300
    assert np.allclose(log10_f_tail(x, df, scale_df)[near], known[near], rtol=1e-6) and near.sum() > 30
    across = np.geomspace(500, 10_000, 200)  # float64 ends amid these
    tail = log10_f_tail(across, np.full(200, 33.0), np.full(200, 250.0))
    assert tail[0] > -300 > tail[-1] and np.isfinite(tail).all()
    steps = np.diff(tail)
    assert (steps < 0).all() and np.abs(np.diff(steps)).max() < 0.01  # and nothing jumps there
