"""What is known of a model's performance: how often each prediction is right, by class and stated confidence.

Confidence-based performance estimation (CBPE, NannyML): where the outcome of a prediction is not known yet, the chance that it is right
is read off the reference, by its class and confidence; accuracy, F1 and AUROC follow as expectations. All of it are sums by (class,
confidence bin), which add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

CLASSES = 16
CONFIDENCES = 65
"""64 bins of the confidence from 0 to 1, and one for none."""
NONE = CONFIDENCES - 1
STRATA = 4
BLOCK_ROWS = 256
SHRUNK_BY = 4.0
POSITIVE = ("1", "true", "yes", "positive", "y", "t")


@dataclass
class Known:
    """The reference of one model. `classes`: codes of the classes, the commonest 16; further ones count as one more.

    `outcomes`: int64[K + 1, 65, 2], rows by predicted class and confidence: right, wrong. `predicted`: int64[K + 1, 65], rows that the
    estimate starts from. `confusion`: int64[K + 1, K + 1], predicted by outcome. `tau`: between-block variance of the realised strata,
    `tau_estimate` of the estimate (see `drift_reference.learn`). `about`: what it was made from.
    """

    classes: np.ndarray
    names: dict[str, str]
    outcomes: np.ndarray
    predicted: np.ndarray
    confusion: np.ndarray
    tau: float = 0.0
    tau_estimate: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    def places(self, codes: np.ndarray) -> np.ndarray:
        """int64: the place of each class code, the last one for a class that is not known."""
        order = np.argsort(self.classes)
        at = np.minimum(np.searchsorted(self.classes, codes, sorter=order), len(self.classes) - 1)
        place = order[at]
        return np.where(self.classes[place] == codes, place, len(self.classes))

    def name(self, place: int) -> str:
        """A class by name."""
        return self.names.get(str(int(self.classes[place])), "other") if place < len(self.classes) else "other"

    @property
    def calibrated(self) -> bool:
        """Whether outcomes were known, or confidences are taken at their word."""
        return bool(self.outcomes.sum())

    @cached_property
    def strata(self) -> np.ndarray:
        """int64[K + 1, 65]: the stratum of each class and confidence: quarters of the class's reference rows."""
        rows = self.outcomes.sum(axis=2)
        before = np.cumsum(rows[:, :NONE], axis=1) - rows[:, :NONE] / 2
        quarter = np.minimum(before * STRATA // np.maximum(1, rows[:, :NONE].sum(axis=1, keepdims=True)), STRATA - 1).astype(np.int64)
        at = np.arange(len(rows))[:, None] * (STRATA + 1)
        return np.concatenate([at + quarter, at + STRATA], axis=1)

    def by_stratum(self, outcomes: np.ndarray) -> np.ndarray:
        """int64[..., S, 2]: outcomes [..., K + 1, 65, 2] added up by stratum."""
        out = np.zeros((*outcomes.shape[:-3], (len(self.classes) + 1) * (STRATA + 1), 2), np.int64)
        flat = outcomes.reshape(*outcomes.shape[:-3], -1, 2)
        order = np.argsort(self.strata.reshape(-1), kind="stable")
        strata, starts = np.unique(self.strata.reshape(-1)[order], return_index=True)
        out[..., strata, :] = np.add.reduceat(flat[..., order, :], starts, axis=-2)
        return out

    @cached_property
    def right(self) -> np.ndarray:
        """float64[K + 1, 65]: the calibrated chance of being right: the share in the reference, drawn towards that of neighbouring
        confidences, and made to rise with the confidence (isotonic regression); without outcomes the confidence itself."""
        middle = np.append((np.arange(NONE) + 0.5) / NONE, 0.5)
        if not self.calibrated:
            return np.tile(middle, (len(self.classes) + 1, 1))
        right, rows = self.outcomes[..., 0].astype(np.float64), self.outcomes.sum(axis=2).astype(np.float64)
        out = np.empty(rows.shape)
        whole = right.sum() / max(1.0, rows.sum())
        for k in range(len(rows)):
            own = (right[k].sum() + SHRUNK_BY * whole) / (rows[k].sum() + SHRUNK_BY)
            out[k, :NONE] = rising(right[k, :NONE], rows[k, :NONE], own)
            out[k, NONE] = (right[k, NONE] + SHRUNK_BY * own) / (rows[k, NONE] + SHRUNK_BY)
        return out

    def record(self) -> dict[str, Any]:
        """Plain data, for checkpoints and baselines."""
        arrays = {n: getattr(self, n).tolist() for n in ("classes", "outcomes", "predicted", "confusion")}
        return arrays | {"names": self.names, "tau": self.tau, "tau_estimate": self.tau_estimate, "about": self.about}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Known:
        """The reverse of `record`."""
        outcomes, predicted, confusion = (np.array(record[n], np.int64) for n in ("outcomes", "predicted", "confusion"))
        classes, about = np.array(record["classes"], np.float64), record.get("about", {})
        return cls(classes, record["names"], outcomes, predicted, confusion, record["tau"], record["tau_estimate"], about)


def rising(right: np.ndarray, rows: np.ndarray, otherwise: float) -> np.ndarray:
    """float64[bins]: the isotonic regression of right / rows, weighted by rows (pool adjacent violators); bins without rows take the
    value of the nearest that has some, `otherwise` where none has."""
    pools: list[list[float]] = []  # rows, right, bins
    for n, r in zip(rows.tolist(), right.tolist(), strict=True):
        pools.append([n, r, 1])
        while len(pools) > 1 and (pools[-2][0] == 0 or (pools[-1][0] > 0 and pools[-2][1] * pools[-1][0] >= pools[-1][1] * pools[-2][0])):
            n, r, bins = pools.pop()
            pools[-1] = [pools[-1][0] + n, pools[-1][1] + r, pools[-1][2] + bins]
    out: list[float] = []
    for n, r, bins in pools:
        value = r / n if n else (out[-1] if out else otherwise)
        out += [value] * int(bins)
    return np.array(out)


def learn(rows: np.ndarray, names: dict[str, str], about: dict[str, Any]) -> Known:
    """A reference from rows float64[n, 6]: pane, predicted class, confidence bin, outcome (NaN: not known), whether it counts for the
    estimate, how many such rows."""
    counted = np.where(np.isnan(rows[:, 3]), rows[:, 4], 1) * rows[:, 5]
    codes, at = np.unique(rows[:, 1], return_inverse=True)
    classes = codes[np.argsort(-np.bincount(at, counted), kind="stable")[:CLASSES]]
    classes = np.array(sorted(classes.tolist(), key=lambda c: names.get(str(int(c)), "")))
    k = len(classes) + 1
    kept = {code: word for code, word in names.items() if float(code) in set(classes.tolist())}
    empty = np.zeros((k, CONFIDENCES, 2), np.int64), np.zeros((k, CONFIDENCES), np.int64), np.zeros((k, k), np.int64)
    known = Known(classes, kept, *empty, about=about)
    _, at = np.unique(rows[:, 0], return_inverse=True)
    block = block_of(np.bincount(at, rows[:, 5]).astype(np.int64))[at]
    _, outcomes, predicted, confusion = cells(known, np.column_stack([block, rows[:, 1:]]))
    known.outcomes, known.predicted, known.confusion = outcomes.sum(axis=0), predicted.sum(axis=0), confusion.sum(axis=0)
    known.tau = wander_of_strata(filled(known.by_stratum(outcomes)))
    known.tau_estimate = wander_of_estimate(known, filled(predicted))
    return known


def cells(known: Known, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows (see `learn`) by pane: panes int64[P], outcomes int64[P, K + 1, 65, 2], predicted [P, K + 1, 65], confusion [P, K + 1, K + 1]
    (by what is in the first column: panes, or blocks of them)."""
    k = len(known.classes) + 1
    panes, at = np.unique(rows[:, 0].astype(np.int64), return_inverse=True)
    out = np.zeros((len(panes), k, CONFIDENCES, 2), np.int64), np.zeros((len(panes), k, CONFIDENCES), np.int64)
    confusion = np.zeros((len(panes), k, k), np.int64)
    said, confidence, count = known.places(rows[:, 1]), rows[:, 2].astype(np.int64), rows[:, 5].astype(np.int64)
    told = ~np.isnan(rows[:, 3])
    wrong = (rows[:, 1] != rows[:, 3]).astype(np.int64)
    np.add.at(out[0], (at[told], said[told], confidence[told], wrong[told]), count[told])
    np.add.at(confusion, (at[told], said[told], known.places(rows[told, 3])), count[told])
    counts = (rows[:, 4] > 0) & (confidence != NONE)
    np.add.at(out[1], (at[counts], said[counts], confidence[counts]), count[counts])
    return panes, *out, confusion


def block_of(rows: np.ndarray, least: int = BLOCK_ROWS) -> np.ndarray:
    """int64[P]: which block of at least so many rows each of consecutive panes belongs to."""
    out, held, block = np.zeros(len(rows), np.int64), 0, 0
    for i, n in enumerate(rows.tolist()):
        out[i] = block
        held += n
        if held >= least:
            held, block = 0, block + 1
    return out


def filled(of_block: np.ndarray) -> np.ndarray:
    """The blocks [B, ...] that have at least half as many rows as they should."""
    return of_block[of_block.reshape(len(of_block), -1).sum(axis=1) >= BLOCK_ROWS // 2]


def wander_of_strata(of_block: np.ndarray) -> float:
    """tau of the strata's error rates: [blocks, S, 2]; as in `drift_reference.learn`, of G within strata."""
    if len(of_block) < 2:
        return 0.0
    g, df = g_within(of_block.sum(axis=0) - of_block, of_block)
    n = of_block.sum(axis=(1, 2)).astype(np.float64)
    ratio = float((g / df).mean()) * (1 + np.sqrt(2 / df.sum()))
    return max(0.0, (ratio - 1) / float((n * (n.sum() - n) / n.sum()).mean()))


def g_within(reference: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """G of right and wrong against window and reference, added over strata: [..., S, 2] each. Returns (G, degrees of freedom)."""
    a, b = reference.astype(np.float64), window.astype(np.float64)
    m, n = a.sum(axis=-1, keepdims=True), b.sum(axis=-1, keepdims=True)
    pooled = (a + b) / np.maximum(1, m + n)
    with np.errstate(divide="ignore", invalid="ignore"):
        g = np.where(a > 0, a * np.log(a / (m * pooled)), 0) + np.where(b > 0, b * np.log(b / (n * pooled)), 0)
    both = (m > 0) & (n > 0) & (pooled > 0).all(axis=-1, keepdims=True)
    return 2 * np.where(both, g, 0).sum(axis=(-2, -1)), np.maximum(1, both.sum(axis=(-2, -1)))


def wander_of_estimate(known: Known, of_block: np.ndarray) -> float:
    """How much more the estimated accuracy of blocks [B, K + 1, 65] varies than chance explains, per row (tau)."""
    if len(of_block) < 3:
        return 0.0
    mean, variance = estimate(known, of_block.sum(axis=0))
    n = of_block.sum(axis=(1, 2)).astype(np.float64)
    of_each = estimates(known, of_block)[0]
    ratio = float(((of_each - mean) ** 2 * n).mean() / max(variance, 1e-12)) * (1 + np.sqrt(2 / len(n)))
    return max(0.0, (ratio - 1) / float(n.mean()))


def estimate(known: Known, predicted: np.ndarray) -> tuple[float, float]:
    """(expected accuracy, variance of a row's chance of being right) of rows by class and confidence [K + 1, 65]."""
    mean, variance = estimates(known, predicted[None])
    return float(mean[0]), float(variance[0])


def estimates(known: Known, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of several windows [W, K + 1, 65]: float64[W] each."""
    n = np.maximum(1, predicted.sum(axis=(1, 2)))
    mean, square = ((predicted * known.right**power).sum(axis=(1, 2)) / n for power in (1, 2))
    return mean, np.maximum(0.0, square - mean**2)


def metrics(known: Known, predicted: np.ndarray) -> dict[str, float]:
    """Expected accuracy, and of two classes F1 and AUROC, of rows by class and confidence [K + 1, 65]. The positive class is the one
    named 1, true, yes or positive, else the second by name."""
    out = {"accuracy": estimate(known, predicted)[0]}
    if len(known.classes) == 2:
        names = [known.name(i).lower() for i in (0, 1)]
        positive = next((i for i in (0, 1) if names[i] in POSITIVE), 1)
        rows, right = predicted[:2].astype(np.float64), known.right[:2]
        hit, missed = (rows[positive] * right[positive]).sum(), (rows[1 - positive] * (1 - right[1 - positive])).sum()
        false = (rows[positive] * (1 - right[positive])).sum()
        out["f1"] = float(2 * hit / max(1e-12, 2 * hit + false + missed))
        middle = (np.arange(CONFIDENCES) + 0.5) / NONE
        score = np.concatenate([middle, 1 - middle])
        chance = np.concatenate([right[positive], 1 - right[1 - positive]])
        out["auroc"] = auroc(score, np.concatenate([rows[positive], rows[1 - positive]]), chance)
    return out


def auroc(score: np.ndarray, rows: np.ndarray, chance: np.ndarray) -> float:
    """The expected area under the ROC curve of bins: their score, rows, and chance of a positive."""
    kept = rows > 0
    values, at = np.unique(np.round(score[kept], 9), return_inverse=True)
    positive = np.bincount(at, (rows * chance)[kept], len(values))
    negative = np.bincount(at, (rows * (1 - chance))[kept], len(values))
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / max(1e-12, positive.sum() * negative.sum()))


def realised(known: Known, confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and macro F1 over the classes that occur, of a confusion [K + 1, K + 1]."""
    hit, said, true = np.diag(confusion)[:-1], confusion.sum(axis=1)[:-1], confusion.sum(axis=0)[:-1]
    occurs = (said + true) > 0
    f1 = 2 * hit[occurs] / (said + true)[occurs]
    return {"accuracy": float(hit.sum() / max(1, confusion.sum())), "f1_macro": float(f1.mean()) if len(f1) else float("nan")}


def by_class(known: Known, confusion: np.ndarray, before: np.ndarray) -> list[dict[str, Any]]:
    """How often each class was right, then and now."""
    rows: Sequence[int] = [i for i in range(len(confusion)) if confusion[i].sum() + before[i].sum()]
    return [
        {
            "predicted": known.name(i),
            "reference": round(float(before[i, i] / max(1, before[i].sum())), 4),
            "window": round(float(confusion[i, i] / max(1, confusion[i].sum())), 4),
        }
        for i in rows
    ]
