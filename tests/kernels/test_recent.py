"""recent: distances against a loop over lists, for every cut into batches."""

import numpy as np
import pytest

from kernels import recent

HELD = 20


def naive(slot, points):
    """Distances to the last HELD points of the same key, exact repeats left out."""
    history, out = {}, []
    grains = np.clip(np.rint(points * recent.GRAIN), -32767, 32767)
    for s, p in zip(slot.tolist(), grains, strict=True):
        row = [np.nan] * 4
        if s >= 0:
            past = history.setdefault(s, [])
            distances = [float(np.sqrt(np.mean((p - q) ** 2)) / recent.GRAIN) for q in past[-HELD:]]
            others = sorted(d for d in distances if d > 0)
            if len(past) >= HELD and len(others) >= recent.LEAST:
                step = distances[-1] if distances[-1] > 0 else np.nan
                row = [others[0], np.mean(others[: recent.NEAR]), others[len(others) // 2], step]
            past.append(p)
        out.append(row)
    return np.array(out, np.float32)


def traffic(n=300, dims=3):
    rng = np.random.default_rng(1)
    points = rng.normal(0, 1, (n, dims)).astype(np.float32)
    points[100:120] = points[100]
    points[7] = 1e9
    return rng.integers(-1, 2, n).astype(np.int32), points


@pytest.mark.parametrize("cut", [1, 13, 300])
def test_distances_equal_the_oracle_for_any_cut(cut):
    slot, points = traffic()
    seen, ring = np.zeros(2, np.int64), np.zeros((2, HELD, 3), np.int16)
    got = np.concatenate([recent.fold(slot[i : i + cut], points[i : i + cut], seen, ring) for i in range(0, len(slot), cut)])
    np.testing.assert_allclose(got, naive(slot, points), rtol=1e-5)
    assert np.isfinite(got[:, 0]).sum() > 100


def test_a_ring_of_another_width_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        recent.fold(np.zeros(1, np.int32), np.zeros((1, 2), np.float32), np.zeros(1, np.int64), np.zeros((1, 4, 3), np.int16))


def test_repeats_are_of_the_same_key_and_recent():
    slot = np.array([0, 1, 0, 0, 0, 0, -1], np.int32)
    items = np.array([5, 5, 5, 6, 7, 5, 5], np.uint64)
    got = recent.repeats(slot, items, np.zeros(2, np.int64), np.zeros((2, 2), np.uint64))
    assert got.tolist() == [False, False, True, False, False, False, False]
