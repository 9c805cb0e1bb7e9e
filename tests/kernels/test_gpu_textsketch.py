"""textsketch in Triton against the oracle and its CPU twin."""

import numpy as np
import pytest

from kernels.textsketch import textsketch
from tests.kernels.test_textsketch import ragged
from tests.kernels.tolerances import assert_close
from tests.naive import textsketch as naive

pytestmark = [pytest.mark.gpu_code, pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")]

TEXTS = [b"", b" ", b"a", b"\xff" * 9, b"\x00\x00\x00", b"  HOW are\t\nYou? ", "caf\u00e9 4711".encode(), b"x y z xyz"]


@pytest.mark.parametrize(("dims", "hashes", "kind"), [(64, 0, np.int32), (256, 8, np.int64), (4096, 1, np.int32)])
def test_agrees_with_the_oracle(on_gpu, dims, hashes, kind):
    data, offsets = ragged(TEXTS)
    offsets = offsets.astype(kind)
    got = [a.cpu().numpy() for a in textsketch(on_gpu(data), on_gpu(offsets), dims=dims, hashes=hashes)]
    for i, text in enumerate(TEXTS):
        projection, simhash, minhash = naive.textsketch(text, dims, hashes)
        assert_close("textsketch", got[0][i], projection)
        assert (int(got[1][i]) % 2**64, got[2].view(np.uint64)[i].tolist()) == (simhash, minhash.tolist())
    for a, b in zip(got, textsketch(data, offsets, dims=dims, hashes=hashes), strict=True):
        np.testing.assert_array_equal(a.view(b.dtype), b)


@pytest.mark.parametrize("n", [0, 1, 130])
def test_nulls_and_texts_of_many_programs(on_gpu, n):
    rng = np.random.default_rng(n)
    data, offsets = ragged([rng.integers(32, 123, k, np.uint8).tobytes() for k in rng.integers(0, 12, n)])
    valid = rng.integers(0, 256, n // 8 + 2, np.uint8)
    options = {"dims": 64, "hashes": 4, "first_bit": 5}
    got = textsketch(on_gpu(data), on_gpu(offsets), valid=on_gpu(valid), **options)
    for a, b in zip(got, textsketch(data, offsets, valid=valid, **options), strict=True):
        np.testing.assert_array_equal(a.cpu().numpy().view(b.dtype), b)


@pytest.mark.parametrize("options", [{"dims": 100}, {"hashes": 3}, {"valid": np.zeros(0, np.uint8)}, {"offsets": np.array([0, 2])}])
def test_what_is_not_offered_is_refused(on_gpu, options):
    options = {name: on_gpu(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}
    offsets = options.pop("offsets", on_gpu(np.array([0, 1])))
    with pytest.raises(ValueError, match="must"):
        textsketch(on_gpu(np.zeros(1, np.uint8)), offsets, **options)
