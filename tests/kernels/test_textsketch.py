"""textsketch: against the oracle on any bytes, straight from Arrow's buffers, and what the sketches are for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.textsketch import NO_HASH, textsketch
from tests.kernels.tolerances import assert_close
from tests.naive import textsketch as naive

VOCABULARY = [f"word{i}" for i in range(500)]


def ragged(texts):
    return np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.text(alphabet="aB c\t9.é", max_size=40).map(str.encode)), max_size=6))
@example([b""])
@example([b" ", b"a", b"\xff" * 9, b"\x00\x00\x00"])
def test_agrees_with_the_oracle(texts):
    got = textsketch(*ragged(texts), dims=128, hashes=8)
    for i, text in enumerate(texts):
        projection, simhash, minhash = naive.textsketch(text, 128, 8)
        assert_close("textsketch", got.projection[i], projection)
        assert int(got.simhash[i]) == simhash
        assert got.minhash[i].tolist() == minhash.tolist()


@pytest.mark.parametrize("dims", [64, 256, 4096])
@pytest.mark.parametrize("hashes", [0, 1, 64])
def test_sizes(dims, hashes):
    text = " ".join(VOCABULARY[:50]).encode()
    got = textsketch(*ragged([text]), dims=dims, hashes=hashes)
    projection, simhash, minhash = naive.textsketch(text, dims, hashes)
    assert_close("textsketch", got.projection[0], projection)
    assert (int(got.simhash[0]), got.minhash[0].tolist()) == (simhash, minhash.tolist())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_arrow_buffers_with_nulls_and_an_offset(kind):
    texts = ["left out", None, "how are you", "", "HOW  are\nyou", None] * 700
    array = pa.array(texts, kind)[1:]
    valid, offsets, data = (np.frombuffer(b, np.uint8) for b in array.buffers())
    offsets = offsets.view(np.int32 if kind == pa.string() else np.int64)[array.offset : array.offset + len(array) + 1]
    got = textsketch(data, offsets, valid=valid, first_bit=array.offset)
    null = np.array([t is None or not t for t in texts[1:]])
    assert not got.projection[null].any() and not got.simhash[null].any() and (got.minhash[null] == NO_HASH).all()
    np.testing.assert_array_equal(got.projection[1], got.projection[3])
    assert_close("textsketch", got.projection[-2], naive.textsketch(b"how are you", 256, 32)[0])


def test_a_null_with_bytes_behind_it_is_still_null():
    got = textsketch(*ragged([b"secret"]), valid=np.array([0b10], np.uint8))
    assert not got.projection.any()


def test_the_cut_into_batches_does_not_matter():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(VOCABULARY, k)).encode() for k in rng.integers(0, 300, 200)]
    whole = textsketch(*ragged(texts))
    for i in (0, 77, 199):
        alone = textsketch(*ragged(texts[i : i + 1]))
        for a, b in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(a[0], b[i])


def test_nulls_in_any_cut():
    rng = np.random.default_rng(1)
    data, offsets = ragged([" ".join(rng.choice(VOCABULARY, k)).encode() for k in rng.integers(0, 9, 83)])
    for valid in (rng.integers(0, 256, 12, np.uint8), np.zeros(12, np.uint8)):
        whole = textsketch(data, offsets, valid=valid, first_bit=3)
        for start in range(0, 83, 19):
            part = textsketch(data, offsets[start : start + 20], valid=valid, first_bit=3 + start)
            for a, b in zip(part, whole, strict=True):
                np.testing.assert_array_equal(a, b[start : start + 19])
    assert not whole.projection.any() and (whole.minhash == NO_HASH).all()


def test_the_sketches_estimate_what_they_say():
    rng = np.random.default_rng(1)
    base = list(rng.choice(VOCABULARY, 300))
    texts = [" ".join(base[:k] + list(rng.choice(VOCABULARY, 300 - k))).encode() for k in (300, 250, 150, 0)]
    got = textsketch(*ragged(texts), dims=4096, hashes=512)
    counts, words = zip(*map(naive.grams, texts), strict=True)
    for i in range(1, 4):
        dot = sum(c * counts[i][g] for g, c in counts[0].items())
        cosine = dot / np.sqrt(sum(c * c for c in counts[0].values()) * sum(c * c for c in counts[i].values()))
        assert abs(got.projection[0] @ got.projection[i] - cosine) < 4 / 64
        both = (got.minhash[0] != NO_HASH) | (got.minhash[i] != NO_HASH)
        jaccard = len(words[0] & words[i]) / len(words[0] | words[i])
        assert abs((got.minhash[0] == got.minhash[i])[both].mean() - jaccard) < 0.1
        angle = np.arccos(got.projection[0] @ got.projection[i])
        assert abs(np.bitwise_count(got.simhash[0] ^ got.simhash[i]) - 64 * angle / np.pi) < 13


@pytest.mark.parametrize("options", [{"dims": 100}, {"dims": 32}, {"hashes": 3}, {"hashes": 2048}, {"valid": np.zeros(0, np.uint8)}])
def test_what_is_not_offered_is_refused(options):
    with pytest.raises(ValueError, match="must be"):
        textsketch(*ragged([b"a"]), **options)


@pytest.mark.parametrize("offsets", [[0, 2], [1, 0], [-1, 1]])
def test_offsets_outside_the_data_are_refused(offsets):
    with pytest.raises(ValueError, match="ascend"):
        textsketch(np.zeros(1, np.uint8), np.array(offsets))
