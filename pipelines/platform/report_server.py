"""Serves <home>/reports on loopback, read-only: rollout reports, Great Expectations' Data Docs, Evidently's drift pages.

What the pages show was named by other people. They are escaped where they are written; here the browser is told, too, not
to run anything in them, or, for the pages that Evidently draws with a script of its own, to do so in a place where
nothing can be reached.
"""

from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from resources.monitoring.page_style import DRAWN, STYLED
from resources.settings import Settings

DRIFT = "drift"
"""The folder of pages that are drawn by a script."""
_FENCE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLED = f"{STYLED}; {_FENCE}"
_DRAWN = f"sandbox allow-scripts allow-downloads; {DRAWN}; {_FENCE}"


def application(settings: Settings) -> Starlette:
    """A folder's index.html answers for the folder; the root lists nothing but itself."""
    folder = settings.home / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    return Starlette(routes=[Route("/", _root), Mount("/", _Pages(directory=folder, html=True))])


class _Pages(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        drawn = Path(path).parts[:1] == (DRIFT,)
        response.headers["content-security-policy"] = _DRAWN if drawn else _STYLED
        return response


def _root(_: object) -> PlainTextResponse:
    return PlainTextResponse("Rampgate reports. Links to them are in the Dagster UI.\n")
