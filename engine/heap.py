"""The heap of the process: kept, not given back to the system after every batch; and searched for cycles more rarely.

What a batch needs is freed when it is done with and needed again for the next. Where glibc gives it back each time, the system clears the
same pages over and over: a third of the time of reading records of 250 KB. What a process has used at most it then keeps, up to `KEPT` of
it unused; its limits (`engine.bounded`, the outbox, the polls) bound how much that is.

Python looks for cycles whenever 700 more objects live than did, among all that ever were: a tenth of the time of folding small batches.
What is there at the start is left out of that, and the search comes after 50,000.
"""

from __future__ import annotations

import ctypes
import gc
import sys

KEPT = 128 << 20
MAPPED = 32 << 20
"""What is larger is a mapping of its own and goes back at once."""
COLLECTED = (50_000, 50, 100)
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, as glibc's malloc.h has them."""


def keep() -> bool:
    """Keep what is freed; False, and only the search for cycles changed, where the C library has no `mallopt` (it is not glibc)."""
    gc.freeze()
    gc.set_threshold(*COLLECTED)
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(MMAP_THRESHOLD, MAPPED) and library.mallopt(TRIM_THRESHOLD, KEPT))
