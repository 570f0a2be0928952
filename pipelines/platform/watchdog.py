"""Starts a part again that does not do its work: supervisord sees only processes that end.

A frozen process does not end, and a code server whose child has gone still listens.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipelines.core.errors import RampgateError, ServingError
from pipelines.platform import health
from pipelines.platform.leases import LeaseWatch, Teller
from pipelines.platform.parts import Part, beat_file, leases_beat, parts, predictor, switches_file
from pipelines.platform.switches import last_look, look_now, write_look
from resources.links import Links
from resources.serving.embedded.gateway import turn_log_over
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lease import LeaseGuard
from resources.serving.embedded.supervisor import Process, Supervisor
from resources.settings import Settings

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0

SWITCHES_SECONDS = 60.0
"""How often Dagster is asked whether a sensor or schedule is off."""

STEADY_SECONDS = 600.0

_MOST_DOUBLINGS = 5

Clock = Callable[[], float]


@dataclass(kw_only=True)
class _Seen:
    """What is known of one part."""

    pid: int = 0
    at: float = 0.0
    worked: bool = False
    """Since this process began."""
    failing: float = 0.0
    """Seconds between the first and the last of the answers that were missed in a row."""
    missed: int = 0
    restarts: int = 0
    restarted_at: float = 0.0


@dataclass(kw_only=True)
class Watch:
    """Looks at parts, and ends the process of one that has not done its work for long enough; supervisord starts it.

    One that has worked may be silent for its `patience_seconds`, one that has not yet for its `start_seconds`; both
    double with each restart in a row. Time in which nobody looked (a suspended machine, a loaded one) does not count.
    """

    supervisor: Supervisor
    every: float = EVERY_SECONDS
    clock: Clock = time.monotonic
    _seen: dict[str, _Seen] = field(default_factory=dict[str, _Seen])

    def look(self, watched: Iterable[Part]) -> list[str]:
        """Ask each part once. Returns a sentence for every one that was started again. Raises ServingError."""
        processes = self.supervisor.processes()
        running = [(part, processes.get(part.name)) for part in watched]
        return [
            said
            for part, process in running
            if process is not None and process.state == "RUNNING" and (said := self._judge(part, process))
        ]

    def _judge(self, part: Part, process: Process) -> str | None:
        seen = self._seen.setdefault(part.name, _Seen())
        if seen.pid != process.pid:
            seen.pid, seen.worked, seen.failing, seen.missed = process.pid, False, 0.0, 0
        trouble = (part.own_trouble or part.trouble)()
        now = self.clock()
        if trouble is None:
            self._works(seen, now)
            return None
        seen.failing += min(now - seen.at, 2 * self.every) if seen.missed else 0.0
        seen.missed, seen.at = seen.missed + 1, now
        if seen.failing < self._allowed(part, process, seen):
            return None
        self.supervisor.kill(part.name)
        silent, seen.failing, seen.missed = seen.failing, 0.0, 0
        seen.restarts, seen.restarted_at = seen.restarts + 1, now
        return (
            f"{part.name} has not worked for {silent:.0f} s and was started again: {trouble.splitlines()[0]}"
        )

    def _works(self, seen: _Seen, now: float) -> None:
        seen.worked, seen.failing, seen.missed, seen.at = True, 0.0, 0, now
        if now - seen.restarted_at > STEADY_SECONDS:
            seen.restarts = 0

    def _allowed(self, part: Part, process: Process, seen: _Seen) -> float:
        settled = process.age > part.settle_seconds
        allowed = part.patience_seconds if seen.worked and settled else part.start_seconds
        return allowed * 2 ** min(seen.restarts, _MOST_DOUBLINGS)


def main() -> None:
    """Watch every part of the platform until SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    settings = Settings.from_environment()
    watch = Watch(supervisor=Supervisor(Layout(settings.home).socket))
    others = [part for part in parts(settings) if part.name != "watch"]
    switches = Switches(settings)
    leases = keep_leases(settings) if settings.serving == "embedded" else None
    while leases is None or leases.alive:
        try:
            one_round(settings, watch, others)
            switches.look()
        except (OSError, ServingError) as error:  # a full disk, a supervisord that is busy: look again
            log.warning("%s", error)
        time.sleep(EVERY_SECONDS)
    sys.exit("a thread that keeps the leases of canaries has ended")  # supervisord starts all of it again


def keep_leases(settings: Settings) -> LeaseWatch:
    """Have the leases of canaries kept from now on, on threads of their own."""
    from pipelines.rollouts.controller import utc_now
    from resources.ledger.ledger import Ledger
    from resources.notifier import Notifier

    notifier = Notifier(Ledger(settings.ledger_url), settings, clock=utc_now)
    leases = LeaseWatch(
        guard=LeaseGuard(settings), teller=Teller(settings, notifier), beat=leases_beat(settings)
    )
    leases.start()
    return leases


def one_round(settings: Settings, watch: Watch, others: Sequence[Part]) -> None:
    """Look at these parts and the predictors, then after the access log, which grows with traffic.

    Raises OSError and ServingError.
    """
    predictors = [found for name in watch.supervisor.processes() if (found := predictor(name))]
    for sentence in watch.look([*others, *predictors]):
        _say(settings, sentence)
    beat_file(settings).touch()
    if settings.serving == "embedded":
        turn_log_over(settings)


class Switches:
    """Tells of sensors and schedules that are off: `guardrail_sensor` off protects nobody, and cannot say so."""

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._next = 0.0

    def look(self) -> None:
        """Once a minute: alerts, and what the page of reports shows. Where the sensor that delivers alerts is off, they
        are delivered from here. Raises OSError where what was found cannot be kept.
        """
        if self._clock() < self._next:
            return
        self._next = self._clock() + SWITCHES_SECONDS
        off = health.switched_off(Links(self._settings).dagster)
        try:
            if off:
                self._tell(off)
        except RampgateError as error:
            log.warning("no alert about %s, off: %s", ", ".join(each.name for each in off or ()), error)
        path = switches_file(self._settings)
        write_look(path, look_now(off, last_look(path)))

    def _tell(self, off: Sequence[health.SwitchedOff]) -> None:
        from pipelines.rollouts.controller import utc_now
        from resources.ledger.ledger import Ledger
        from resources.notifier import Notifier, alert_switched_off

        ledger = Ledger(self._settings.ledger_url)
        for each in off:
            alert_switched_off(ledger, each.name, each.does, each.url)
        if any(each.name == "alert_sensor" for each in off):
            Notifier(ledger, self._settings, clock=utc_now).deliver()


def _say(settings: Settings, sentence: str) -> None:
    """In the log at once; as an alert, which Dagster delivers when it is back."""
    log.warning("%s", sentence)
    from resources.ledger.ledger import Ledger
    from resources.notifier import platform_alert

    name, stamp = sentence.split()[0], time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    try:
        ledger = Ledger(settings.ledger_url)
        platform_alert(
            ledger, topic=f"restarted:{name}", title=f"{name} was started again", body=f"{stamp}: {sentence}"
        )
    except RampgateError as error:
        log.warning("no alert about it: %s", error)


if __name__ == "__main__":
    main()
