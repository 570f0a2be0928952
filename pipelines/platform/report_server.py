"""Serves <home>/reports on loopback, read-only: rollout reports, Great Expectations' Data Docs, Evidently's drift pages.

What the pages show was named by other people. They are escaped where they are written; here the browser is told, too, not
to run anything in them, or, for the pages that Evidently draws with a script of its own, to do so in a place where
nothing can be reached.
"""

from datetime import UTC, datetime
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from pipelines.platform.parts import switches_file
from pipelines.platform.switches import Off, SwitchesLook, last_look
from resources.monitoring.page_style import DRAWN, NO_SCRIPT, STYLED
from resources.platform_alerts import first_sentence
from resources.reports.html import Markup, link, tag
from resources.reports.style import STYLE
from resources.settings import Settings

DRIFT = "drift"
"""The folder of pages that are drawn by a script."""
_FENCE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLED = f"{STYLED}; {_FENCE}"
_DRAWN = f"sandbox allow-scripts allow-downloads; {DRAWN}; {_FENCE}"


def application(settings: Settings) -> Starlette:
    """A folder's index.html answers for the folder; the root says which sensors and schedules are off, and asks nobody."""
    folder = settings.home / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    switches = switches_file(settings)

    def root(_: Request) -> HTMLResponse:
        page = _reports_index(last_look(switches), datetime.now(UTC))
        return HTMLResponse(page, headers={"content-security-policy": _STYLED})

    return Starlette(routes=[Route("/", root), Mount("/", _Pages(directory=folder, html=True))])


class _Pages(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        drawn = Path(path).parts[:1] == (DRIFT,)
        response.headers["content-security-policy"] = _DRAWN if drawn else _STYLED
        return response


def _reports_index(look: SwitchesLook | None, now: datetime) -> str:
    title = "Rampgate reports"
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(NO_SCRIPT),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    words = tag("p", "Links to them are in the Dagster UI.")
    body = tag("body", tag("main", _switches_banner(look, now), tag("h1", title), words))
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def _switches_banner(look: SwitchesLook | None, now: datetime) -> Markup:
    """At the top where something is off, or nobody knows; nothing where all is on."""
    if look is None or not look.is_known(now):
        words = "Whether a sensor or schedule is off is not known, because the watch does not run."
        return tag("header", tag("p", words), class_="wait")
    unsure = "Dagster does not say which sensors and schedules are off now."
    doubt = Markup("") if look.answered else tag("p", unsure)
    if look.answered and not look.off:
        return Markup("")
    return tag("header", doubt, *map(_line_of_off, look.off), class_="bad" if look.off else "wait")


def _line_of_off(each: Off) -> Markup:
    since = f"{each.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    does = first_sentence(each.does)
    words = f"{each.name} is off, seen so since {since}. Until it is on, nobody does this: {does}. To switch it on, "
    return tag("p", words, link("open it in Dagster", each.url), " and turn its switch on.")
