"""Triton kernels run on the GPU where there is one, and in Triton's interpreter, on CPU tensors, where there is none."""

from __future__ import annotations

import os

import pytest

from kernels.device import cuda_missing

if cuda_missing() is not None:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before any gpu.py is imported


@pytest.fixture(scope="session")
def on_gpu():
    """A function that makes a tensor of an array where Triton kernels can run; skips without torch and Triton."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def move(array):
        array = array.view("int64") if array.dtype == "uint64" else array
        return torch.from_numpy(array.copy()).to(device)

    return move
