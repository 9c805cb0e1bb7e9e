"""Triton kernels run on the GPU where there is one, and in Triton's interpreter, on CPU tensors, where there is none."""

from __future__ import annotations

import os

import pytest

from kernels.device import cuda_missing

if cuda_missing() is not None:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before any gpu.py is imported


@pytest.fixture(scope="package")
def on_gpu():
    """A function that makes a tensor of an array where Triton kernels can run; skips without torch and Triton.

    Meanwhile torch's empty tensors hold NaN, or the largest integer, so that a place which a kernel forgets is seen.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    empty = torch.empty
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def move(array):
        array = array.view("int64") if array.dtype == "uint64" else array
        return torch.from_numpy(array.copy()).to(device)

    def poisoned(*arguments, **options):
        out = empty(*arguments, **options)
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).max)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        patch.setattr(torch, "empty_like", lambda like: poisoned(like.shape, dtype=like.dtype, device=like.device))
        yield move
