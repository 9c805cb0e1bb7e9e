"""Drift of embeddings and prompts: p-values hold, shifts are found, MMD is the exact one but for the random features."""

import numpy as np
import pyarrow as pa
import pytest

from engine.batch import Batch
from engine.detectors.drift_embeddings import FEATURES, SIGMA, Cloud, DriftEmbeddings, DriftEmbeddingsSettings
from engine.evidence import Budget
from engine.finding import Context
from engine.state import State
from kernels import rff
from tests.engine.population_runs import S, flat, opened, run

DIMS = 24
BANDWIDTHS = SIGMA * np.array([0.5, 1, 2, 4])


def detector(**settings) -> DriftEmbeddings:
    return DriftEmbeddings(DriftEmbeddingsSettings(**settings), Context(Budget()))


def vectors(n: int, generator: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    x = generator.normal(size=(n, DIMS)) * np.geomspace(3, 0.3, DIMS)
    x[:, 0] += 3 + shift
    return x.astype(np.float32)


def rows(x: np.ndarray):
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
    return {"inference": (np.arange(len(x)) * S // 4, {"model": pa.array(["m"] * len(x)), "embedding": column})}


def test_a_shift_is_found_soon_and_nothing_before_it():
    generator = np.random.default_rng(1)
    alerts, _, _ = run(detector(), rows(np.concatenate([vectors(6000, generator), vectors(1500, generator, 1.5)])))
    assert [a.key for a in opened(alerts)] == [f"m/embedding[{DIMS}]"]
    assert 6000 < alerts[0].onset_us // (S // 4) < 6800
    assert alerts[0].p_value < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_no_drift_no_alarm(seed):
    alerts, scores, _ = run(detector(), rows(vectors(12_000, np.random.default_rng(seed))))
    assert alerts == []
    assert len(flat(scores)) > 30


def test_prompts_of_another_kind_are_found():
    generator = np.random.default_rng(2)
    words = [
        np.array(w.split())
        for w in ("sum list sort array code loop index write function", "my holiday weather train hotel ticket beach sun")
    ]

    def texts(kind: int, n: int) -> list[str]:
        return [" ".join(generator.choice(words[kind], 6)) for _ in range(n)]

    prompts = pa.array(texts(0, 3000) + texts(1, 600), pa.large_string())
    columns = {"model": pa.array(["m"] * len(prompts)), "prompt": prompts}
    alerts, _, _ = run(detector(), {"inference": (np.arange(len(prompts)) * S // 4, columns)})
    assert [a.key for a in opened(alerts)] == ["m/prompt"]


def test_cuts_and_partitions_change_nothing():
    generator = np.random.default_rng(3)
    x = rows(np.concatenate([vectors(3000, generator), vectors(1200, generator, 2.0)]))
    one_alerts, one_scores, _ = run(detector(), x, cut=4200)
    for cut, partitions in ((150, 1), (700, 3)):
        alerts, scores, _ = run(detector(), x, cut, partitions)
        assert flat(scores) == flat(one_scores)
        assert {a.id for a in alerts} == {a.id for a in one_alerts} != set()


def cloud_of(x: np.ndarray, block: int = 64) -> Cloud:
    sums, counts = rff.empty(-(-len(x) // block), FEATURES)
    rff.rff(x, (np.arange(len(x)) // block).astype(np.int32), rff.frequencies(x.shape[1], FEATURES, SIGMA), sums, counts)
    return Cloud(np.column_stack([sums, counts]))


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_mmd_is_the_exact_one_but_for_the_random_features():
    generator = np.random.default_rng(4)
    x, y = unit(vectors(1024, generator)), unit(vectors(512, generator, 2.0))

    def kernel(a, b):
        apart = ((a[:, None].astype(float) - b) ** 2).sum(-1)
        return np.mean([np.exp(-apart / (2 * s**2)) for s in BANDWIDTHS], axis=0)

    exact = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    assert cloud_of(x).judge(cloud_of(y, 512).blocks[0])[1] == pytest.approx(exact, abs=3 / np.sqrt(FEATURES) * exact + 0.002)


def test_p_values_hold():
    generator = np.random.default_rng(5)
    p = []
    for _ in range(12):
        cloud = cloud_of(unit(vectors(2048, generator)))
        windows = cloud_of(unit(vectors(256 * 40, generator)), 256)
        p += [10 ** cloud.judge(sums)[0] for sums in windows.blocks]
    p = np.array(p)
    assert np.mean(p < 0.5) < 0.6
    assert np.mean(p < 0.05) < 0.08
    assert np.mean(p < 0.002) < 0.01


def test_a_baseline_keeps_the_blocks(tmp_path):
    from engine.baseline import Baseline

    known = cloud_of(unit(vectors(2048, np.random.default_rng(6))))
    Baseline({"drift_embeddings": {"m/embedding[24]": known.record()}}, {"rows": 2048}).save(tmp_path)
    loaded = Baseline.load(tmp_path)
    again = DriftEmbeddings(DriftEmbeddingsSettings(), Context(Budget(), baseline=loaded.parts, about=loaded.about)).clouds[
        "m/embedding[24]"
    ]
    assert again.blocks.tolist() == known.blocks.tolist()
    assert again.about == {"rows": 2048}


def test_a_flood_of_series_is_bounded():
    one = DriftEmbeddings(DriftEmbeddingsSettings(max_series=2), Context(Budget()))
    state = State()
    for dims in (8, 9, 10, 11):
        column = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(dims * 5, np.float32)), dims)
        table = pa.RecordBatch.from_pydict({"model": pa.array(["m"] * 5), "embedding": column})
        one.observe(Batch("inference", table, np.arange(5), np.arange(5)), state)
    assert sorted(n for n in state.arrays if "panes" in n) == [f"drift_embeddings.panes/m/embedding[{d}]" for d in (8, 9)]
    assert state.records["drift_embeddings.refused"] == 10
