"""The files that the parts read when they start, written below `Settings.home`."""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipelines.platform.parts import Part, code_socket, runs_socket
from resources.environment import confined
from resources.files import write_whole
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.predictors import escape
from resources.settings import ROOT, Settings

TELEMETRY_OFF = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow's job runner: several processes that nothing here uses.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GX_ANALYTICS_ENABLED": "false",
}

THREADS = "16"
"""Of the code server: most sensors look for most of a minute, each in a thread; Dagster counts processors instead."""

# The instance keeps no more than a person still looks at; decisions are in the ledger for good. Nothing here is
# automated by conditions on assets.
_DAGSTER = """\
telemetry: {enabled: false}
nux: {enabled: false}
sensors: {use_threads: true, num_workers: 8}
schedules: {use_threads: true, num_workers: 2}
run_queue: {max_concurrent_runs: 3, dequeue_interval_seconds: 1}
run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  start_timeout_seconds: 180
  cancel_timeout_seconds: 60
  free_slots_after_run_end_seconds: 30
auto_materialize: {enabled: false, use_sensors: false}
retention:
  schedule: {purge_after_days: {skipped: 1, success: 30, failure: 30, started: -1}}
  sensor: {purge_after_days: {skipped: 1, success: 30, failure: 30, started: -1}}
"""


def supervisord_file(settings: Settings) -> Path:
    """Where the supervisor's configuration lies."""
    return settings.home / "supervisor" / "supervisord.conf"


def write_configuration(settings: Settings, parts: Iterable[Part], channels: Iterable[str] = ()) -> None:
    """Write supervisord.conf and dagster.yaml and make the directories that the parts expect.

    `channels` are the variables that manifests name for their alerts; the watch, which delivers some, is given them.
    """
    Layout(settings.home).create()
    for folder in ("mlflow", "dagster", "evidently", "reports"):
        (settings.home / folder).mkdir(parents=True, exist_ok=True)
    write_whole(settings.home / "dagster" / "dagster.yaml", _dagster(settings))
    write_whole(supervisord_file(settings), _supervisord(settings, parts, sorted(set(channels))))


def _dagster(settings: Settings) -> str:
    return f"""{_DAGSTER}\
run_launcher:
  module: pipelines.platform.run_workers.launcher
  class: ForkingRunLauncher
  config: {{socket: {json.dumps(str(runs_socket(settings)))}}}
"""


def environment(settings: Settings) -> dict[str, str]:
    """What supervisord has in its environment, on top of what `up` was started with; of both each part gets its own.

    Addresses may hold passwords: one that was given stays out of supervisord's file.
    """
    inherited = os.environ.get("MLFLOW_TRACKING_URI") == settings.mlflow_uri
    registry = {} if inherited else {"MLFLOW_TRACKING_URI": settings.mlflow_uri}
    ports = {f"RAMPGATE_{name.upper()}_PORT": str(port) for name, port in vars(settings.ports).items()}
    return {
        **TELEMETRY_OFF,
        **ports,
        "RAMPGATE_HOME": str(settings.home),
        "RAMPGATE_CODE_SOCKET": str(code_socket(settings)),
        "RAMPGATE_MANIFESTS": str(settings.manifests),
        **registry,
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "DAGSTER_GRPC_MAX_WORKERS": THREADS,
        "DAGSTER_CODE_SERVER_MAX_WORKERS": THREADS,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _supervisord(settings: Settings, parts: Iterable[Part], channels: Sequence[str]) -> str:
    layout = Layout(settings.home)
    folder = settings.home / "supervisor"
    head = f"""\
[unix_http_server]
file={escape(str(layout.socket))}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
logfile={escape(str(folder / "supervisord.log"))}
logfile_maxbytes=10MB
logfile_backups=2
pidfile={escape(str(folder / "supervisord.pid"))}
childlogdir={escape(str(layout.logs))}
directory={escape(str(ROOT))}
umask=077
environment={_pairs(environment(settings))}

[include]
files={layout.programs.relative_to(folder)}/*.conf
"""
    return "\n".join([head, *(_program(part, layout.logs, channels) for part in parts)])


def _program(part: Part, logs: Path, channels: Sequence[str]) -> str:
    named = [*part.environment, *(channels if part.name == "watch" else ())]
    extra = f"environment={_pairs(part.environment)}\n" if part.environment else ""
    return f"""\
[program:{part.name}]
command={escape(f"{shlex.join(confined(part.name, named))} {part.command}")}
{extra}autostart=false
autorestart=true
startsecs=2
startretries=1000
stopwaitsecs=20
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={escape(str(logs / f"{part.name}.log"))}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


def _pairs(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{escape(value)}"' for name, value in values.items())
