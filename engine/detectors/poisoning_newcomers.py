"""Sources that the reference does not know, judged together as one source: many with a few rows each are many rows of one origin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.detectors.poisoning_windows import LAST_MEMBERS, SEPARATOR, Windows
from engine.sketch import Sketch, added

NEWCOMERS = "new sources"


def pooled(sketches: Sequence[Sketch], known: frozenset[str], windows: Windows) -> list[Sketch]:
    """One sketch per class of all sources that the reference does not have, and note whose rows they were."""
    by_label: dict[str, list[Sketch]] = {}
    for sketch in sketches:
        source, label = sketch.series.split(SEPARATOR, 1)
        if source not in known:
            by_label.setdefault(label, []).append(sketch)
    out = []
    for label, members in sorted(by_label.items()):
        key = f"{NEWCOMERS}{SEPARATOR}{label}"
        windows.note_members(key, sorted((int(pane), m.series) for m in members for pane in m.panes.tolist()), LAST_MEMBERS)
        panes, counts = added(np.concatenate([m.panes for m in members]), np.concatenate([m.counts for m in members]))
        names = {code: item for m in members for code, item in m.names.items()}
        out.append(Sketch(members[0].detector, key, panes, counts, names=names))
    return out
