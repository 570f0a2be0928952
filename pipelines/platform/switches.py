"""What the watch last found of sensors and schedules that are off, kept in a file: whoever shows it asks nobody."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from pipelines.platform.health import SwitchedOff
from resources.files import write_whole

KNOWN_FOR = timedelta(minutes=5)
"""An older look says nothing of now; one is taken every minute."""


class Off(BaseModel):
    """A sensor or schedule that is off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    does: str
    url: str
    since: AwareDatetime
    """When it was first seen off: when it was turned off, nobody has noted."""


class SwitchesLook(BaseModel):
    """One look of the watch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    answered: bool
    """Whether Dagster could say; where it could not, `off` is what it said last."""
    off: tuple[Off, ...]

    def is_known(self, now: datetime) -> bool:
        """Whether it was taken in the last minutes. A time to come is no time at which anybody looked."""
        return -KNOWN_FOR < now - self.at < KNOWN_FOR


def look_now(off: Sequence[SwitchedOff] | None, before: SwitchesLook | None) -> SwitchesLook:
    """What is off now; what the look before, of the last minutes, has seen off is off since then. None: not known."""
    now = datetime.now(UTC)
    past = before.off if before is not None and before.is_known(now) else ()
    if off is None:
        return SwitchesLook(at=now, answered=False, off=past)
    since = {(each.name, each.url): each.since for each in past}
    found = [Off(**each._asdict(), since=since.get((each.name, each.url), now)) for each in off]
    return SwitchesLook(at=now, answered=True, off=tuple(found))


def write_look(path: Path, look: SwitchesLook) -> None:
    """Whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, look.model_dump_json())


def last_look(path: Path) -> SwitchesLook | None:
    """None where there is none, or none that can be read."""
    try:
        return SwitchesLook.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
