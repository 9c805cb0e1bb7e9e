"""Alerts open, extend and resolve by event time, whatever the cut of the batches."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.finding import Finding
from engine.lifecycle import Lifecycle
from engine.state import State

S = 1_000_000
ONE = Finding("hardware", "hardware", "h/g", 10 * S, 10 * S, "warning", "t", "s", 2.0, 1.0, quiet_us=5 * S)


def at(time_s: int, **more: object) -> Finding:
    return replace(ONE, first_us=time_s * S, last_us=time_s * S, **more)


def test_opens_extends_and_resolves_after_the_quiet_time():
    life = Lifecycle(State())
    (opened,) = life.apply([at(10)], "hardware", 10 * S)
    assert (opened.status, opened.onset_us, opened.sequence) == ("firing", 10 * S, 0)
    assert life.apply([at(12)], "hardware", 12 * S) == []
    assert life.apply([], "hardware", 17 * S) == []
    (resolved,) = life.apply([], "hardware", 17 * S + 1)
    assert (resolved.status, resolved.resolved_us, resolved.count, resolved.id) == ("resolved", 17 * S, 2, opened.id)
    assert resolved.sequence > opened.sequence


def test_a_worse_finding_is_published_and_a_doubled_peak_too():
    life = Lifecycle(State())
    life.apply([at(10)], "hardware", 10 * S)
    (worse,) = life.apply([at(11, severity="critical")], "hardware", 11 * S)
    assert worse.severity == "critical"
    (higher,) = life.apply([at(12, score=4.0)], "hardware", 12 * S)
    assert higher.peak_score == 4.0
    assert 0 < worse.sequence < higher.sequence


def test_what_a_finding_says_is_asked_for_only_where_the_alert_takes_it():
    asked: list[int] = []

    def brief(time_s: int, **more: object) -> Finding:
        finding = at(time_s, title="", summary="", **more)

        def told() -> Finding:
            asked.append(time_s)
            return replace(finding, title="t", summary=f"s{time_s}", evidence={"at": time_s}, told=None)

        return replace(finding, told=told)

    life = Lifecycle(State())
    (opened,) = life.apply([brief(10)], "hardware", 10 * S)
    life.apply([brief(11), brief(12, score=3.0), brief(13)], "hardware", 13 * S)
    (worse,) = life.apply([brief(14, severity="critical")], "hardware", 14 * S)
    assert asked == [10, 12, 14]
    assert (opened.title, opened.summary, opened.evidence) == ("t", "s10", {"at": 10})
    assert (worse.summary, worse.evidence, worse.count, worse.peak_score) == ("s14", {"at": 14}, 5, 3.0)


def test_other_streams_do_not_close_it():
    life = Lifecycle(State())
    life.apply([at(10)], "hardware", 10 * S)
    assert life.apply([], "inference", 10_000 * S) == []


def test_while_it_alarms_its_state_is_protected():
    state = State()
    life = Lifecycle(state)
    life.apply([at(10, subject="h")], "hardware", 10 * S)
    assert state.protected == {"h"}
    life.apply([at(11, resolved_us=11 * S)], "hardware", 11 * S)
    assert state.protected == set()


def test_survives_a_checkpoint():
    state = State()
    life = Lifecycle(state)
    (opened,) = life.apply([at(10)], "hardware", 10 * S)
    life.save()
    again = Lifecycle(state)
    (resolved,) = again.apply([], "hardware", 100 * S)
    assert resolved.id == opened.id


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.data())
def test_ids_and_ends_do_not_depend_on_the_cut(gaps, data):
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]

    def run(cuts: set[int]) -> list[tuple[str, str, int | None]]:
        life, out, batch = Lifecycle(State()), [], []
        for i, time_s in enumerate(times):
            batch.append(at(time_s))
            if i in cuts or i == len(times) - 1:
                out += life.apply(batch, "hardware", time_s * S)
                batch = []
        out += life.apply([], "hardware", 10_000 * S)
        return [(a.id, a.status, a.resolved_us) for a in out]

    assert run(set()) == run(data.draw(st.sets(st.integers(0, len(times) - 1))))


def test_a_flood_of_alerts_closes_the_quietest_and_not_what_goes_on():
    life = Lifecycle(State({"open_alerts": 50}))
    (real,) = life.apply([at(10, key="real", quiet_us=10_000 * S)], "hardware", 10 * S)
    closed = []
    for i in range(200):
        flood = [at(11 + i, key=f"x{i}-{j}", quiet_us=10_000 * S) for j in range(5)]
        closed += [a for a in life.apply([*flood, at(11 + i, key="real", quiet_us=10_000 * S)], "hardware", 0) if a.status == "resolved"]
        assert len(life.open) <= 50
    assert len(closed) == 1001 - 50
    assert all(a.tags[-1:] == ["closed for room"] and a.key != "real" for a in closed)
    assert life.open["hardware\x00real"].alert.id == real.id
