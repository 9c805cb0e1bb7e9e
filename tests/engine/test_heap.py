"""What a process frees it keeps: the same blocks again cost no page faults."""

import resource
import subprocess
import sys

import pytest

CODE = """
import resource, sys
from engine import heap
if sys.argv[1] == "keep":
    assert heap.keep()
def batch():
    blocks = [bytearray(1 << 20) for _ in range(64)]
    for block in blocks:
        block[::4096] = bytes(len(block) // 4096)
for _ in range(3):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is glibc's on Linux alone")
def test_blocks_come_from_what_was_freed() -> None:
    pages = 5 * 64 * (1 << 20) // resource.getpagesize()
    assert faults("leave") > pages / 2
    assert faults("keep") < pages / 100
