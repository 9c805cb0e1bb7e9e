"""The console page in a real, headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.main import Running
from engine.store import Store
from tests.api.conftest import TOKENS, record

playwright = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

HISTOGRAM = [{"bin": f"{i}", "reference": 10 + i, "window": 40 - i} for i in range(8)]
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, launch: Callable[..., Running]) -> Iterator[Any]:
    """A page on which any script error or refused resource fails the test, and which may reach nothing but the server.

    It is closed before the server is, which is why it asks for `launch`.
    """
    opened = browser.new_page()
    opened.set_default_timeout(20_000)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console", lambda m: complaints.append(m.text) if m.type == "error" and not any(s in m.text for s in ("401", "403")) else None
    )
    opened.on("request", lambda r: complaints.append(r.url) if "127.0.0.1" not in r.url else None)
    yield opened
    opened.close()
    assert complaints == []


def test_alerts_appear_live_and_text_from_telemetry_stays_text(page: Any, launch: Callable[..., Running], store: Store) -> None:
    store.upsert([record(0, severity="critical", title=HOSTILE, key=HOSTILE, evidence={HOSTILE: HOSTILE, "histogram": HISTOGRAM})])
    page.goto(launch().url)
    rows = page.locator("#rows tr")
    playwright.expect(rows).to_have_count(1)
    store.upsert([record(1, title="came later", peak_score=160.4)])
    playwright.expect(rows).to_have_count(2)
    playwright.expect(rows.first).to_contain_text("came later")
    playwright.expect(rows.first.locator("td.number")).to_have_text("160")
    playwright.expect(page.locator("#counts li").first).to_contain_text("1critical")
    rows.nth(1).click()
    playwright.expect(page.locator("#detail h2")).to_have_text(HOSTILE)
    assert page.locator("#detail svg rect").count() == 2 * len(HISTOGRAM)
    assert page.locator("#detail img").count() == 0 and page.title() == "Telltale"


def test_filters_and_acknowledgement(page: Any, launch: Callable[..., Running], store: Store) -> None:
    store.upsert([record(0, severity="critical"), record(1), record(2, status="resolved", summary="fell off the bus")])
    page.goto(launch().url)
    rows = page.locator("#rows tr")
    playwright.expect(rows).to_have_count(3)
    page.locator("[name=status]").select_option("firing")
    playwright.expect(rows).to_have_count(2)
    page.get_by_text("critical", exact=True).first.click()
    playwright.expect(rows).to_have_count(1)
    rows.first.click()
    page.get_by_placeholder("Note").fill("looking at it")
    page.get_by_role("button", name="Acknowledge").click()
    playwright.expect(page.locator(".acknowledged")).to_contain_text("looking at it")
    playwright.expect(rows.first).to_contain_text("seen by local")
    assert store.get(record(0)["id"])["note"] == "looking at it"  # type: ignore[index]
    page.locator("[name=acknowledged]").select_option("false")
    playwright.expect(rows).to_have_count(0)
    playwright.expect(page.locator("#empty")).to_be_visible()


def test_a_search_reaches_beyond_what_is_shown_and_pages_follow(page: Any, launch: Callable[..., Running], store: Store) -> None:
    store.upsert([record(i) for i in range(130)])
    page.goto(launch().url)
    rows = page.locator("#rows tr")
    playwright.expect(rows).to_have_count(100)
    page.get_by_role("button", name="Older alerts").click()
    playwright.expect(rows).to_have_count(130)
    playwright.expect(page.locator("#more")).to_be_hidden()
    page.get_by_placeholder("Search").fill("h7/gpu0")
    playwright.expect(rows).to_have_count(1)


def test_a_server_with_tokens_asks_for_one(page: Any, launch: Callable[..., Running], store: Store) -> None:
    store.upsert([record(0)])
    page.goto(launch(tokens=True).url)
    page.locator("#sign-in input").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    playwright.expect(page.locator("#sign-in-why")).to_have_text("The token is not known.")
    page.locator("#sign-in input").fill(TOKENS["viewer"])
    page.get_by_role("button", name="Sign in").click()
    playwright.expect(page.locator("#rows tr")).to_have_count(1)
    page.locator("#rows tr").click()
    page.get_by_role("button", name="Acknowledge").click()
    playwright.expect(page.locator("#live")).to_contain_text("needs the role responder")
