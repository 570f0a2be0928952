"""What runs, and where to find it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.core.errors import ServingError
from pipelines.platform import health
from pipelines.platform.parts import Part, predictor
from resources.notifier import switched_off
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.supervisor import Process, Supervisor
from resources.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """One line of `status`."""

    name: str
    state: str
    pid: int
    trouble: str
    url: str


def status(settings: Settings, parts: Sequence[Part]) -> list[PartStatus]:
    """The parts, the predictor processes, the sensors and schedules that are off; all `down` without a supervisord."""
    try:
        processes = Supervisor(Layout(settings.home).socket).processes()
    except ServingError:
        processes = {}
    rows = [_of_part(part, processes.pop(part.name, None)) for part in parts]
    rows += [_of_process(process) for process in processes.values()]
    return rows + [_of_switch(off) for off in _switches(rows)]


def table(rows: Sequence[PartStatus]) -> str:
    """Aligned text for a terminal."""
    width = max(len(row.name) for row in rows)
    lines = [
        f"{row.name:<{width}}  {row.state:<8}  {row.pid or '-':>7}  {row.trouble or 'ok'}  {row.url}".rstrip()
        for row in rows
    ]
    return "\n".join([f"{'part':<{width}}  {'state':<8}  {'pid':>7}  health, address", *lines])


def _switches(rows: Sequence[PartStatus]) -> tuple[health.SwitchedOff, ...]:
    webserver = next((row for row in rows if row.name == "dagster" and row.pid), None)
    return () if webserver is None else health.switched_off(webserver.url) or ()


def _of_switch(off: health.SwitchedOff) -> PartStatus:
    return PartStatus(name=off.name, state="off", pid=0, trouble=switched_off(off.does), url=off.url)


def _of_part(part: Part, process: Process | None) -> PartStatus:
    if process is None or not process.pid:
        state = "down" if process is None else process.state.lower()
        return PartStatus(name=part.name, state=state, pid=0, trouble="not running", url=part.url)
    trouble = (part.trouble() or "").splitlines()
    return PartStatus(
        name=part.name,
        state=process.state.lower(),
        pid=process.pid,
        trouble=trouble[0] if trouble else "",
        url=part.url,
    )


def _of_process(process: Process) -> PartStatus:
    found = predictor(process.name)
    if found is not None:
        return _of_part(found, process)
    trouble = "" if process.state == "RUNNING" else process.description
    return PartStatus(
        name=process.name, state=process.state.lower(), pid=process.pid, trouble=trouble, url=""
    )
