"""What the demo shows: a status line, alerts as they fire with their evidence, and the reckoning at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from engine.demo.scenario import Outcome

STYLE = {"info": "blue", "warning": "yellow", "error": "dark_orange", "critical": "bold red"}
EVIDENCE_SHOWN = 5
EVIDENCE_WIDTH = 150


def clock(us: int) -> str:
    """Event time of day."""
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%H:%M:%S")


def status(reached_us: int, left_s: float, rows: int, url: str, *, rows_per_s: float, alerts: int) -> Text:
    """The line that stays at the bottom."""
    return Text.assemble(
        (f" {clock(reached_us)} ", "reverse"), f"  {rows_per_s:>9,.0f} rows/s  {rows:>10,} rows  {alerts} alerts  ",
        f"{max(0, left_s):.0f} s left  ",
        (url, "cyan underline"),
    )  # fmt: skip


def told(alert: Mapping[str, Any]) -> Text:
    """One alert, opened: what, where, why."""
    severity = alert["severity"]
    text = Text.assemble(
        (f"{clock(alert['last_seen_us'])} {severity.upper():<8} ", STYLE[severity]), (alert["title"], "bold"), f"  [{alert['detector']}] ",
        (alert["key"], "cyan"), f"\n         {alert['summary']}",
    )  # fmt: skip
    if shown := evidence(alert["evidence"]):
        text.append(f"\n         {shown}", "dim")
    return text


def evidence(record: Mapping[str, Any]) -> str:
    """The first plain facts of an alert's evidence, in one line; the console shows all of it."""
    plain = [f"{k}={number(v)}" for k, v in record.items() if isinstance(v, str | int | float) and not isinstance(v, bool)]
    line = "  ".join(plain[:EVIDENCE_SHOWN])
    return line if len(line) <= EVIDENCE_WIDTH else line[: EVIDENCE_WIDTH - 1] + "…"


def number(value: object) -> str:
    """Short, as people write it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def reckoning(outcomes: Sequence[Outcome], explained: Sequence[Mapping[str, Any]], false: Sequence[Mapping[str, Any]]) -> Table:
    """What was injected against what was found."""
    table = Table(
        "injected", "at", "where", "found", "delay (event time)", "by", title="What was injected, and what was found", title_justify="left"
    )
    for outcome in outcomes:
        injection = outcome.injection
        at, where = clock(injection.start_us), escape(injection.where)
        if outcome.alert is not None:
            by = f"{outcome.alert['detector']}: {escape(outcome.alert['title'])}"
            table.add_row(injection.what, at, where, "[green]found[/]", f"{outcome.delay_s:.0f} s", by)
        elif outcome.happened:
            table.add_row(injection.what, at, where, "[red]missed[/]", "–", "")
        else:
            table.add_row(injection.what, at, where, "[yellow]not reached[/]", "–", "the demo ended before it was due")
    table.add_section()
    table.add_row("alerts that follow from these", "", "", str(len(explained)), "", grouped(explained))
    colour = "red" if false else "green"
    table.add_row("false alarms", "", "", f"[{colour}]{len(false)}[/]", "", grouped(false))
    return table


def grouped(alerts: Sequence[Mapping[str, Any]]) -> str:
    """Which detectors raised them, on what."""
    keys: dict[str, list[str]] = {}
    for alert in alerts:
        keys.setdefault(alert["detector"], []).append(alert["key"])
    return escape("; ".join(f"{d}: {', '.join(sorted(set(k))[:4])}" for d, k in sorted(keys.items())))


def thefts(console: Console, results: Mapping[str, tuple[int, float | None]], accuracy: float) -> None:
    """What the attacks got."""
    for name, (asked, fidelity) in results.items():
        got = (
            "too few answers to train on"
            if fidelity is None
            else f"a substitute that agrees with the server on {fidelity:.1%} of unseen images"
        )
        console.print(f"  {name}: {asked:,} answers bought {got} (the server itself is right on {accuracy:.1%})", highlight=False)
