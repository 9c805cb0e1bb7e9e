"""What the documentation says is so: docstring examples run, commands and targets exist."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
from typer.main import get_command

from engine.cli import app

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("engine", "streams", "api", "benchmarks/quality")
    for p in sorted((ROOT / package).rglob("*.py"))
    if ">>>" in p.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not result.failed


def test_commands_and_targets_of_the_readme_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(re.findall(r"make ([a-z-]+)", readme)) <= targets
    commands = get_command(app).commands
    assert set(re.findall(r"telltale (run|api|check|backtest|baseline|demo|bench|warm)\b", readme)) == set(commands)


def test_links_point_somewhere():
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (ROOT / link).exists(), f"{page.name}: {link}"


def test_every_package_that_is_imported_is_a_dependency():
    """Names on PyPI differ from import names; those that do are listed."""
    declared = (ROOT / "pyproject.toml").read_text().lower()
    other = {"yaml": "pyyaml", "sklearn": "scikit-learn", "google": "opentelemetry-proto", "llvmlite": "numba", "kafka": "kafka-python",
             "opentelemetry": "opentelemetry-proto", "starlette": "fastapi", "prometheus_client": "prometheus-client"}  # fmt: skip
    found = {
        word
        for package in ("kernels", "streams", "engine", "api")
        for p in (ROOT / package).rglob("*.py")
        for word in re.findall(r"^\s*(?:import|from) ([a-z_0-9]+)", p.read_text(), re.M)
    }
    import sys

    outside = {w for w in found if w not in sys.stdlib_module_names | {"kernels", "streams", "engine", "api", "the", "so", "all"}}
    assert {w for w in outside if f'"{other.get(w, w)}' not in declared} == set()
