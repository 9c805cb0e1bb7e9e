"""mahalanobis in Triton against the oracle and its CPU twin."""

import numpy as np
import pytest

from kernels.mahalanobis import Mahalanobis, Rule, empty, mahalanobis
from tests.kernels.test_mahalanobis import telemetry
from tests.kernels.tolerances import assert_close
from tests.naive import mahalanobis as naive

pytestmark = [pytest.mark.gpu_code, pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")]


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize(("n", "p", "learning_ticks"), [(40, 1, 25), (40, 3, 25), (14, 5, 0), (5, 20, 3), (2, 35, 9)])
def test_agrees_with_the_oracle(on_gpu, n, p, learning_ticks, missing):
    x = telemetry(n, p, p, missing)
    rule = Rule(decay=0.99)
    options = {"warmup": 4, "learning_ticks": learning_ticks, "every": 9}
    state, there = empty(1, p, 7), Mahalanobis(*(on_gpu(a) for a in empty(1, p, 7)))
    slots = np.zeros(n, np.int32)
    got = mahalanobis(on_gpu(x), on_gpu(slots), there, rule=rule, parts=True, **options)
    for a, b in zip(got, naive.scores(x, rule, window=7, **options), strict=True):
        assert_close("mahalanobis", a.cpu().numpy(), b)
    mahalanobis(x, slots, state, rule=rule, **options)
    for a, b in zip(there, state, strict=True):
        assert_close("mahalanobis", a.cpu().numpy(), b)


@pytest.mark.parametrize(("n", "devices"), [(0, 2), (1, 3), (24, 1), (24, 30)])
def test_batches_of_several_devices(on_gpu, n, devices):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[rng.random((n, 3)) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
    x[5:7] = np.nan
    slots = rng.integers(-1, devices, n).astype(np.int32)
    options = {"warmup": 1, "learning_ticks": 10, "every": 7}
    state = empty(devices, 3, 3)
    expected = mahalanobis(x, slots, state, **options)
    whole, parts = (Mahalanobis(*(on_gpu(a) for a in empty(devices, 3, 3))) for _ in range(2))
    got = mahalanobis(on_gpu(x), on_gpu(slots), whole, **options)
    assert got.parts is None
    for a, b in zip(got[:3], expected[:3], strict=True):
        assert_close("mahalanobis", a.cpu().numpy(), b)
    cut = [mahalanobis(on_gpu(x[part]), on_gpu(slots[part]), parts, **options) for part in (slice(n // 3), slice(n // 3, n))]
    np.testing.assert_array_equal(np.concatenate([c.score.cpu().numpy() for c in cut]), got.score.cpu().numpy())
    for a, b, c in zip(whole, parts, state, strict=True):
        np.testing.assert_array_equal(a.cpu().numpy(), b.cpu().numpy())
        assert_close("mahalanobis", a.cpu().numpy(), c)


def test_programs_take_one_device_after_the_other(on_gpu, monkeypatch):
    from kernels.mahalanobis import gpu

    rng = np.random.default_rng(2)
    x, slots = rng.normal(size=(40, 3)), rng.integers(0, 9, 40).astype(np.int32)
    x[rng.random(x.shape) < 0.1] = np.nan
    few, many = (Mahalanobis(*(on_gpu(a) for a in empty(9, 3))) for _ in range(2))
    scores = mahalanobis(on_gpu(x), on_gpu(slots), many, warmup=1)
    monkeypatch.setattr(gpu, "ROOM", 2 * 4 * (4 + 3))  # of two programs
    for a, b in zip((*mahalanobis(on_gpu(x), on_gpu(slots), few, warmup=1)[:3], *few), (*scores[:3], *many), strict=True):
        np.testing.assert_array_equal(a.cpu().numpy(), b.cpu().numpy())


@pytest.mark.parametrize(
    "bad",
    [
        lambda x, s, m: (x[0], s, m),
        lambda x, s, m: (x.long(), s, m),
        lambda x, s, m: (x, s.long(), m),
        lambda x, s, m: (x, s[1:], m),
        lambda x, s, m: (x, s + 1, m),
        lambda x, s, m: (x, s - 2, m),
        lambda x, s, m: (x[:, 1:], s, m),
        lambda x, s, m: (x, s, m._replace(cov=m.cov[:, 0])),
        lambda x, s, m: (x.repeat(1, 50), s, m),
    ],
)
def test_what_does_not_fit_is_refused(on_gpu, bad):
    x, slots = on_gpu(np.zeros((4, 3))), on_gpu(np.zeros(4, np.int32))
    with pytest.raises(ValueError, match="must be"):
        mahalanobis(*bad(x, slots, Mahalanobis(*(on_gpu(a) for a in empty(1, 3)))))
