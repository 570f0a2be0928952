"""Predictor processes: one supervised program per replica of a revision."""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import ServingError, VersionFailed
from pipelines.core.manifest.model import PredictionLog
from resources.environment import PREDICTOR, confined
from resources.files import write_whole
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.state import Deployed
from resources.serving.embedded.supervisor import FAILED, Process, Supervisor, tail
from resources.serving.predictor.logs import LOADED, STARTS
from resources.settings import ROOT

_STOP_SECONDS = 20

_STARTS = re.compile(rf"^{STARTS}: .*\n", re.MULTILINE)

_NAMED = re.compile(r'(?:^environment=|",)(\w+)="')


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Everything that a predictor process is told."""

    model_dir: Path
    digest: str
    allow: tuple[str, ...]
    """What may run code when the model is loaded: the manifest's `artefact.allow`."""
    service: str
    version: str
    revision: str
    port: int
    log_dir: Path
    durability: str
    limits: PredictionLog = PredictionLog()


PredictorCommand = Callable[[Launch], Sequence[str]]


def model_server(launch: Launch) -> Sequence[str]:
    """The command of the real predictor."""
    limits = ["--max-rows", str(launch.limits.max_rows), "--max-bytes", str(launch.limits.max_bytes)]
    return [sys.executable, "-m", "resources.serving.predictor", *options(launch), *limits]


def options(launch: Launch) -> list[str]:
    """The arguments that every predictor takes."""
    return [
        "--model-dir", str(launch.model_dir),
        "--model-name", launch.service,
        "--model-version", launch.version,
        "--revision", launch.revision,
        "--port", str(launch.port),
        "--log-dir", str(launch.log_dir),
        "--durability", launch.durability,
        *_trust(launch.digest, launch.allow),
    ]  # fmt: skip


def _trust(digest: str, allow: Sequence[str]) -> list[str]:
    return ["--digest", digest, *(word for kind in allow for word in ("--allow", kind))]


class Predictors:
    """Starts and stops the processes of revisions."""

    def __init__(self, layout: Layout, supervisor: Supervisor) -> None:
        self._layout = layout
        self._supervisor = supervisor

    def start(
        self, revision: Deployed, commands: Mapping[int, Sequence[str]], environment: Mapping[str, str]
    ) -> None:
        """Run one process per port; those that run already are left alone."""
        for port, command in commands.items():
            name = program_name(revision, port)
            log = self._layout.logs / f"{name}.log"
            self._describe(name, _program(name, command, environment, log))
            self._supervisor.add(name)

    def stop(self, revision: Deployed) -> None:
        """Stop its processes: SIGTERM, and SIGKILL for those that do not go."""
        for port in revision.ports:
            name = program_name(revision, port)
            self._supervisor.stop(name, seconds=_STOP_SECONDS + 5)
            self._file(name).unlink(missing_ok=True)
            self._supervisor.forget(name)

    def processes(self, revision: Deployed) -> list[Process]:
        """Its processes as supervisord sees them, in the order of its ports."""
        known = self._supervisor.processes()
        names = (program_name(revision, port) for port in revision.ports)
        return [known[name] for name in names if name in known]

    def require_alive(self, revision: Deployed, pids: dict[str, int]) -> None:
        """Raise `VersionFailed` with the last words of a process that died since `pids` was last updated."""
        for process in self.processes(revision):
            died = process.state in FAILED or pids.get(process.name, process.pid) != process.pid
            if died:
                raise VersionFailed(
                    f"{process.name} died while starting ({process.description}):\n{last_words(process.log)}"
                )
            if process.pid:
                pids[process.name] = process.pid

    def _describe(self, name: str, program: str) -> None:
        """A file that says it already is left alone: on a full disk there is no room for another. Raises ServingError."""
        file = self._file(name)
        if file.is_file() and file.read_text() == program:
            return
        try:
            write_whole(file, program)
        except OSError as error:
            raise ServingError(f"{file} cannot be written: {error.strerror}") from error

    def _file(self, name: str) -> Path:
        return self._layout.programs / f"{name}.conf"


def forget_unknown(layout: Layout, revisions: Sequence[Deployed]) -> None:
    """Remove program files that no revision owns, e.g. after a crash while one was being stopped."""
    wanted = {f"{program_name(each, port)}.conf" for each in revisions for port in each.ports}
    for file in layout.programs.glob("*.conf"):
        if file.name not in wanted:
            file.unlink()


def tell_digest(layout: Layout, revision: Deployed, allow: Sequence[str]) -> bool:
    """Complete the program files of a revision that was deployed before predictors verified what they load.

    Returns whether there were any.
    """
    files = [layout.programs / f"{program_name(revision, port)}.conf" for port in revision.ports]
    untold = [file for file in files if file.is_file() and "--digest" not in file.read_text()]
    words = escape(shlex.join(_trust(revision.digest, allow)))
    for file in untold:
        text = file.read_text()
        command = next(line for line in text.splitlines() if line.startswith("command="))
        write_whole(file, text.replace(command, f"{command} {words}"))
    return bool(untold)


def confine(layout: Layout, revision: Deployed) -> None:
    """Have predictors that were deployed when they inherited every variable started as they are now."""
    for port in revision.ports:
        file = layout.programs / f"{program_name(revision, port)}.conf"
        lines = file.read_text().splitlines() if file.is_file() else []
        named = [name for line in lines if line.startswith("environment=") for name in _NAMED.findall(line)]
        before = f"command={escape(shlex.join(confined(PREDICTOR, named)))} "
        old = [line for line in lines if line.startswith("command=") and " -IS " not in line]
        for line in old:
            write_whole(file, file.read_text().replace(line, before + line.removeprefix("command=")))


def last_words(log: Path, count: int = 15) -> str:
    """The last lines of what a predictor said while it loaded. What it says of requests may quote rows: it stays there."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    *_, last = _STARTS.split(text) if _STARTS.search(text) else (LOADED,)
    return (LOADED not in last and tail(last, count)) or f"(what it said is in {log})"


def program_name(revision: Deployed, port: int) -> str:
    """Supervisord's name for the process on this port."""
    return f"{revision.name}.{port}"


def _program(name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> str:
    return "\n".join(
        [
            f"[program:{name}]",
            f"command={escape(shlex.join([*confined(PREDICTOR, sorted(environment)), *command]))}",
            f"directory={escape(str(ROOT))}",
            f"environment={','.join(_assignment(key, environment[key]) for key in sorted(environment))}",
            "priority=500",
            "autostart=true",
            "autorestart=true",
            "startsecs=3",
            "startretries=1000",
            "stopsignal=TERM",
            f"stopwaitsecs={_STOP_SECONDS}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={escape(str(log))}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
            "",
        ]
    )


def escape(value: str) -> str:
    """A value in a supervisord file, where % starts an expansion."""
    return value.replace("%", "%%")


def _assignment(key: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) or '"' in value or "\n" in value:
        raise ServingError(
            f"environment variable {key!r}: names are letters, digits and _; values hold no quote"
        )
    return f'{key}="{escape(value)}"'
