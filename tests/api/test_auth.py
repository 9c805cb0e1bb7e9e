"""Who may do what: every route, with every kind of caller."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from api.main import Running, create_app, serve, serve_in_thread
from engine.api_config import ApiConfig, TokenConfig
from engine.store import Store
from tests.api.conftest import TOKENS, record

ID = record(0)["id"]
READ, ACT, OPEN = {"viewer", "responder"}, {"responder"}, {"nobody", "stranger", "viewer", "responder"}
ROUTES = [
    ("GET", "/api/v1/alerts", READ),
    ("GET", f"/api/v1/alerts/{ID}", READ),
    ("GET", "/api/v1/alerts/counts", READ),
    ("GET", "/api/v1/alerts/stream", READ),
    ("POST", f"/api/v1/alerts/{ID}/acknowledge", ACT),
    ("GET", "/metrics", READ),
    ("GET", "/healthz", OPEN),
    ("GET", "/readyz", OPEN),
    ("GET", "/api/v1/openapi.json", OPEN),
    ("GET", "/", OPEN),
]


@pytest.mark.parametrize("caller", sorted(OPEN))
def test_every_route_with_every_caller(launch: Callable[..., Running], store: Store, caller: str) -> None:
    store.upsert([record(0)])
    server = launch(tokens=True)
    token = {"nobody": None, "stranger": "s" * 40}.get(caller, TOKENS.get(caller))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for method, path, allowed in ROUTES:
        with httpx.stream(method, server.url + path, headers=headers, json={} if method == "POST" else None) as answer:
            expected = 200 if caller in allowed else 403 if caller in TOKENS else 401
            assert answer.status_code == expected, (method, path)
            if expected == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer")


def test_every_route_of_the_application_is_in_that_table(store: Store) -> None:
    described = create_app(store, ApiConfig(), CollectorRegistry(), lambda: True).openapi()["paths"]
    listed = {path.replace(ID, "{alert_id}") for _, path, _ in ROUTES} - {"/", "/api/v1/openapi.json"}
    assert set(described) == listed


@pytest.mark.parametrize("header", ["Basic dmllOnY=", "Bearer", f"Bearer {'v' * 41}", f"Bearer {'v' * 39}"])
def test_what_is_not_a_token_is_refused(launch: Callable[..., Running], header: str) -> None:
    assert httpx.get(launch(tokens=True).url + "/api/v1/alerts", headers={"Authorization": header}).status_code == 401


def test_the_acknowledgement_carries_the_name_of_the_token(launch: Callable[..., Running], store: Store) -> None:
    store.upsert([record(0)])
    path = f"{launch(tokens=True).url}/api/v1/alerts/{ID}/acknowledge"
    answer = httpx.post(path, json={}, headers={"Authorization": f"Bearer {TOKENS['responder']}"})
    assert answer.json()["acknowledgement"]["by"] == "responder"


def test_without_tokens_a_name_that_was_rebound_to_this_machine_is_refused(client: httpx.Client) -> None:
    assert client.get("/api/v1/alerts", headers={"Host": "evil.example"}).status_code == 403
    for host in ("127.0.0.1:80", "localhost", "[::1]:8080"):
        assert client.get("/api/v1/alerts", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_listening_beyond_this_machine_needs_tokens(store: Store, host: str) -> None:
    with pytest.raises(ValidationError, match=f"tokens: at least one is required, since host {host}"):
        ApiConfig(host=host)
    app = create_app(store, ApiConfig(), CollectorRegistry(), lambda: True)
    for begin in (serve, serve_in_thread):
        with pytest.raises(ValueError, match=r"api\.tokens: at least one is required"):
            begin(app, host, 0)


def test_configuration_refuses_what_is_not_a_hash_and_names_twice() -> None:
    with pytest.raises(ValidationError, match="sha256"):
        TokenConfig(name="a", sha256="secret")
    token = TokenConfig(name="a", sha256="0" * 64)
    with pytest.raises(ValidationError, match="the name 'a' is used twice"):
        ApiConfig(tokens=(token, token))


def test_an_address_that_is_taken_is_an_error_at_once(launch: Callable[..., Running], store: Store) -> None:
    port = int(launch().url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        serve_in_thread(create_app(store, ApiConfig(), CollectorRegistry(), lambda: True), "127.0.0.1", port)
