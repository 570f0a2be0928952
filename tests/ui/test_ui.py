"""What a person sees in Dagster's UI, in a real browser.

With RAMPGATE_UI_URL set, a webserver that is already running is looked at instead of one of the test's own.
Screenshots go to RAMPGATE_SCREENSHOTS.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ui.webserver import location, rollout_asset, served

CHROMIUM = Path("/usr/bin/chromium")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

PATIENCE_MS = 60_000

pytestmark = [
    pytest.mark.ui,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = os.environ.get("RAMPGATE_UI_URL")
    if running:
        yield running.rstrip("/")
        return
    with served(tmp_path_factory.mktemp("ui")) as url:
        yield url


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("RAMPGATE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def visible(page: Any, text: str) -> None:
    """Wait until the text is on the screen."""
    page.get_by_text(text, exact=False).first.wait_for(state="visible")


def loaded(page: Any) -> None:
    """Wait until nothing on the page says that it is still loading."""
    from playwright.sync_api import expect

    expect(page.get_by_text("Loading")).to_have_count(0, timeout=30_000)


def test_the_asset_graph_shows_the_way_of_a_version(url: str, page: Any, screenshots: Path) -> None:
    page.goto(f"{url}/asset-groups")
    for group in ("prediction_log", "data_quality", "drift", "experiment", "rollout"):
        visible(page, group)
    loaded(page)
    page.screenshot(path=str(screenshots / "asset-graph.png"))


def test_a_group_shows_its_assets_and_where_they_come_from(url: str, page: Any, screenshots: Path) -> None:
    page.goto(f"{url}/locations/{location(url)}/asset-groups/rollout/lineage")
    for asset in ("rollout_report", "data_quality", "drift", "experiment"):
        visible(page, asset)
    loaded(page)
    page.screenshot(path=str(screenshots / "rollout-group.png"))


def test_the_rollout_shows_its_decision_and_the_evidence_for_it(
    url: str, page: Any, screenshots: Path
) -> None:
    page.goto(f"{url}/assets/{rollout_asset(url)}?view=events")
    for text in ("decision", "canary share (%)", "evidence", "if it fails", "share of traffic"):
        visible(page, text)
    if not os.environ.get("RAMPGATE_UI_URL"):
        visible(page, "roll back: errors: 30 of 100 answers at the canary")
    page.screenshot(path=str(screenshots / "rollout.png"), full_page=True)
