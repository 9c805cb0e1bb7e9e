"""Numba's cache finds a build by file, name and line: a function compiled twice, once `parallel`, would load the other's build."""

from importlib import import_module
from pathlib import Path

from numba.core.dispatcher import Dispatcher

import kernels


def test_no_function_is_compiled_twice():
    found = {}
    for path in sorted(Path(kernels.__file__).parent.glob("*/*.py")):
        if path.stem in ("__init__", "gpu"):
            continue
        for value in vars(import_module(f"kernels.{path.parent.name}.{path.stem}")).values():
            if isinstance(value, Dispatcher):
                code = value.py_func.__code__
                found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), set()).add(value)
    assert len(found) > 10
    assert [place for place, builds in found.items() if len(builds) > 1] == []
