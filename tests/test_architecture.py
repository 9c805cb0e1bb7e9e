"""Import directions, and the shape of the tree: a test decides, not a reviewer."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {"kernels": set(), "streams": set(), "engine": {"kernels", "streams"}, "api": {"engine", "streams"}}
OURS = {*MAY_IMPORT, "tests", "benchmarks"}
FILES = [p for package in MAY_IMPORT for p in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Our top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found & OURS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    assert imports(path) - {package} <= MAY_IMPORT[package]


def test_only_the_entry_point_reads_the_environment():
    allowed = {"engine/config.py"}  # `env:` references to secrets, looked up by the entry point
    users = {str(p.relative_to(ROOT)) for p in FILES if "os.environ" in p.read_text() or "os.getenv" in p.read_text()}
    assert users <= allowed


def test_files_stay_readable():
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_the_main_path_is_short():
    assert len((ROOT / "engine" / "run.py").read_text().splitlines()) < 200


def test_kernels_need_no_torch():
    code = "import sys, kernels; assert not {'torch', 'triton'} & set(sys.modules), 'torch was imported'"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
