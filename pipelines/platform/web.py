"""Serves <home>/reports on loopback, read-only: rollout reports, Great Expectations' Data Docs, Evidently's drift pages.

What the pages show was named by other people. They are escaped where they are written; here the browser is told, too, not
to run anything in them, or, for the pages that Evidently draws with a script of its own, to do so in a place where
nothing can be reached.
"""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from pipelines.platform.parts import switches_file
from pipelines.platform.switches import SwitchesLook, last_look
from pipelines.platform.web_guard import JSON, App, Guard, Rules
from resources.checks.pages import DRAWN, STYLED, render
from resources.notifier import first_sentence
from resources.settings import HOST, ROOT, Settings

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
    known = look if look is not None and look.is_known(now) else None
    return render(
        "pipelines.reports", "index.html", policy=STYLED, look=known, first_sentence=first_sentence, UTC=UTC
    )


# python -m pipelines.platform.web dagster|evidently|mlflow|reports: a web part behind its guard.
#
# The programs of Dagster, MLflow and Evidently listen by themselves. Here they do not: each gives its application, and what
# listens is the guard.


_LIVE_MILLISECONDS = 2000

_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _MORE_CONNECTIONS = 15_000, 3600, 20
"""What `dagster-webserver` sets where nobody says otherwise."""

_STOP_SECONDS = 5
"""How long pages that are open, with a websocket that never ends, hold up a stop."""

_MLFLOW_TYPES = JSON | {"application/octet-stream", "application/x-protobuf"}
"""Artefacts and traces; a page may send neither to another site unasked."""


@contextmanager
def _dagster(settings: Settings) -> Generator[App]:
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _MORE_CONNECTIONS)
        target = WorkspaceFileTarget(paths=[str(ROOT / "workspace.yaml")])
        with WorkspaceProcessContext(instance, target, version=__version__) as context:
            yield create_app_from_workspace_process_context(context, "", _LIVE_MILLISECONDS)


@contextmanager
def _evidently(settings: Settings) -> Generator[App]:
    from evidently.ui.service.app import create_app, get_config

    workspace = str(settings.home / "evidently")
    yield create_app(get_config(host=HOST, port=settings.ports.evidently, workspace=workspace))


@contextmanager
def _mlflow(settings: Settings) -> Generator[App]:
    """As `mlflow server` does before it starts uvicorn on this application."""
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    home, root = settings.home / "mlflow", "mlflow-artifacts:/"
    store = f"sqlite:///{home / 'mlflow.db'}"
    initialize_backend_stores(store, store, root)
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: store,
        constants.REGISTRY_STORE_URI_ENV_VAR: store,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: (home / "artifacts").as_uri(),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        # It knows neither our names nor our rules: any page on this machine may write, and /graphql is left out.
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    }
    from mlflow.server.fastapi_app import app

    yield app


@contextmanager
def _reports(settings: Settings) -> Generator[App]:
    yield application(settings)


_APPLICATIONS: dict[str, Callable[[Settings], AbstractContextManager[App]]] = {
    "dagster": _dagster,
    "evidently": _evidently,
    "mlflow": _mlflow,
    "reports": _reports,
}


def main() -> None:
    """Serve until SIGTERM."""
    name, settings = sys.argv[1], Settings.from_environment()
    types = _MLFLOW_TYPES if name == "mlflow" else JSON
    rules = Rules(port=vars(settings.ports)[name], hosts=settings.hosts, types=types)
    with _APPLICATIONS[name](settings) as app:
        uvicorn.run(
            Guard(app, rules),
            host=HOST,
            port=rules.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )


if __name__ == "__main__":
    main()
