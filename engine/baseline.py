"""Baselines: references fitted once from known good data, saved, and used by every later run.

A baseline is a folder with one JSON document and, where detectors need them, NumPy arrays beside it. It says what it was made
from: the data's hash, the settings' hash, the time; nothing changes it afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import yaml

FORMAT = 2
DOCUMENT = "baseline.json"


class BaselineError(Exception):
    """A baseline that is missing or can't be read; names the file."""


@dataclass
class Baseline:
    """`parts`: what each detector asked to be kept, by its name: plain data and NumPy arrays. `about`: where it came from."""

    parts: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the folder; an existing baseline in it is replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {}
        parts = {name: lift_arrays(part, name, arrays) for name, part in self.parts.items()}
        if arrays:
            np.savez_compressed(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
        document = {"format": FORMAT, "about": self.about, "parts": parts}
        (folder / DOCUMENT).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))

    @classmethod
    def load(cls, folder: Path) -> Baseline:
        """Read a folder. Raises BaselineError naming the file that is missing or wrong."""
        path = folder / DOCUMENT
        try:
            document = orjson.loads(path.read_bytes())
        except OSError as error:
            raise BaselineError(f"baseline: {path}: {error.strerror}") from error
        except orjson.JSONDecodeError as error:
            raise BaselineError(f"baseline: {path}: not JSON: {error}") from error
        if document.get("format") != FORMAT:
            raise BaselineError(f"baseline: {path}: format {document.get('format')!r}, this version reads {FORMAT}")
        arrays: dict[str, np.ndarray] = {}
        if (folder / "arrays.npz").exists():
            with np.load(folder / "arrays.npz", allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        return cls({name: put_arrays(part, arrays) for name, part in document["parts"].items()}, document["about"])


def lift_arrays(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """Plain data, with each NumPy array moved to `arrays` and its name left in its place."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"$array": path}
    if isinstance(value, dict):
        return {k: lift_arrays(v, f"{path}/{k}", arrays) for k, v in value.items()}
    return value


def put_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The reverse of `lift_arrays`."""
    if isinstance(value, dict):
        if set(value) == {"$array"}:
            return arrays[value["$array"]]
        return {k: put_arrays(v, arrays) for k, v in value.items()}
    return value


def file_hash(path: Path, kind: Literal["sha256", "md5"] = "sha256") -> str:
    """The digest of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def data_versions(inputs: Sequence[Path]) -> dict[str, dict[str, str]]:
    """What identifies the data by file name: sha256 of every file (of a folder, of all in it), and DVC's md5 where `NAME.dvc` stands beside
    it. Raises BaselineError when DVC's file can't be read, or the data is not what it was made of."""
    out: dict[str, dict[str, str]] = {}
    for path in inputs:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            out[str(file.relative_to(path.parent))] = {"sha256": file_hash(file)}
        tracked = path.with_name(f"{path.name}.dvc")
        if tracked.is_file():
            version = out.setdefault(path.name, {})
            version["dvc_md5"] = dvc_md5(tracked)
            if path.is_file() and version["dvc_md5"] != file_hash(path, "md5"):
                raise BaselineError(f"baseline: {path}: not the data that {tracked.name} tracks; `dvc checkout` or `dvc add` it")
    return out


def dvc_md5(tracked: Path) -> str:
    """The md5 that a `.dvc` file gives its one output. Raises BaselineError naming the file."""
    try:
        return str(yaml.safe_load(tracked.read_text())["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise BaselineError(f"baseline: {tracked}: not a DVC file with an output's md5") from error
