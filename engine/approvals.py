"""Approvals: a person lets series learn a new reference. Nothing else replaces a reference, so what poisons traffic slowly can't move it.

They are lines of one file beside the checkpoints, each with the hash of the line before it, so that a line can't be changed or taken out
unseen. The service reads them when it starts; the population's state remembers which ones it has followed.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from engine.baseline import BaselineError

NAME = "approvals.jsonl"


def approve(folder: Path, series: str, by: str, reason: str = "") -> dict[str, Any]:
    """Append an approval, on disk before this returns. `series`: a shell pattern. Raises ValueError without a name or a pattern,
    BaselineError when the file was tampered with."""
    if not series.strip() or not by.strip():
        raise ValueError("an approval needs a series pattern and the name of who approves")
    known = approvals(folder)
    folder.mkdir(parents=True, exist_ok=True)
    line = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "series": series, "by": by, "reason": reason,
        "previous": known[-1]["id"] if known else "",
    }  # fmt: skip
    line["id"] = digest(line)
    with open(folder / NAME, "ab") as file:
        file.write(orjson.dumps(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return line


def approvals(folder: Path) -> list[dict[str, Any]]:
    """All approvals in their order. Raises BaselineError naming the line that is not what was written."""
    path = folder / NAME
    if not path.exists():
        return []
    out: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line = orjson.loads(text)
            said = line.pop("id")
        except (orjson.JSONDecodeError, KeyError, AttributeError) as error:
            raise BaselineError(f"{path}:{number}: not an approval") from error
        if said != digest(line) or line.get("previous") != (out[-1]["id"] if out else ""):
            raise BaselineError(f"{path}:{number}: changed since it was written, or a line before it is missing")
        out.append(line | {"id": said})
    return out


def digest(line: dict[str, Any]) -> str:
    """128 bits in hex of a line without its id, which hold the line before it as well."""
    return hashlib.blake2b(orjson.dumps(line, option=orjson.OPT_SORT_KEYS), digest_size=16, person=b"telltale.approve").hexdigest()
