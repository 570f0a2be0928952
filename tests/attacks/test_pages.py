"""Names that are pages: what a model, a column, a category or a check is called runs nothing in a browser."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvicorn

from pipelines.core.manifest.model import Check, DataChecks, Drift
from pipelines.core.vocabulary import OnFail
from pipelines.monitoring.data_checks import check_window
from pipelines.monitoring.drift import compare
from pipelines.platform.web import application
from pipelines.platform.web_guard import Guard, Rules
from resources.checks.evidently import Comparison
from resources.serving.embedded.supervisor import wait_until
from resources.settings import Settings
from tests.reports.test_report import hostile_page
from tests.support.ports import free_base
from tests.ui.test_ui import CHROMIUM, FLAGS

pytestmark = [
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]

START = datetime(2026, 3, 1, 8, tzinfo=UTC)

IMAGE = "<img src=x onerror=window.ran=1>"

SCRIPT = "</script></head><script>window.ran=2</script>"

LINK = '<a href="javascript:window.ran=3" id=x>$0</a>'

NAMES = [
    f"features.{IMAGE}",
    f"features.{SCRIPT}",
    f"features.{LINK}",
    "features.\"'><svg onload=window.ran=4>",
]

DRAWN = "document.querySelectorAll('table, svg, .js-plotly-plot').length > 0"

RAN = "window.ran || document.querySelector('a[href^=javascript]')"


def frame(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows: dict[str, Any] = {name: rng.normal(0, 1, 300) for name in NAMES}
    rows["features.text"] = rng.choice([IMAGE, SCRIPT, LINK], 300)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of page, with hostile names and values in it."""
    home = tmp_path_factory.mktemp("pages")
    reports = home / "reports"
    during = {"window_start": START, "window_end": START + timedelta(hours=1)}
    drift = compare(
        frame(1), frame(2), Drift(columns=(*NAMES, "features.text"), min_rows=100), model="m", title=SCRIPT,
        comparison=Comparison.CANARY_VS_STABLE, reports_dir=reports / "drift", workspace=home / "evidently", **during,
    )  # fmt: skip
    assert (drift.html, drift.unsaved) == (reports / "drift/m/canary_vs_stable/20260301T090000Z.html", ""), (
        drift.reason
    )
    checks = [Check(column=name, type="between", min=0, max=1, on_fail=OnFail.WARN) for name in NAMES]
    checks += [
        Check(column="features.text", type="in_set", values=(IMAGE, SCRIPT)),
        Check(column="features.text", type="matches", regex=f"^{IMAGE}$"),
        Check(column=f"features.absent{IMAGE}", type="not_null"),
    ]
    docs = reports / "data_docs"
    found = check_window(frame(1), DataChecks(checks=tuple(checks)), model="m", docs_dir=docs, **during)
    assert (found.page is not None, found.unsaved) == (True, "")
    (reports / "rollout.html").write_text(hostile_page(home, f"\"'>{IMAGE}{SCRIPT}{LINK}"))
    return home


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    port = free_base(1)
    app = Guard(application(Settings.from_environment({"RAMPGATE_HOME": str(home)})), Rules(port=port))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = threading.Thread(target=server.run)
    serving.start()
    assert wait_until(lambda: server.started, seconds=10)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    serving.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def paths(home: Path) -> list[str]:
    found = sorted(str(page.relative_to(home / "reports")) for page in (home / "reports").rglob("*.html"))
    assert len(found) == 4, found
    return found


def opened(context: Any, address: str) -> Any:
    """A page on which everything that was to run has run, or failed to."""
    page = context.new_page()
    page.goto(address, wait_until="load")
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(200)
    return page


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with its policy", "by escaping alone"])
def test_no_name_or_value_runs_anything_on_a_page(
    browser: Any, url: str, home: Path, bypass_csp: bool
) -> None:
    context = browser.new_context(bypass_csp=bypass_csp)
    ran = {path: opened(context, f"{url}/{path}").evaluate(RAN) for path in paths(home)}
    context.close()
    assert ran == dict.fromkeys(ran)


def test_a_page_that_holds_a_script_all_the_same_is_not_allowed_to_run_it_or_reaches_nothing(
    browser: Any, url: str, home: Path
) -> None:
    script = "<table></table><script>window.ran=1;fetch('/').catch(() => {window.refused=1})</script>"
    for folder in ("", "drift/"):
        (home / "reports" / folder / "script.html").write_text(script)
    context = browser.new_context()
    plain, drawn = opened(context, f"{url}/script.html"), opened(context, f"{url}/drift/script.html")
    found = [page.evaluate("[window.ran, window.refused, self.origin]") for page in (plain, drawn)]
    context.close()
    assert found == [[None, None, url], [1, 1, "null"]]
