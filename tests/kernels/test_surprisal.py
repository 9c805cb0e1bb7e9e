"""surprisal: hashed counts against dictionaries, and what one's own counts left out means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import surprisal
from tests.naive.surprisal import Model, lowered, sequences

TEXTS = [
    b"The cat sat on the mat.", b"A man, a plan: 1234 canals - PANAMA!", "Caf\u00e9 na\u00efve \u6f22\u5b57".encode(), b"x", b"  ",
    b"THE CAT sat on 12 mats, 1234567 times; the dog did not.", b"the the the the",
]  # fmt: skip


def ragged(texts):
    return np.frombuffer(b"".join(texts), np.uint8), np.append(0, np.cumsum([len(t) for t in texts])).astype(np.int64)


def test_common_words_are_those_of_most_texts():
    texts = [b"The Cat", b"the dog", b"THE end", b"cat the", b"cat"]
    got = surprisal.common_words(*ragged(texts), most=2)
    both = surprisal.common_words(*ragged([b"the cat"] * 3))
    np.testing.assert_array_equal(got, both)
    assert len(surprisal.common_words(*ragged(texts), most=1)) == 1
    assert len(surprisal.common_words(*ragged(texts), least=5)) == 0


@pytest.mark.parametrize("words", [[], [b"the", b"on"]])
def test_bits_equal_the_oracle(words):
    data, starts = ragged(TEXTS)
    common = surprisal.common_words(*ragged(words * 3)) if words else np.empty(0, np.uint64)
    table, totals = surprisal.new_model()
    surprisal.count(data, starts, common, table, totals)
    model = Model()
    for text in TEXTS:
        model.count(text, set(words))
    got, _ = surprisal.features(data, starts, common, table, totals)
    fresh, _ = surprisal.features(data, starts, common, table, totals, own=True)
    assert totals.tolist() == model.totals
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(got[i, :3], model.bits(text, set(words)), atol=0.01)
        model.count(text, set(words), -1, totals=False)
        np.testing.assert_allclose(fresh[i, :3], model.bits(text, set(words)), atol=0.01)
        model.count(text, set(words), 1, totals=False)


def test_counts_are_as_before_after_features_with_own_left_out():
    data, starts = ragged(TEXTS)
    common = np.empty(0, np.uint64)
    table, totals = surprisal.new_model()
    surprisal.count(data, starts, common, table, totals)
    before = table.copy()
    surprisal.features(data, starts, common, table, totals, own=True)
    np.testing.assert_array_equal(table, before)
    surprisal.count(data, starts, common, table, totals, sign=-1)
    assert not table.any()
    assert not totals.any()


def test_merging_is_addition():
    common = np.empty(0, np.uint64)
    whole, parts = surprisal.new_model(), [surprisal.new_model() for _ in range(2)]
    surprisal.count(*ragged(TEXTS), common, *whole)
    surprisal.count(*ragged(TEXTS[:3]), common, *parts[0])
    surprisal.count(*ragged(TEXTS[3:]), common, *parts[1])
    np.testing.assert_array_equal(parts[0][0] + parts[1][0], whole[0])
    np.testing.assert_array_equal(parts[0][1] + parts[1][1], whole[1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_shape_features_of_any_bytes(texts):
    data, starts = ragged(texts)
    got, minhash = surprisal.features(data, starts, np.empty(0, np.uint64), *surprisal.new_model())
    for row, text, hashes in zip(got, texts, minhash, strict=True):
        if not text:
            assert np.isnan(row).all()
            assert not hashes.any()
            continue
        words = [lowered(w) for w in map(bytes, sequences(text, set())[1])]
        named = dict(zip(surprisal.FEATURES, row.tolist(), strict=True))
        assert named["log_bytes"] == pytest.approx(np.log(len(text)), rel=1e-6)
        assert named["log_words"] == pytest.approx(np.log(max(1, len(words))), abs=1e-6)
        assert named["upper_share"] == pytest.approx(sum(65 <= b <= 90 for b in text) / len(text), abs=1e-6)
        assert named["distinct_words"] == pytest.approx(len(set(words)) / max(1, len(words)), abs=1e-6)
        assert named["unseen_words"] == (1.0 if words else 0.0)


def test_equal_hashes_estimate_the_likeness_of_word_grams():
    rng, vocabulary = np.random.default_rng(0), [f"w{i}".translate(str.maketrans("0123456789", "abcdefghij")) for i in range(5000)]
    found, true = [], []
    for kept in np.linspace(0, 1, 200):
        a = [vocabulary[i] for i in rng.integers(0, 5000, 60)]
        b = [w if rng.random() < kept else vocabulary[rng.integers(0, 5000)] for w in a]
        grams = [set(t) | set(zip(t, t[1:], strict=False)) for t in (a, b)]
        true.append(len(grams[0] & grams[1]) / len(grams[0] | grams[1]))
        texts = ragged([" ".join(a).encode(), " ".join(b).upper().encode()])
        _, (first, second) = surprisal.features(*texts, np.empty(0, np.uint64), *surprisal.new_model())
        found.append(((first == second) & (first > 0)).sum() / ((first > 0) | (second > 0)).sum())
    assert abs(np.mean(np.array(found) - true)) < 0.03
    assert np.corrcoef(found, true)[0, 1] > 0.93


def test_only_the_first_bytes_are_scored_but_the_length_counts():
    long = b"word " * 1000
    got, _ = surprisal.features(*ragged([long, long[: surprisal.MAX_BYTES]]), np.empty(0, np.uint64), *surprisal.new_model())
    np.testing.assert_array_equal(got[0, :5], got[1, :5])
    assert got[0, 5] == np.float32(np.log(len(long)))


def test_ragged_input_is_checked():
    with pytest.raises(ValueError, match="ascend"):
        surprisal.hashes(np.zeros(3, np.uint8), np.array([0, 5]))
    with pytest.raises(ValueError, match="uint8"):
        surprisal.hashes(np.zeros(3, np.int8), np.array([0, 3]))
