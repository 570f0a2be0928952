"""Serves <home>/reports on loopback, read-only: Evidently reports and Great Expectations' Data Docs."""

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from resources.settings import HOST, Settings


def application(settings: Settings) -> Starlette:
    """A folder's index.html answers for the folder; the root lists nothing but itself."""
    folder = settings.home / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    return Starlette(routes=[Route("/", _root), Mount("/", StaticFiles(directory=folder, html=True))])


def _root(_: object) -> PlainTextResponse:
    return PlainTextResponse("Rampgate reports. Links to them are in the Dagster UI.\n")


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.from_environment()
    uvicorn.run(
        application(settings), host=HOST, port=settings.ports.reports, log_level="warning", access_log=False
    )


if __name__ == "__main__":
    main()
