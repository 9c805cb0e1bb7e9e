"""Listing, reading and acknowledging over HTTP."""

from __future__ import annotations

import httpx
import pytest

from engine.store import Store
from tests.api.conftest import T0, record


def test_list_leaves_evidence_out_and_one_alert_has_it(client: httpx.Client, store: Store) -> None:
    store.upsert([record(0, status="resolved", resolved_us=T0 + 1, tags=["x"], labels={"host": "h0"})])
    page = client.get("/api/v1/alerts").json()
    (alert,) = page["alerts"]
    assert page["next"] is None and "evidence" not in alert
    assert (alert["onset"], alert["resolved"]) == ("2025-11-20T09:14:03.250000Z", "2025-11-20T09:14:03.250001Z")
    detail = client.get(f"/api/v1/alerts/{alert['id']}").json()
    assert detail["evidence"] == {"rows": 7}
    assert {k: v for k, v in detail.items() if k != "evidence"} == alert


def test_every_filter_reaches_the_store(client: httpx.Client, store: Store) -> None:
    store.upsert(
        [
            record(0, severity="critical", tenant="acme", incident="i1", labels={"sku": "H100 & co"}),
            record(1, status="resolved"),
            record(2, detector="drift", stream="inference", key="m/x"),
        ]
    )
    client.post(f"/api/v1/alerts/{record(1)['id']}/acknowledge", json={}).raise_for_status()

    def found(**query: object) -> set[int]:
        response = client.get("/api/v1/alerts", params=query)  # type: ignore[arg-type]
        assert response.status_code == 200, response.text
        return {int(a["summary"].split()[1]) for a in response.json()["alerts"]}

    assert found(severity=["critical", "info"]) == found(tenant="acme") == found(incident="i1") == found(text="h100 &") == {0}
    assert found(status="resolved") == found(acknowledged="true") == found(key="h1/gpu0") == {1}
    assert found(detector="drift") == found(stream="inference") == {2}
    assert found(since="2025-11-20T09:14:04.250000Z") == {1, 2}
    assert found(until="2025-11-20T10:14:04.250000+01:00") == {0}
    assert client.get("/api/v1/alerts", params={"order": "onset", "limit": 1}).json()["alerts"][0]["summary"] == "number 0"


def test_cursors_lead_through_all_alerts_while_more_are_written(client: httpx.Client, store: Store) -> None:
    there = [record(2 * i) for i in range(25)]
    store.upsert(there)
    seen: list[str] = []
    query: dict[str, object] = {"limit": 4}
    while True:
        page = client.get("/api/v1/alerts", params=query).json()  # type: ignore[arg-type]
        seen += [a["id"] for a in page["alerts"]]
        store.upsert([record(2 * len(seen) + 1), record(99 + len(seen))])
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert len(seen) == len(set(seen)) and {a["id"] for a in there} <= set(seen)


def test_acknowledge(client: httpx.Client, store: Store) -> None:
    store.upsert([record(0)])
    answer = client.post(f"/api/v1/alerts/{record(0)['id']}/acknowledge", json={"note": "on it"})
    assert answer.status_code == 200
    assert {k: answer.json()["acknowledgement"][k] for k in ("by", "note")} == {"by": "local", "note": "on it"}
    assert client.get("/api/v1/alerts/counts").json() == {"firing": {"error": 1}, "resolved": {}, "unacknowledged": 0}


@pytest.mark.parametrize(
    ("query", "parameter", "complaint"),
    [
        ("limit=0", "limit", "greater than or equal to 1"),
        ("limit=many", "limit", "integer"),
        ("severity=terrible", "severity.0", "'info', 'warning', 'error' or 'critical'"),
        ("sevrity=error", "sevrity", "unknown parameter"),
        ("since=yesterday", "since", "datetime"),
        ("since=2025-11-20T09:14:04", "since", "timezone"),
        ("cursor=abc", "cursor", "not a cursor"),
        ("order=severity", "order", "onset"),
        ("acknowledged=perhaps", "acknowledged", "boolean"),
    ],
)
def test_a_bad_query_is_a_problem_that_names_the_parameter(client: httpx.Client, query: str, parameter: str, complaint: str) -> None:
    answer = client.get(f"/api/v1/alerts?{query}")
    problem = answer.json()
    assert answer.status_code == 422 == problem["status"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["title"] == "Unprocessable Content" or problem["title"] == "Unprocessable Entity"
    assert [(e["parameter"], e["in"]) for e in problem["errors"]] == [(parameter, "query")]
    assert complaint in problem["errors"][0]["detail"] and parameter in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/api/v1/alerts/{'f' * 32}", None, 404),
        ("GET", "/api/v1/alerts/not-an-id", None, 422),
        ("GET", "/api/v1/alerts/%00", None, 422),
        ("POST", f"/api/v1/alerts/{'f' * 32}/acknowledge", {}, 404),
        ("POST", f"/api/v1/alerts/{'f' * 32}/acknowledge", {"note": "x" * 2001}, 422),
        ("POST", f"/api/v1/alerts/{'f' * 32}/acknowledge", {"by": "somebody else"}, 422),
        ("DELETE", f"/api/v1/alerts/{'f' * 32}", None, 405),
        ("GET", "/api/v1/nothing", None, 404),
    ],
)
def test_other_errors_are_problems_too(client: httpx.Client, method: str, path: str, body: object, status: int) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == status == answer.json()["status"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_form_from_another_site_can_not_acknowledge(client: httpx.Client, store: Store) -> None:
    """A browser sends a cross-site form without asking first, but never as JSON."""
    store.upsert([record(0)])
    path = f"/api/v1/alerts/{record(0)['id']}/acknowledge"
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        assert client.post(path, content=b'{"note": "x"}', headers={"Content-Type": content_type}).status_code == 422
    assert store.get(record(0)["id"])["acknowledged_by"] is None  # type: ignore[index]
    assert "access-control-allow-origin" not in client.options(path, headers={"Origin": "https://evil.example"}).headers


def test_times_that_no_calendar_holds_are_answered(client: httpx.Client, store: Store) -> None:
    store.upsert([record(0, last_seen_us=2**63 - 1)])
    assert client.get("/api/v1/alerts").json()["alerts"][0]["last_seen"] == "9999-12-31T00:00:00Z"
