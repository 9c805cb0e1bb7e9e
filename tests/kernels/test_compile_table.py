"""Every Triton kernel compiles for every architecture, within the committed registers, stack and shared memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.compile_table import KERNELS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.gpu_code


def test_every_kernel_has_a_row():
    launched = {
        f"kernels.{file.parent.name}.gpu:{name}"
        for file in ROOT.glob("kernels/*/gpu.py")
        for name in re.findall(r"^def (\w+_kernel)\(", file.read_text(), re.MULTILINE)
    }
    assert launched == {kernel.path for kernel in KERNELS}


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is for Linux")
def test_kernels_stay_within_their_limits():
    pytest.importorskip("triton")
    pytest.importorskip("torch")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_table", "--check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
