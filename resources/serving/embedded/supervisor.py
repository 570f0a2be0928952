"""Supervisord over its unix socket."""

import http.client
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.core.errors import ServingError

STOPPED = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})

_LINE = 300

_TIMEOUT = 15.0
"""Every call is answered at once, unless supervisord itself stands still."""

FAILED = frozenset({"BACKOFF", "EXITED", "FATAL"})

_ALREADY_ADDED, _BAD_NAME, _NOT_RUNNING, _ALREADY_STARTED = 90, 10, 70, 60


@dataclass(frozen=True, kw_only=True)
class Process:
    """One supervised program."""

    name: str
    state: str
    """Supervisord's word: STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL."""
    pid: int
    log: Path
    description: str
    age: float = 0.0
    """Seconds since it was started; 0 where it does not run."""


class Supervisor:
    """A short conversation with supervisord; every call opens its own connection."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def alive(self) -> bool:
        """Whether a supervisord answers at the socket."""
        try:
            self._call("getState")
        except ServingError:
            return False
        return True

    def processes(self) -> dict[str, Process]:
        """Every program by name."""
        rows = cast(list[dict[str, Any]], self._call("getAllProcessInfo"))
        return {row["name"]: _process(row) for row in rows}

    def add(self, name: str) -> None:
        """Start a program whose file is in place; nothing happens if it runs already."""
        self._call("reloadConfig")
        self._call("addProcessGroup", name, unless=_ALREADY_ADDED)
        if self.processes()[name].state in STOPPED:
            self._call("startProcess", name, False, unless=_ALREADY_STARTED)

    def stop(self, name: str, *, seconds: float) -> None:
        """Stop a program and wait until it is gone. An unknown one counts as stopped."""
        if name not in self.processes():
            return
        self._call("stopProcess", name, False, unless=_NOT_RUNNING)
        gone = wait_until(lambda: self.processes()[name].state in STOPPED, seconds=seconds)
        if not gone:
            raise ServingError(f"{name} is still {self.processes()[name].state} after {seconds:g} s")

    def forget(self, name: str) -> None:
        """Drop a stopped program whose file is gone."""
        self._call("reloadConfig")
        self._call("removeProcessGroup", name, unless=_BAD_NAME)

    def start(self, name: str) -> None:
        """Start a known program without waiting for it."""
        self._call("startProcess", name, False, unless=_ALREADY_STARTED)

    def kill(self, name: str) -> None:
        """End a program without asking it, even one that is frozen; supervisord starts it again by itself."""
        self._call("signalProcess", name, "KILL", unless=_NOT_RUNNING)

    def shutdown(self) -> None:
        """Ask supervisord to stop its programs, all at the same time, and then itself."""
        self._call("stopAllProcesses", False)
        self._call("shutdown")

    def pid(self) -> int:
        """Supervisord's own process id."""
        return cast(int, self._call("getPID"))

    def _call(self, method: str, *arguments: Any, unless: int | None = None) -> Any:
        """One XML-RPC call; the fault code `unless` means that there was nothing to do."""
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=_transport(self._socket))
        try:
            with proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == unless:
                return None
            raise ServingError(f"supervisord refused {method}{arguments}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise ServingError(
                f"supervisord does not answer at {self._socket} ({error}); is the platform up?"
            ) from error


def wait_until(done: Callable[[], bool], *, seconds: float, every: float = 0.05) -> bool:
    """Poll until `done` or the deadline; returns whether it was done."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def last_lines(log: Path, count: int = 15) -> str:
    """The end of what a program printed, each line cut at 300 characters, or a note that it printed nothing."""
    return tail(log.read_text(errors="replace") if log.is_file() else "", count) or f"(nothing in {log})"


def tail(text: str, count: int) -> str:
    """The last lines of a text, each cut at 300 characters."""
    return "\n".join(line[:_LINE] for line in text.strip().splitlines()[-count:])


def _process(row: dict[str, Any]) -> Process:
    return Process(
        name=row["name"],
        state=row["statename"],
        pid=row["pid"],
        log=Path(row["stdout_logfile"]),
        description=row["spawnerr"] or row["description"],
        age=max(0.0, row["now"] - row["start"]) if row["pid"] else 0.0,
    )


def _transport(socket: Path) -> Any:
    from supervisor.xmlrpc import SupervisorTransport, UnixStreamHTTPConnection

    class Connection(UnixStreamHTTPConnection):
        """Supervisor's own, which waits for ever."""

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(_TIMEOUT)

    def connection() -> Any:
        made: Any = Connection("localhost")
        made.socketfile = str(socket)
        return made

    transport: Any = SupervisorTransport(serverurl=f"unix://{socket}")
    transport._get_connection = connection
    return transport
