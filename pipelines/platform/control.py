"""Up and down: one supervisord, every part answering; then nothing left running."""

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import psutil

from pipelines.core.errors import RampgateError, ServingError
from pipelines.core.manifest.load import load_models
from pipelines.platform.configuration import supervisord_file, write_configuration
from pipelines.platform.parts import Part
from pipelines.platform.watchdog import Watch
from resources.serving.embedded.layout import LONGEST_SOCKET_PATH, Layout, is_free
from resources.serving.embedded.restore import restore, unserved
from resources.serving.embedded.supervisor import STOPPED, Supervisor, last_lines, wait_until
from resources.settings import HOST, Settings


def holder(port: int) -> str:
    """`process 123 (python -m http.server)`, or `another process` where it cannot be told."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                words = " ".join(psutil.Process(connection.pid).cmdline())
                return f"process {connection.pid} ({words.strip()[:120]})"
    except psutil.Error:  # ended meanwhile, or not for this user to know
        return "another process"
    return "another process"


# Up and down: one supervisord, every part answering; then nothing left running.


Say = Callable[[str], None]

_POLL_SECONDS = 0.25

_MEND_SECONDS = 10.0

_OURS = {"supervisor", "ledger.db", "lake", "demo", "bench"}
"""Names in a home by which it is known for one."""

_SOCKET = "/supervisor.sock.4194304"
"""Supervisord binds its socket under a name that ends in its process id; of these, Linux's largest."""

LONGEST_HOME = LONGEST_SOCKET_PATH - len(_SOCKET)

_NOT_IN_A_PATH = """# ? % " * [ \\ line breaks and blanks before ;"""

_UNUSABLE = re.compile(r"""[#?%"*\[\\\n\r]|\s;""")
"""Ends or changes a gRPC address, a value in supervisord's file, or the pattern by which it finds predictors."""

_OLD_SECONDS = 90.0
"""A part that was started longer ago than this is not starting any more."""


class PlatformError(RampgateError):
    """The platform could not be started or stopped; the message names the part."""


def require_usable_home(settings: Settings) -> None:
    """Raise `PlatformError` for a home whose path supervisord's file, a socket or its address cannot hold."""
    home = str(settings.home)
    if found := _UNUSABLE.search(home):
        raise PlatformError(
            f"RAMPGATE_HOME {home}: the path holds {found[0]!r}, must hold none of {_NOT_IN_A_PATH}: choose another home"
        )
    if (length := len(os.fsencode(home))) > LONGEST_HOME:
        raise PlatformError(
            f"RAMPGATE_HOME {home}: the path has {length} bytes, must have at most {LONGEST_HOME}, because sockets"
            " lie in it: choose a shorter home"
        )


def private_home(settings: Settings, say: Say) -> None:
    """Make the home, for its owner alone. One that is open to others is closed and told, if it is Rampgate's own.

    Raises `PlatformError` for one that is open and holds other things.
    """
    home = settings.home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = home.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        say(f"{home} belongs to user {status.st_uid}, who can change everything in it")
    if not mode & 0o077:
        return
    found = {each.name for each in home.iterdir()}
    if found and not found & _OURS:
        raise PlatformError(
            f"RAMPGATE_HOME {home} is open to other users (mode {mode:04o}) and holds other things than Rampgate's:"
            " choose a folder of its own, or close this one with chmod 700"
        )
    home.chmod(0o700)
    say(f"{home} was open to other users (mode {mode:04o}): it is yours alone now (0700)")


def up(settings: Settings, parts: Sequence[Part], *, say: Say = print, seconds: float | None = None) -> None:
    """Start what does not run and wait until every part works, for `seconds`, or as long as the slowest may take to start.

    Raises `PlatformError` naming the port that is taken, or the part that does not answer and its last
    words. Repeating it is safe: parts that work are left alone, one that runs and does not work is started again.
    """
    require_usable_home(settings)
    seconds = max((part.start_seconds for part in parts), default=0.0) if seconds is None else seconds
    supervisor = Supervisor(Layout(settings.home).socket)
    private_home(settings, say)
    _require_no_frozen_supervisord(settings, supervisor)
    running = _running(supervisor)
    _require_free_ports([part for part in parts if part.name not in running])
    if not supervisor.alive():
        models = load_models(settings.manifests).models
        channels = [model.rollout.alerts for model in models]
        write_configuration(
            settings,
            parts,
            [name for each in channels for name in (*each.info, *each.warning, *each.critical)],
        )
        restore(settings, {model.name: model.rollout.artefact.allow for model in models})
        _start_supervisord(settings, supervisor)
    _start_parts(settings, supervisor, parts, _Mending(supervisor, running), say=say, seconds=seconds)
    if any(part.name == "gateway" for part in parts):
        _await_services(settings, seconds=seconds)


def down(settings: Settings, *, say: Say = print, seconds: float = 90.0) -> None:
    """Stop every part and supervisord, and wait for them. Data stays."""
    supervisor = Supervisor(Layout(settings.home).socket)
    if not supervisor.alive():
        say("nothing is running")
        return
    pid = supervisor.pid()
    supervisor.shutdown()
    if not wait_until(lambda: not psutil.pid_exists(pid), seconds=seconds):
        raise PlatformError(f"supervisord ({pid}) has not stopped within {seconds:g} s")
    say("stopped")


class _Mending:
    """Starts again what was running before and does not work; a part that was just started is given its time."""

    def __init__(self, supervisor: Supervisor, running: set[str]) -> None:
        self._supervisor, self._running = supervisor, running
        self._watch = Watch(supervisor=supervisor, every=1.0)

    def look(self, waiting: Sequence[Part]) -> list[str]:
        processes = self._supervisor.processes()
        old = {name for name in self._running & processes.keys() if processes[name].age > _OLD_SECONDS}
        return self._watch.look(
            replace(part, patience_seconds=_MEND_SECONDS, start_seconds=_MEND_SECONDS)
            for part in waiting
            if part.name in old and processes[part.name].age > part.settle_seconds
        )


def _start_supervisord(settings: Settings, supervisor: Supervisor) -> None:
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(supervisord_file(settings))]
    started = subprocess.run(command, capture_output=True, text=True, check=False, cwd=settings.home)
    if started.returncode or not wait_until(supervisor.alive, seconds=10):
        raise PlatformError(f"supervisord did not start: {started.stdout}{started.stderr}".strip())


def _start_parts(
    settings: Settings,
    supervisor: Supervisor,
    parts: Sequence[Part],
    mending: _Mending,
    *,
    say: Say,
    seconds: float,
) -> None:
    """Start each part as soon as the one that it needs works, and report each once."""
    began = time.monotonic()
    waiting, works = list(parts), set[str]()
    started: set[str] = set()
    while waiting:
        names = {part.name for part in parts}
        for part in waiting:
            if part.name not in started and (part.after not in names or part.after in works):
                _start(supervisor, part)
                started.add(part.name)
        for part in [each for each in waiting if each.name in started and each.trouble() is None]:
            works.add(part.name)
            waiting.remove(part)
            say(f"  {part.name:<10} {time.monotonic() - began:5.1f} s  {part.url}")
        for sentence in mending.look(waiting):
            say(f"  {sentence}")
        if waiting and time.monotonic() - began > seconds:
            raise PlatformError(_stuck(settings, waiting[0], seconds))
        time.sleep(_POLL_SECONDS)


def _await_services(settings: Settings, *, seconds: float) -> None:
    """After a reboot the predictors load their models while the other parts start."""
    if not wait_until(lambda: unserved(settings) is None, seconds=seconds, every=_POLL_SECONDS):
        raise PlatformError(f"a service does not answer after {seconds:g} s: {unserved(settings)}")


def _start(supervisor: Supervisor, part: Part) -> None:
    processes = supervisor.processes()
    if part.name not in processes:
        raise PlatformError(
            f"{part.name}: the running supervisord does not know this part; run `down`, then `up`"
        )
    if processes[part.name].state in STOPPED:
        supervisor.start(part.name)


def _stuck(settings: Settings, part: Part, seconds: float) -> str:
    log = Layout(settings.home).logs / f"{part.name}.log"
    return f"{part.name} does not work after {seconds:g} s: {part.trouble()}\n{log}:\n{last_lines(log)}"


def _require_free_ports(parts: Sequence[Part]) -> None:
    taken = [
        f"port {each.port} for {part.name} is held by {holder(each.port)}; set {each.setting} to another"
        for part in parts
        for each in part.ports
        if not is_free(each.port)
    ]
    if taken:
        raise PlatformError(f"on {HOST}: " + "\n".join(taken))


def _require_no_frozen_supervisord(settings: Settings, supervisor: Supervisor) -> None:
    """One that stands still keeps its socket and its parts: a second one would only make it worse."""
    try:
        pid = int((supervisord_file(settings).parent / "supervisord.pid").read_text())
        ours = str(supervisord_file(settings)) in psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):  # not started, ended meanwhile, or somebody else's
        return
    if ours and not supervisor.alive():
        raise PlatformError(
            f"supervisord (process {pid}) runs and does not answer; wake it with `kill -CONT {pid}`, or end it with "
            f"`kill -9 {pid}`, end the processes that it leaves behind, and start again with `up`"
        )


def _running(supervisor: Supervisor) -> set[str]:
    try:
        processes = supervisor.processes()
    except ServingError:
        return set()
    return {name for name, process in processes.items() if process.state not in STOPPED}
