"""device: the choice and its errors, Arrow columns without copies, uploads; CUDA where there is one."""

import logging
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from kernels import device as d

CUDA = d.cuda_missing() is None
needs_cuda = pytest.mark.skipif(not CUDA, reason=str(d.cuda_missing()))


def test_importing_the_kernels_does_not_import_torch():
    code = (
        "import sys, kernels, kernels.device as d, kernels.profile, kernels.evidence, kernels.cardinality, kernels.transitions\n"
        "d.choose('cpu'); sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cpu_is_always_there_and_the_choice_is_logged(caplog):
    with caplog.at_level(logging.INFO, "kernels.device"):
        assert d.choose("cpu").kind == "cpu"
    assert "kernels run on cpu" in caplog.text


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
def test_without_cuda_auto_is_the_cpu_and_cuda_an_error_that_says_what_to_install(caplog):
    with caplog.at_level(logging.INFO, "kernels.device"):
        assert d.choose("auto").kind == "cpu"
    assert str(d.cuda_missing()) in caplog.text
    with pytest.raises(d.DeviceError, match="pip install"):
        d.choose("cuda")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="auto, cuda or cpu"):
        d.choose("tpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int32(), pa.uint64()])
def test_a_column_shares_arrows_memory(kind):
    array = pa.array([1, None, 3, 4, None, 6, 7, 8, 9, 10, 11], kind)[2:]
    values, valid, first_bit = d.column(array)
    assert values.ctypes.data == array.buffers()[1].address + 2 * kind.bit_width // 8
    seen = np.unpackbits(valid, bitorder="little")[first_bit : first_bit + len(array)].astype(bool)
    assert seen.tolist() == [v.is_valid for v in array]
    assert values[seen].tolist() == [v for v in array.to_pylist() if v is not None]


def test_a_column_without_nulls_has_no_bitmap():
    assert d.column(pa.chunked_array([pa.array([1.0, 2.0])])).valid is None
    assert len(d.column(pa.array([], pa.float32())).values) == 0


@pytest.mark.parametrize(
    "array", [pa.array(["a"]), pa.array([True]), pa.array([[1]]), pa.chunked_array([pa.array([1.0]), pa.array([2.0])])]
)
def test_what_is_not_one_run_of_numbers_is_refused(array):
    with pytest.raises(TypeError, match="column of"):
        d.column(array)


def test_on_the_cpu_an_upload_is_the_array_itself():
    pytest.importorskip("torch")
    values = d.column(pa.array([1.0, 2.0])).values  # read-only
    hashes = np.array([2**63 + 1], np.uint64)
    sent = d.Upload(d.Device("cpu", "cpu")).send({"values": values, "hashes": hashes})
    assert sent["values"].data_ptr() == values.ctypes.data
    assert sent["hashes"].tolist() == [-(2**63) + 1]


def test_on_the_cpu_a_tick_is_the_sequence_itself():
    calls = []
    again = d.tick(d.Device("cpu", "cpu"), lambda: calls.append(1))
    again()
    assert calls == [1]


@needs_cuda
def test_uploads_of_changing_sizes_arrive_whole():
    upload = d.Upload(d.choose("cuda"))
    rng = np.random.default_rng(0)
    pending = []
    for n in (10, 100_000, 3, 250_000, 0, 7):
        array = rng.normal(size=n).astype(np.float32)
        pending.append((array, upload.send({"x": array})["x"].double().sum()))
    for array, total in pending:
        np.testing.assert_allclose(total.item(), array.astype(float).sum(), rtol=1e-9, atol=1e-9)


@needs_cuda
def test_a_tick_replays_on_what_its_tensors_hold_then():
    import torch

    x, total = torch.ones(100, device="cuda"), torch.zeros(1, device="cuda")
    again = d.tick(d.choose("cuda"), lambda: total.add_(x.sum()))
    total.zero_()
    again()
    x.fill_(2)
    again()
    assert total.item() == 300
