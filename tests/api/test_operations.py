"""Health, readiness, metrics, OpenAPI, headers."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.main import Running
from engine.store import Store, StoreUnavailable
from tests.api.conftest import record


def test_health_and_readiness(launch: Callable[..., Running]) -> None:
    ready = [True]
    url = launch(readiness=lambda: ready[0]).url
    assert httpx.get(url + "/healthz").json()["status"] == "ok"
    assert httpx.get(url + "/readyz").json() == {"status": "ok", "problems": {}}
    ready[0] = False
    answer = httpx.get(url + "/readyz")
    assert answer.status_code == 503 and answer.json()["status"] == "unready" and "engine" in answer.json()["problems"]


def test_a_database_that_is_away_is_said(client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("database away: password=hunter2")

    for method in ("list", "last_change"):
        monkeypatch.setattr(store, method, away)
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json()["problems"] == {"store": "the database does not answer"}
    answer = client.get("/api/v1/alerts")
    assert answer.status_code == 503 and answer.headers["retry-after"] and "hunter2" not in answer.text


def test_a_fault_is_a_problem_without_internals(client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "counts", lambda: 1 / 0)
    answer = client.get("/api/v1/alerts/counts")
    assert answer.status_code == 500 and answer.json()["status"] == 500 and "division" not in answer.text


def test_metrics_count_requests_by_route(client: httpx.Client, store: Store) -> None:
    store.upsert([record(0)])
    for path in (f"/api/v1/alerts/{record(0)['id']}", "/api/v1/alerts/x", "/nothing/1", "/nothing/2"):
        client.get(path)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    counted = {
        (s.labels["route"], s.labels["status"]): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
        if s.name == "telltale_api_seconds_count"
    }
    assert counted[("/api/v1/alerts/{alert_id}", "200")] == counted[("/api/v1/alerts/{alert_id}", "422")] == 1
    assert not any("nothing" in route for route, _ in counted)
    assert "openmetrics" in client.get("/metrics", headers={"Accept": "application/openmetrics-text"}).headers["content-type"]


def test_openapi_is_valid_and_typed(client: httpx.Client) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    schema = client.get("/api/v1/openapi.json").json()
    validator.validate(schema)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["responses"]["200"]["content"], (method, path)
            assert "HTTPValidationError" not in str(operation["responses"]), (method, path)
    for name in ("AlertSummary", "AlertDetail", "AcknowledgeRequest"):
        assert schema["components"]["schemas"][name]["examples"]


def test_answers_match_the_openapi_schema(client: httpx.Client, store: Store) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    store.upsert([record(0, status="resolved", resolved_us=1), record(1)])
    schema = client.get("/api/v1/openapi.json").json()
    for path, name in (("/api/v1/alerts?limit=1", "AlertPage"), (f"/api/v1/alerts/{record(0)['id']}", "AlertDetail"),
                       ("/api/v1/alerts/counts", "AlertCounts"), ("/api/v1/alerts?limit=0", "Problem"), ("/readyz", "Health")):  # fmt: skip
        jsonschema.validate(client.get(path).json(), {"$ref": f"#/components/schemas/{name}", "components": schema["components"]})


@pytest.mark.parametrize("path", ["/", "/console.js", "/api/v1/alerts", "/nothing"])
def test_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
