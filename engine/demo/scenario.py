"""The script: what is injected when, and which alert would be the right answer to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.demo.digits import JacobianAugmentation, RandomKnockoff, Reader, Server, Thief
from engine.demo.fleet import Fault, Fleet
from engine.demo.record import Record
from engine.demo.traffic import DIGITS_MODEL, LLM_MODEL, DigitsTraffic, LlmTraffic, Visit

SPANS_S, FASTEST = (900.0, 2400.0), 60.0
"""Event time that a run covers: forty minutes, or less in a short run, so that time need not run more than sixty times as fast."""
PRELUDE_S, REQUESTS_PRELUDE_S = 1200.0, 400.0
"""Event time before it in which all is well, for the fleet and for requests: what the baseline is fitted from."""
READERS, READER_RATE, THIEF_RATE, LLM_RATE = 24, 0.5, 3.0, 5.0
EARLY_US = 60_000_000
"""How much before an injection an alert's onset may lie and still be taken for an answer to it (windows reach back)."""


@dataclass(frozen=True)
class Injection:
    """Something done on purpose. Alerts of `detectors` whose key begins with `key` answer it; others on keys that begin with one of
    `explains` follow from it (a GPU that fell off the bus is missing too) and are no false alarms."""

    what: str
    where: str
    start_us: int
    detectors: tuple[str, ...]
    key: str
    explains: tuple[str, ...] = ()

    def answered_by(self, alert: dict[str, Any]) -> bool:
        """Whether this alert is the right answer."""
        return alert["detector"] in self.detectors and self._touches(alert, (self.key,))

    def explained(self, alert: dict[str, Any]) -> bool:
        """Whether this alert follows from it, even if it is not the one that was wanted."""
        return self._touches(alert, (self.key, *self.explains))

    def _touches(self, alert: dict[str, Any], prefixes: tuple[str, ...]) -> bool:
        return alert["key"].startswith(prefixes) and alert["onset_us"] >= self.start_us - EARLY_US


def span_s(seconds: float) -> float:
    """Event time for a run of so many seconds.

    >>> [span_s(s) for s in (5, 20, 60, 600)]
    [900.0, 1200.0, 2400.0, 2400.0]
    """
    return min(max(FASTEST * seconds, SPANS_S[0]), SPANS_S[1])


class Scenario:
    """Everything that happens in `span_s` of event time from `start_us`, and in the calm prelude before it, from one seed."""

    def __init__(self, start_us: int, span_s: float, seed: int):
        self.start_us, self.span_s, self.seed = start_us, span_s, seed
        self.end_us = self.at(1.0)
        before_us = start_us - int(REQUESTS_PRELUDE_S * 1e6)
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(READERS + 6)]
        self.server = Server(seed)
        images, labels = self.server.held_out, self.server.held_out_labels
        readers = [Reader(f"client-{i:02d}", READER_RATE, images, labels, streams[6 + i]) for i in range(READERS)]
        knockoff = RandomKnockoff(f"client-{READERS:02d}", THIEF_RATE, streams[0])
        jacobian = JacobianAugmentation(f"client-{READERS + 1:02d}", THIEF_RATE, streams[1], images[streams[2].choice(len(images), 60)])
        self.thieves: dict[str, Thief] = {"random knockoff": knockoff, "Jacobian augmentation": jacobian}
        theft, adaptive, drift = self.at(0.40), self.at(0.50), self.at(0.65)
        visits = [Visit(r, before_us, self.end_us) for r in readers]
        visits += [Visit(knockoff, theft, self.at(0.80)), Visit(jacobian, adaptive, self.end_us)]
        faults = [Fault("xid79", 2, 5, self.at(0.55)), Fault("throttle", 3, 1, self.at(0.60)), Fault("vanish", 1, 3, self.at(0.70))]
        self.producers = (
            DigitsTraffic(self.server, visits, before_us, streams[3]),
            LlmTraffic(before_us, drift, LLM_RATE, streams[4]),
            Fleet(start_us - int(PRELUDE_S * 1e6), faults, streams[5]),
        )
        xid, hot, gone = faults
        digits = f"{DIGITS_MODEL}/"  # stolen-from models see another mix of inputs and answers, which is drift and true
        self.injections = (
            Injection("model extraction, random knockoff", knockoff.name, theft, ("extraction",), knockoff.name, (digits,)),
            Injection("model extraction, Jacobian augmentation", jacobian.name, adaptive, ("extraction",), jacobian.name, (digits,)),
            Injection("XID 79, GPU off the bus", xid.device, xid.start_us, ("rules",), xid.device),
            Injection("fan fails, thermal throttle", hot.device, hot.start_us, ("hardware", "rules"), hot.device),
            Injection("traffic drifts from code to conversation", LLM_MODEL, drift, ("drift",), f"{LLM_MODEL}/"),
            Injection("GPU vanishes without an error", gone.device, gone.start_us, ("missing",), gone.device),
        )

    def at(self, share: float) -> int:
        """Event time at that share of the whole."""
        return int(self.start_us + share * self.span_s * 1e6)

    def records(self, until_us: int) -> Iterator[Record]:
        """What all producers send until then, each in order of its time."""
        for producer in self.producers:
            yield from producer.records(min(until_us, self.end_us))


@dataclass(frozen=True)
class Outcome:
    """An injection and the alert that answered it first. `delay_s`: event time from the injection until the alert was delivered.

    `happened`: False when the demo ended before it was due.
    """

    injection: Injection
    alert: dict[str, Any] | None
    delay_s: float | None
    happened: bool


def judged(
    injections: Sequence[Injection], heard: Sequence[tuple[int, dict[str, Any]]], reached_us: int
) -> tuple[list[Outcome], list[dict[str, Any]], list[dict[str, Any]]]:
    """(an outcome per injection, alerts that follow from one, false alarms). `heard`: (event time when it was delivered, alert) of each
    opened alert, in order; `reached_us`: how far event time came."""
    outcomes, answers = [], set()
    for injection in injections:
        first = next(((at, a) for at, a in heard if injection.answered_by(a)), None)
        answers |= {a["id"] for _, a in heard if injection.answered_by(a)}
        delay_s = None if first is None else (first[0] - injection.start_us) / 1e6
        outcomes.append(Outcome(injection, first[1] if first else None, delay_s, injection.start_us < reached_us))
    rest = [a for _, a in heard if a["id"] not in answers]
    explained = [a for a in rest if any(i.explained(a) for i in injections)]
    return outcomes, explained, [a for a in rest if a not in explained]
