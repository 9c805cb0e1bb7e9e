"""Batches: embeddings come out as they went in, without a copy where none is missing."""

import numpy as np
import pyarrow as pa
import pytest

from engine.batch import SKETCH, Batch

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def batch(column: pa.Array) -> Batch:
    table = pa.RecordBatch.from_arrays([column], names=["embedding"])
    return Batch("inference", table, np.arange(len(column)), np.arange(len(column)))


KINDS = [pa.list_(pa.float32(), 3), pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float16(), 3)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_vectors_of_every_kind_of_list(kind):
    whole = batch(pa.array(VALUES.astype(np.float16).tolist() if "halffloat" in str(kind) else VALUES.tolist(), kind))
    np.testing.assert_array_equal(whole.vectors("embedding"), VALUES)
    np.testing.assert_array_equal(batch(whole.array("embedding").slice(1, 2)).vectors("embedding"), VALUES[1:3])
    with pytest.raises(ValueError, match="read-only"):
        whole.vectors("embedding")[0] = 1


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 3), pa.list_(pa.float32())], ids=str)
def test_whole_columns_are_not_copied(kind):
    column = pa.array(VALUES.tolist(), kind)
    got = batch(column).vectors("embedding")
    assert got.ctypes.data == column.flatten().buffers()[1].address


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 2), pa.list_(pa.float32())], ids=str)
def test_a_row_without_a_vector_is_nan(kind):
    got = batch(pa.array([[1, 2], None, [3, None]], kind)).vectors("embedding")
    np.testing.assert_array_equal(got, [[1, 2], [np.nan, np.nan], [3, np.nan]])


def test_the_commonest_width_counts():
    got = batch(pa.array([[1, 2], [3], [4, 5], []], pa.list_(pa.float32()))).vectors("embedding")
    np.testing.assert_array_equal(got, [[1, 2], [np.nan, np.nan], [4, 5], [np.nan, np.nan]])


@pytest.mark.parametrize(
    "column", [pa.nulls(2, pa.list_(pa.float32(), 3)), pa.nulls(2, pa.list_(pa.float32())), pa.array([[]], pa.list_(pa.float32()))]
)
def test_no_vectors_at_all(column):
    assert batch(column).vectors("embedding") is None
    assert batch(column).sketches("embedding") is None
    assert batch(column.slice(0, 0)).vectors("embedding") is None


def test_sketches_are_made_once_and_tell_rows_without_a_vector():
    x = np.random.default_rng(0).normal(size=(3, 2 * SKETCH)).astype(np.float32)
    x[1, 5] = np.nan
    rows = batch(pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1]))
    short, lengths = rows.sketches("embedding")
    assert short.shape == (3, SKETCH)
    assert np.isfinite(lengths).tolist() == [True, False, True]
    np.testing.assert_allclose(lengths[[0, 2]], np.linalg.norm(x[[0, 2]].astype(np.float64), axis=1))
    assert rows.sketches("embedding")[0] is short
