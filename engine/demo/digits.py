"""Real inference and real theft: a digits classifier, the clients it is for, and two attacks that copy it through its answers.

The data are scikit-learn's handwritten digits (UCI, 1,797 images of 8 x 8). The server learns from the first half and is asked
about the second. Both attackers end with a substitute that they really trained; how often it agrees with the server on images that
neither has seen is the attack's fidelity.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

LEVELS = 16.0
"""Pixels are 0 (paper) to 16 (ink)."""


class Server:
    """The model that is served. `held_out`: float32[n, 64], images it has not learned from; half of them clients send, half are kept
    to measure substitutes with."""

    def __init__(self, seed: int):
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        images, labels = images[order].astype(np.float32), labels[order]
        self.model = fitted(images[:900], labels[:900], seed)
        self.held_out, self.held_out_labels = images[900:1350], labels[900:1350]
        self.unseen, self.unseen_labels = images[1350:], labels[1350:]

    def answer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int[n] digits, float32[n] confidences) for float32[n, 64] images."""
        chances = self.model.predict_proba(images / LEVELS)
        return chances.argmax(1), chances.max(1).astype(np.float32)

    @property
    def accuracy(self) -> float:
        """Share of unseen images it gets right."""
        return float((self.answer(self.unseen)[0] == self.unseen_labels).mean())


def fitted(images: np.ndarray, labels: np.ndarray, seed: int) -> MLPClassifier:
    """A small network of one hidden layer."""
    model = MLPClassifier((64,), solver="lbfgs", alpha=1e-2, max_iter=120, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):  # the matrices are small: more threads only take time from the engine
        warnings.simplefilter("ignore", ConvergenceWarning)  # 120 steps are enough here, and quick
        return model.fit(images / LEVELS, labels)


class Client(Protocol):
    """Somebody who sends images. `rate_per_s`: mean of its Poisson arrivals, in event time."""

    name: str
    rate_per_s: float

    def queries(self, n: int) -> np.ndarray: ...

    def answered(self, images: np.ndarray, labels: np.ndarray) -> None: ...


class Reader:
    """A benign client: scans of its own documents, so its own mix of digits, contrast and a little noise."""

    def __init__(self, name: str, rate_per_s: float, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        self.name, self.rate_per_s, self.rng, self.images = name, rate_per_s, rng, images
        weights = rng.dirichlet(np.full(10, 30.0))[labels]
        self.chances = weights / weights.sum()
        self.contrast = rng.uniform(0.96, 1.0)

    def queries(self, n: int) -> np.ndarray:
        chosen = self.images[self.rng.choice(len(self.images), n, p=self.chances)]
        noisy = chosen * self.contrast + self.rng.normal(0, 0.4, chosen.shape)
        return np.clip(noisy, 0, LEVELS).astype(np.float32)

    def answered(self, images: np.ndarray, labels: np.ndarray) -> None:
        """A reader only reads."""


class Thief:
    """What both attacks share: every answer is kept, and a substitute is trained on them."""

    def __init__(self, name: str, rate_per_s: float, rng: np.random.Generator):
        self.name, self.rate_per_s, self.rng = name, rate_per_s, rng
        self.images: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def answered(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Keep what the server said."""
        self.images.append(images)
        self.labels.append(labels)

    @property
    def asked(self) -> int:
        """How many answers it has."""
        return sum(len(x) for x in self.labels)

    def fidelity(self, server: Server, seed: int) -> float | None:
        """Train the substitute; the share of unseen images on which it agrees with the server. None with too few answers."""
        if self.asked < 100 or len(np.unique(np.concatenate(self.labels))) < 2:
            return None
        substitute = fitted(np.concatenate(self.images), np.concatenate(self.labels), seed)
        return float((substitute.predict(server.unseen / LEVELS) == server.answer(server.unseen)[0]).mean())


class RandomKnockoff(Thief):
    """Knockoff Nets with random choice (Orekondy et al., CVPR 2019): images of its own that have nothing to do with digits."""

    def queries(self, n: int) -> np.ndarray:
        """Doodles: a few random strokes each."""
        grid = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(64, 1, 2)
        images = np.zeros((n, 64), np.float32)
        for _ in range(4):
            start, end = self.rng.uniform(0, 7, (2, n, 2))
            along = end - start
            t = np.clip(((grid - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-6), 0, 1)
            distance = np.linalg.norm(grid - start - t[..., None] * along, axis=-1).T
            images = np.maximum(images, LEVELS * np.clip(1.3 - distance, 0, 1))
        return images.astype(np.float32)


class JacobianAugmentation(Thief):
    """Jacobian-based augmentation (Papernot et al., ASIA CCS 2017): an adaptive attack from a few digits of its own.

    Each round it trains a substitute, steps every image across the substitute's slope, and asks about the results.
    """

    STEP = 0.1 * LEVELS
    ROUND_LIMIT = 400

    def __init__(self, name: str, rate_per_s: float, rng: np.random.Generator, seeds: np.ndarray):
        super().__init__(name, rate_per_s, rng)
        self.queue = seeds

    def queries(self, n: int) -> np.ndarray:
        """The next images of this round; when it is over, the next round's are made from what was learned."""
        if not len(self.queue):
            self.queue = self._augmented()
        chosen, self.queue = self.queue[:n], self.queue[n:]
        return chosen

    def _augmented(self) -> np.ndarray:
        images, labels = np.concatenate(self.images), np.concatenate(self.labels)
        chosen = self.rng.choice(len(images), min(len(images), self.ROUND_LIMIT), replace=False)
        images = images[chosen]
        with threadpool_limits(1):
            substitute = LogisticRegression(max_iter=60, tol=1e-2).fit(np.concatenate(self.images) / LEVELS, labels)
        chances = substitute.predict_proba(images / LEVELS)
        slope = substitute.coef_[np.searchsorted(substitute.classes_, labels[chosen])] - chances @ substitute.coef_
        step = self.STEP * self.rng.choice([-1.0, 1.0], (len(images), 1))
        return np.clip(images + step * np.sign(slope), 0, LEVELS).astype(np.float32)
