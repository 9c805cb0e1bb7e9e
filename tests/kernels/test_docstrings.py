"""The examples in the kernels' docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import kernels

MODULES = [m.name for m in pkgutil.walk_packages(kernels.__path__, "kernels.") if not m.name.endswith(".gpu")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
