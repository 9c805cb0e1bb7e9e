"""What a model was asked and what it answered, as serving systems log it: KServe v1 and v2, OpenAI's API, CSV. To columns of
`inference`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from streams import names
from streams.decode.attributes import as_type, jsonable

MOST_FEATURES = 256
"""An instance with more numbers than this is an image or a vector, not features."""
MOST_ROWS = 4096
OPENAI_REQUEST = {"model": "model", "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "temperature": "temperature",
                  "top_p": "top_p", "n": "choices", "stream": "stream", "user": "principal"}  # fmt: skip
OPENAI_USAGE = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}


def request_rows(data: Any) -> list[dict[str, Any]]:
    """A row for each instance of a request.

    >>> request_rows({"instances": [[1, 2.5], [3, 4]]})
    [{'feature.0': 1.0, 'feature.1': 2.5}, {'feature.0': 3.0, 'feature.1': 4.0}]
    """
    if isinstance(data, dict):
        if "messages" in data or ("prompt" in data and "instances" not in data):
            content = data.get("messages", data.get("prompt"))
            return [picked(data, OPENAI_REQUEST) | {"prompt": as_type(content, names.CONTENT)}]
        if isinstance(data.get("instances"), list):
            return [features(item) for item in data["instances"][:MOST_ROWS]]
        if isinstance(data.get("inputs"), list) and all(isinstance(t, dict) for t in data["inputs"]):
            return tensors(data["inputs"])
        return [features(data)]
    return [features(item) for item in data[:MOST_ROWS]] if isinstance(data, list) else [features(data)]


def response_rows(data: Any) -> list[dict[str, Any]]:
    """A row for each answer.

    >>> response_rows({"predictions": [[0.1, 0.9], "cat"]})
    [{'predicted': '1', 'confidence': 0.9}, {'predicted': 'cat'}]
    """
    if isinstance(data, dict):
        if isinstance(data.get("choices"), list):
            usage = data["usage"] if isinstance(data.get("usage"), dict) else {}
            first = data["choices"][0] if data["choices"] and isinstance(data["choices"][0], dict) else {}
            return [picked(data, {"model": "model"}) | picked(usage, OPENAI_USAGE) | picked(first, {"finish_reason": "finish_reason"})]
        if isinstance(data.get("predictions"), list):
            return [prediction(item) for item in data["predictions"][:MOST_ROWS]]
        if isinstance(data.get("outputs"), list) and data["outputs"] and isinstance(data["outputs"][0], dict):
            return [prediction(next(iter(row.values())) if len(row) == 1 else list(row.values())) for row in tensors(data["outputs"][:1])]
        return [prediction(data)]
    return [prediction(item) for item in data[:MOST_ROWS]] if isinstance(data, list) else [prediction(data)]


def picked(data: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The values that are there and of their columns' types."""
    found: dict[str, Any] = {}
    for key, name in columns.items():
        column = names.COLUMNS["inference"][name]
        if key in data and (value := as_type(data[key], column.type)) is not None:
            found[name] = value
    return found


def features(instance: Any) -> dict[str, Any]:
    """Columns `feature.<name>` of one instance: its keys, or the places in a list."""
    pairs: Iterable[tuple[str, Any]]
    if isinstance(instance, dict):
        pairs = instance.items()
    elif isinstance(instance, list):
        pairs = ((str(k), v) for k, v in enumerate(instance))
    else:
        pairs = [("0", instance)]
    found = {f"feature.{name}": value for name, item in pairs if name and (value := scalar(item)) is not None}
    return found if len(found) <= MOST_FEATURES else {}


def scalar(value: Any) -> float | str | None:
    """A number or a text; None for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool | int | float):
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None
    return value if isinstance(value, str) else None


def tensors(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of KServe v2 tensors: the first axis is the batch."""
    rows: list[dict[str, Any]] = []
    for tensor in inputs:
        name, shape, data = tensor.get("name"), tensor.get("shape"), tensor.get("data")
        if not isinstance(name, str) or not isinstance(shape, list) or not isinstance(data, list) or not shape:
            continue
        flat = list(flattened(data))
        count = shape[0] if isinstance(shape[0], int) and 0 < shape[0] <= MOST_ROWS else 0
        width = len(flat) // count if count else 0
        if not width or width * count != len(flat) or width > MOST_FEATURES:
            continue
        rows += [{} for _ in range(count - len(rows))]
        for k in range(count):
            for j in range(width):
                if (value := scalar(flat[k * width + j])) is not None:
                    rows[k][f"feature.{name}" if width == 1 else f"feature.{name}.{j}"] = value
    return rows


def flattened(data: Any) -> Iterable[Any]:
    """The leaves of nested lists, at most six deep as tensors are."""
    level = [data]
    for _ in range(6):
        level = [x for item in level for x in (item if isinstance(item, list) else [item])]
    return level


def prediction(value: Any) -> dict[str, Any]:
    """`predicted` and `confidence`: a label, a number, or a probability for each class. A number that is no class is a feature as well."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and value and all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        best = max(range(len(value)), key=value.__getitem__)
        return {"predicted": str(best)} | ({"confidence": float(value[best])} if 0 <= value[best] <= 1 else {})
    if isinstance(value, float) and math.isfinite(value) and value != int(value):
        return {"feature.prediction": value}
    if isinstance(value, str | bool | int | float):
        return {"predicted": value if isinstance(value, str) else orjson.dumps(jsonable(value)).decode()}
    if isinstance(value, dict):
        label = next((value[k] for k in ("label", "class", "predicted", "prediction") if k in value), None)
        score = next((value[k] for k in ("score", "confidence", "probability") if k in value), None)
        return {
            k: v
            for k, v in (
                ("predicted", as_type(label, names.TEXT)),
                ("confidence", as_type(score, names.COLUMNS["inference"]["confidence"].type)),
            )
            if v is not None
        }
    return {}


def settled(rows: Sequence[dict[str, Any]]) -> None:
    """Make each feature one of text or numbers: text where any row has text."""
    for name in {n for row in rows for n in row if n.startswith("feature.")}:
        if any(isinstance(row.get(name), str) for row in rows):
            for row in rows:
                if name in row and not isinstance(row[name], str):
                    row[name] = repr(row[name])
