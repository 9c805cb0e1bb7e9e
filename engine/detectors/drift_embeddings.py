"""Drift of meaning: do a model's embeddings, or its prompts, still come from where they came from? One test per model, on all partitions.

observe   maps each row to random Fourier features and adds them up by pane of event time (`kernels.rff`); a producer's `embedding`, and of
          prompts the projection of their hashed n-grams (`kernels.textsketch`). Embeddings of more than 256 numbers are sketched to as many
          (`kernels.countsketch`). A row is taken at length 1, with half the logarithm of its length beside it, so that one set of
          bandwidths (1/4 to 2) serves every model of embeddings
merge     adds the panes of all partitions; a window closes when it has 256, 1,024 or 4,096 rows
judge     the squared maximum mean discrepancy (MMD) between window and reference. Its null is a sum of chi-squares; their first three
          moments, and how much the stream wanders by itself (tau), are learned from blocks of the reference

Fails, as every mean of features does, on a small share of foreign rows (see `extraction`), and when the reference is not representative.
Score: -log10 p, higher is more anomalous. Gretton et al. 2012, A Kernel Two-Sample Test; Hall 1983 and Buckley and Eagleson 1988 on
sums of chi-squares by three moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine import samples
from engine.batch import Batch
from engine.detectors.drift_statistics import log10_tail
from engine.detectors.drift_windows import SCALES
from engine.detectors.extraction_views import ragged
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.sketch import Sketch, added
from engine.state import ArraySpec, State
from kernels import countsketch, rff
from kernels.textsketch import textsketch

FEATURES = 512
SIGMA = 0.5
TEXT_DIMS = 256
BLOCK_ROWS = 64
LEARNING_PANES = 8
MOST_BLOCKS = 1024
SHORTEST = float(np.finfo(np.float32).tiny)


def unit(vectors: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32[rows, d + 1]: these vectors at length 1, and half the logarithm of their lengths."""
    if len(rows) < len(vectors):
        vectors, lengths = vectors[rows], lengths[rows]
    out = np.empty((len(vectors), vectors.shape[1] + 1), np.float32)
    np.multiply(vectors, (1 / lengths).astype(np.float32)[:, None], out=out[:, :-1])
    out[:, -1] = np.log(lengths) / 2
    return out


class DriftEmbeddingsSettings(Settings):
    """`reference_rows`: rows of a model that its reference is learned from, where no baseline gives it. `mmd_floor`: least squared MMD,
    net of chance. `prompts`: follow the texts of prompts as well as embeddings. `max_series`: followed at most in a partition (a length of
    embeddings is a series of its own); rows of further ones are counted and left out."""

    reference_rows: int = Field(2048, ge=512)
    mmd_floor: float = Field(0.002, ge=0)
    prompts: bool = True
    max_series: int = Field(1000, gt=0)
    quiet_s: float = Field(3600.0, gt=0)


@dataclass
class Cloud:
    """A reference: the sums of features of consecutive blocks of at least 64 rows, int64[B, 513], rows in the last column."""

    blocks: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rows(self) -> int:
        """Rows of all blocks."""
        return int(self.blocks[:, -1].sum())

    @cached_property
    def mean(self) -> np.ndarray:
        """float64[512]: the mean features."""
        return rff.mean_features(self.blocks[:, :-1].sum(axis=0), self.rows)

    @cached_property
    def null(self) -> tuple[float, float, float, float]:
        """(tau, degrees of freedom, scale, shift): n m / (n + m) MMD^2 / (1 + tau n m / (n + m)) is about shift + scale chi-square.

        The trace of the features' covariance is known, since their length is 1; its square's and cube's follow from inner products of
        different blocks' means, which have no bias.
        """
        n = self.blocks[:, -1].astype(np.float64)
        away = (rff.mean_features(self.blocks[:, :-1], n) - self.mean) * np.sqrt(n)[:, None]
        gram = away @ away.T
        b = len(n)
        trace = max(1e-9, 1.0 - float((self.mean**2).sum()))
        ratio = float(np.trace(gram)) / (b - 1) / trace
        np.fill_diagonal(gram, 0.0)
        second = float((gram**2).sum()) / (b * (b - 1))
        third = max(0.0, float(np.trace(gram @ gram @ gram))) / (b * (b - 1) * (b - 2))
        tau = max(0.0, (ratio * (1 + np.sqrt(2 * second / trace**2 / b)) - 1) / float(n.mean()))
        second, third = max(second, trace**2 / FEATURES) / max(1.0, ratio) ** 2, third / max(1.0, ratio) ** 3
        third = max(third, second**2 / trace)
        df = second**3 / third**2
        scale = float(np.sqrt(second / df))
        return tau, float(df), scale, trace - float(df) * scale

    def judge(self, sums: np.ndarray) -> tuple[float, float, float]:
        """(log10 p, squared MMD, and what of it chance does not explain) of a window's sums int64[513]."""
        n, m = float(sums[-1]), float(self.rows)
        tau, df, scale, shift = self.null
        distance = float(((rff.mean_features(sums[:-1], n) - self.mean) ** 2).sum())
        weight = n * m / (n + m)
        x = (distance * weight / (1 + tau * weight) - shift) / scale
        net = distance - max(0.0, 1 - float((self.mean**2).sum())) * (1 / weight + tau)
        return float(log10_tail(np.array([max(0.0, x)]), np.array([df]))[0]), distance, net

    def histogram(self, distance: float, rows: int) -> list[dict[str, Any]]:
        """How far blocks of the reference lie from its mean, and where a window of so many rows with this distance does; in units that do
        not depend on the number of rows: n MMD^2 / (1 + n tau)."""
        n, tau = self.blocks[:, -1].astype(np.float64), self.null[0]
        away = ((rff.mean_features(self.blocks[:, :-1], n) - self.mean) ** 2).sum(axis=1)
        blocks, window = away * n / (1 + tau * n), distance * rows / (1 + tau * rows)
        edges = np.unique(np.quantile(blocks, np.linspace(0.25, 1, 4)))
        words = [f"up to {edge:.3g}" for edge in edges.tolist()] + [f"over {edges[-1]:.3g}"]
        counts = np.bincount(np.searchsorted(edges, blocks), minlength=len(words)).tolist()
        at = int(np.searchsorted(edges, window))
        return [{"bin": word, "reference": counts[i], "window": int(i == at)} for i, word in enumerate(words)]

    def record(self) -> dict[str, Any]:
        """Plain data and an array, for checkpoints and baselines."""
        return {"blocks": self.blocks, "about": self.about}


class DriftEmbeddings:
    """RFF-MMD of a model's embeddings and prompts. The population's state: a reference and three windows per series."""

    name: ClassVar[str] = "drift_embeddings"
    streams: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(self, settings: DriftEmbeddingsSettings, context: Context):
        self.settings = settings
        self.budget = context.budget
        self.pane_us = context.pane_us
        self.approvals = context.approvals
        self.reference_rows = 1 << 40 if context.fitting else settings.reference_rows
        known: dict[str, dict[str, Any]] = context.baseline.get(self.name, {})
        self.clouds: dict[str, Cloud] = {series: Cloud(r["blocks"], context.about) for series, r in known.items()}
        self.frequencies: dict[int, np.ndarray] = {}

    def arrays(self) -> Sequence[ArraySpec]:
        return ()

    def population_arrays(self) -> Sequence[ArraySpec]:
        return (
            ArraySpec("drift_embeddings.window", "int64", ("drift_embeddings.series", len(SCALES), FEATURES + 1)),
            ArraySpec("drift_embeddings.since_us", "int64", ("drift_embeddings.series", len(SCALES)), 0),
            ArraySpec("drift_embeddings.started_us", "int64", ("drift_embeddings.series",), 0),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Add the features of rows that have an embedding or a prompt; late rows are left out."""
        views = []
        if "embedding" in batch.columns and (sketches := batch.sketches("embedding")) is not None:
            width = batch.vectors("embedding").shape[1]  # type: ignore[union-attr]
            views.append((f"embedding[{width}]", *sketches))
        if self.settings.prompts and "prompt" in batch.columns:
            texts = ragged(batch.array("prompt"))
            projection = textsketch(texts["data"], texts["starts"], dims=TEXT_DIMS, hashes=0).projection
            projection[np.diff(texts["starts"]) == 0] = np.nan
            views.append(("prompt", *countsketch.sketched(projection, TEXT_DIMS)))
        if not views:
            return
        codes, models = batch.keys(("model",))
        pane = batch.time_us // self.pane_us
        samples.fold(state, self.name, batch, pane, self.pane_us, np.where(batch.late, -1, codes), models)
        for view, short, lengths in views:
            here = ~batch.late & np.isfinite(lengths) & (lengths >= SHORTEST)
            for code in np.unique(codes[here]).tolist():
                rows = np.flatnonzero(here & (codes == code))
                self._fold(state, f"{models[code]}/{view}", pane[rows], unit(short, lengths, rows))

    def _fold(self, state: State, series: str, pane: np.ndarray, unit: np.ndarray) -> None:
        seen = state.records.setdefault("drift_embeddings.seen", {})
        if series not in seen and len(seen) >= self.settings.max_series:
            state.records["drift_embeddings.refused"] = state.records.get("drift_embeddings.refused", 0) + len(unit)
            return
        seen[series] = True
        dims = unit.shape[1]
        if dims not in self.frequencies:
            self.frequencies[dims] = rff.frequencies(dims, FEATURES, SIGMA)
        panes, of_row = np.unique(pane, return_inverse=True)
        sums, counts = rff.empty(len(panes), FEATURES)
        rff.rff(unit, of_row.astype(np.int32), self.frequencies[dims], sums, counts)
        new = np.column_stack([panes, sums, counts])
        name = f"drift_embeddings.panes/{series}"
        kept = np.concatenate([state.arrays[name], new]) if name in state.arrays else new
        panes, totals = added(kept[:, 0], kept[:, 1:])
        state.arrays[name] = np.column_stack([panes, totals])

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then, and no trace of them in the state."""
        sketches = []
        for name in [n for n in state.arrays if n.startswith("drift_embeddings.panes/")]:
            kept = state.arrays.pop(name)
            closed = kept[:, 0] < before_us // self.pane_us
            if not closed.all():
                state.arrays[name] = kept[~closed]
            if closed.any():
                sketches.append(Sketch(self.name, name.partition("/")[2], kept[closed, 0], kept[closed, 1:]))
        return sketches

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Add merged panes to what is being learned or to the windows; full windows go to `judge`."""
        self._restore(state)
        for sketch in sketches:
            first = 0
            if sketch.series not in self.clouds:
                first = self._learn(state, sketch)
            for at in range(first, len(sketch.panes)):
                self._add(state, sketch.series, int(sketch.panes[at]), sketch.counts[at])

    def _learn(self, state: State, sketch: Sketch) -> int:
        """Add panes to blocks until there are enough rows; returns the first pane after the reference."""
        name, record = f"drift_embeddings.learning/{sketch.series}", state.records.setdefault("drift_embeddings.learning", {})
        blocks = state.arrays.get(name, np.zeros((0, FEATURES + 1), np.int64))
        told = record.setdefault(sketch.series, {"panes": 0, "from_us": int(sketch.panes[0]) * self.pane_us})
        grown, at = [blocks], 0
        last = blocks[-1].copy() if len(blocks) and blocks[-1, -1] < BLOCK_ROWS else None
        if last is not None:
            grown = [blocks[:-1]]
        rows = int(blocks[:, -1].sum())
        for at in range(len(sketch.panes)):
            last = sketch.counts[at].copy() if last is None else last + sketch.counts[at]
            rows, told["panes"] = rows + int(sketch.counts[at, -1]), told["panes"] + 1
            if last[-1] >= BLOCK_ROWS:
                grown.append(last[None])
                last = None
            if rows >= self.reference_rows and told["panes"] >= LEARNING_PANES:
                about = {"source": "stream", "from_us": told["from_us"], "to_us": (int(sketch.panes[at]) + 1) * self.pane_us}
                whole = np.concatenate(grown)
                self.clouds[sketch.series] = Cloud(whole, about)
                state.arrays[f"drift_embeddings.known/{sketch.series}"] = whole
                state.records.setdefault("drift_embeddings.about", {})[sketch.series] = about
                state.arrays.pop(name, None)
                del record[sketch.series]
                return at + 1
        state.arrays[name] = np.concatenate([*grown, last[None]] if last is not None else grown)
        return len(sketch.panes)

    def _add(self, state: State, series: str, pane: int, counts: np.ndarray) -> None:
        known = series in state.table("drift_embeddings.series").index
        slot = int(state.slots("drift_embeddings.series", [series], pane * self.pane_us)[0])
        window, since = state["drift_embeddings.window"][slot], state["drift_embeddings.since_us"][slot]
        if not known:
            since[:] = state["drift_embeddings.started_us"][slot] = pane * self.pane_us
        window += counts
        for i, scale in enumerate(SCALES):
            if window[i, -1] >= scale:
                end_us = (pane + 1) * self.pane_us
                state.pending.setdefault(self.name, []).append((series, i, int(since[i]), end_us, window[i].copy()))
                window[i], since[i] = 0, end_us

    def judge(self, state: State, now_us: int) -> Judgement:
        """Test the windows that are full."""
        judgement, rows = Judgement(), []
        started = np.sort(state["drift_embeddings.started_us"][sorted(state.table("drift_embeddings.series").index.values())])
        for series, _, since_us, end_us, sums in state.pending.pop(self.name, []):
            log10_p, distance, net = self.clouds[series].judge(sums)
            alpha = self.budget.alpha(self.name, end_us - since_us, int(np.searchsorted(started, end_us)) * len(SCALES))
            alarm = bool(log10_p < np.log10(alpha) and net >= self.settings.mmd_floor)
            rows.append((series, end_us, -log10_p, -float(np.log10(alpha)), alarm))
            if alarm:
                judgement.findings.append(self._finding(series, since_us, end_us, sums, log10_p, distance, -float(np.log10(alpha))))
        if rows:
            keys = sorted({r[0] for r in rows})
            _, end, score, threshold, alarms = (np.array(column) for column in zip(*rows, strict=True))
            place = np.array([keys.index(r[0]) for r in rows], np.int32)
            judgement.scores = [Scores(self.name, "inference", keys, place, end.astype(np.int64), score, threshold, alarms)]
        return judgement

    def _finding(
        self, series: str, since_us: int, end_us: int, sums: np.ndarray, log10_p: float, distance: float, threshold: float
    ) -> Finding:  # fmt: skip
        cloud, rows = self.clouds[series], int(sums[-1])
        model, view = series.rsplit("/", 1)
        p_value, tau = 10.0 ** max(-300.0, log10_p), cloud.null[0]
        alike, before = (float((v**2).sum()) for v in (rff.mean_features(sums[:-1], rows), cloud.mean))
        return Finding(
            self.name, "inference", series, end_us, end_us, "warning" if distance < 0.1 else "error",
            title=f"{view} of {model} drifted from its reference",
            summary=f"squared MMD {distance:.4f} over {rows} rows (p = {p_value:.1e}).",
            score=-log10_p, threshold=threshold, p_value=p_value,
            evidence={
                "statistic": "MMD", "mmd2": distance, "null": "a sum of chi-squares, by three moments of the reference's blocks",
                "degrees_of_freedom": cloud.null[1], "wander": 1 + tau * rows, "features": FEATURES,
                "window": {"from_us": since_us, "to_us": end_us, "rows": rows}, "reference": {"rows": cloud.rows} | cloud.about,
                "histogram": cloud.histogram(distance, rows), "mean_similarity": {"reference": round(before, 6), "window": round(alike, 6)},
            },
            labels={"model": model, "feature": view}, tags=("NIST AI RMF MEASURE 2.4", "OWASP ML08:2023"),
            quiet_us=max(int(self.settings.quiet_s * 1e6), 2 * (end_us - since_us)), sampled=(model,),
        )  # fmt: skip

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: the blocks of every series that has some, at most 1,024 of them."""
        out = {}
        for name, blocks in population.arrays.items():
            if name.startswith("drift_embeddings.learning/") and len(blocks) >= LEARNING_PANES:
                starts = np.arange(0, len(blocks), -(-len(blocks) // MOST_BLOCKS))
                out[name.partition("/")[2]] = Cloud(np.add.reduceat(blocks, starts, axis=0)).record()
        return out

    def _restore(self, state: State) -> None:
        prefix = "drift_embeddings.known/"
        for name in [n for n in state.arrays if n.startswith(prefix)]:
            series = name.removeprefix(prefix)
            if series not in self.clouds:
                self.clouds[series] = Cloud(state.arrays[name], state.records["drift_embeddings.about"][series])
        done: dict[str, list[str]] = state.records.setdefault("drift_embeddings.approved", {})
        for approval in self.approvals:
            if approval["id"] not in done:
                told = done[approval["id"]] = sorted(s for s in self.clouds if fnmatchcase(s, approval["series"]))
                table = state.table("drift_embeddings.series")
                state.release("drift_embeddings.series", [table.index[s] for s in told if s in table.index])
                for series in told:
                    del self.clouds[series]
                    state.arrays.pop(prefix + series, None)
        for series in {s for told in done.values() for s in told if prefix + s not in state.arrays}:
            self.clouds.pop(series, None)
