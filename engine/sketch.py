"""Sketches: additive summaries of one series over one pane of event time. Merging is addition, so cuts and workers do not matter."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sketch:
    """What one partition saw of one series in one pane.

    `pane`: floor(event time / pane length). `arrays`: named integer or fixed-point arrays that add; `values`: raw values, which
    concatenate (a series whose reference is still being learned has nothing to bin by); `names`: what codes among the values stand for.
    """

    detector: str
    series: str
    pane: int
    arrays: dict[str, np.ndarray]
    values: np.ndarray | None = None
    names: dict[str, str] = field(default_factory=dict)


def merged(sketches: list[Sketch]) -> list[Sketch]:
    """One sketch per (detector, series, pane), in order of pane and series; the order of the input does not matter.

    >>> a = Sketch("drift", "m/x", 0, {"counts": np.array([1, 2])})
    >>> merged([a, a])[0].arrays["counts"].tolist()
    [2, 4]
    """
    groups: dict[tuple[int, str, str], list[Sketch]] = {}
    for sketch in sketches:
        groups.setdefault((sketch.pane, sketch.detector, sketch.series), []).append(sketch)
    out = []
    for (pane, detector, series), members in sorted(groups.items()):
        arrays: dict[str, np.ndarray] = {}
        for member in members:
            for name, array in member.arrays.items():
                arrays[name] = arrays[name] + array if name in arrays else array
        values = [m.values for m in members if m.values is not None]
        names = {code: name for m in members for code, name in m.names.items()}
        out.append(Sketch(detector, series, pane, arrays, np.sort(np.concatenate(values)) if values else None, names))
    return out
