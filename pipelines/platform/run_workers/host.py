"""Forks a process for every run, knows which of them live, and ends one when it is told to."""

import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn

log = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0

_QUESTION_SECONDS = 5.0

_REMEMBERED = 200
"""Ends of runs: Dagster asks for one within seconds."""


class Host:
    """One thread, which is what makes it safe to fork; all methods are called from `serve`.

    A question is a JSON object with `do` (`launch`, `state` or `stop`) and `run_id`, and for `launch` with
    `arguments`. The answer has `state`: `running` (with `pid`), `ended` (with `how`) or `unknown`.
    """

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._running: dict[str, int] = {}
        self._ended: dict[str, str] = {}

    def serve(self, libraries: Iterable[str]) -> str:
        """Answer for ever, and import `libraries` while nobody asks.

        Returns in forked processes only: the arguments of the run that this process is to execute.
        """
        waiting = deque(libraries)
        while True:
            asked, _, _ = select.select([self._listening], [], [], 0 if waiting else _IDLE_SECONDS)
            if asked:
                arguments = self._next()
                if arguments is not None:
                    return arguments
            elif waiting:
                _import(waiting.popleft())
            self._reap(os.WNOHANG)

    def wait(self) -> None:
        """Until every run has ended."""
        self._reap(0)

    def _next(self) -> str | None:
        connection, _ = self._listening.accept()
        with connection:
            connection.settimeout(_QUESTION_SECONDS)
            try:
                with connection.makefile("rb") as asked:
                    text = asked.read()
                if not text:
                    return None  # somebody who only looks whether the host is there
                question: dict[str, str] = json.loads(text)
                arguments = question["arguments"] if question["do"] == "launch" else None
                if arguments is not None and self._fork(question["run_id"]):
                    return arguments
                connection.sendall(json.dumps(self._answer(question)).encode())
            except (OSError, ValueError, KeyError) as error:
                log.warning("a question that could not be answered: %r", error)
        return None

    def _fork(self, run_id: str) -> bool:
        """Whether this is the new process. No run is started twice, even if it is asked for twice."""
        if run_id in self._running or run_id in self._ended:
            return False
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = os.fork()
            if pid:
                self._running[run_id] = pid
            else:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return pid == 0

    def _answer(self, question: dict[str, str]) -> dict[str, Any]:
        run_id = question["run_id"]
        self._reap(os.WNOHANG)
        pid = self._running.get(run_id)
        if pid is None:
            how = self._ended.get(run_id)
            return {"state": "ended", "how": how} if how else {"state": "unknown"}
        if question["do"] == "stop":
            os.kill(pid, signal.SIGTERM)
        return {"state": "running", "pid": pid}

    def _reap(self, options: int) -> None:
        for run_id, pid in list(self._running.items()):
            ended, status = os.waitpid(pid, options)
            if ended:
                del self._running[run_id]
                self._ended[run_id] = _in_words(os.waitstatus_to_exitcode(status))
        for run_id in list(self._ended)[:-_REMEMBERED]:
            del self._ended[run_id]


def work_and_end(work: Callable[[], None]) -> NoReturn:
    """What a forked process does, and its end: at once, without what libraries do at exit.

    DuckDB was imported by the host, and crashes there: it waits for threads that were not forked.
    """
    try:
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 -- the last frame of the process: said, and told by its exit code
        traceback.print_exc()
        code = 1
    logging.shutdown()
    with suppress(OSError):  # a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _import(library: str) -> None:
    """A library that is not there, or broken, is the business of the runs that need it."""
    try:
        importlib.import_module(library)
    except Exception:
        log.exception("cannot import %s ahead", library)
    gc.freeze()  # what is shared with the runs stays shared: no collection writes to it
    if threading.active_count() > 1:
        log.warning(
            "importing %s has left a thread, which no run will have: %s", library, threading.enumerate()
        )


def _in_words(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"exited with {code}"
