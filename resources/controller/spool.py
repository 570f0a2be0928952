"""Emergency rollbacks that the ledger could not be told about: one file each, until it can."""

import contextlib
import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines.rollout.evidence import Evidence
from resources.reserve import discard, replace, reserve

log = logging.getLogger(__name__)
_ROOM = 16_384


@dataclass(frozen=True, kw_only=True)
class Emergency:
    """A rollback whose traffic change was made, or tried, without the ledger."""

    rollout_id: str
    at: datetime
    by: str
    reason: str
    evidence: tuple[Evidence, ...] = ()
    ordered: bool = False
    """A person asked for it."""


_EMERGENCY = TypeAdapter(Emergency)


class Spool:
    """The files, in one directory. What cannot be written is held in memory until it can be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, Emergency] = {}

    def reserve(self, rollout_id: str) -> None:
        """Make room for the rollout's record, so that a disk that is full later keeps it all the same.

        Raises OSError.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        reserve(self._path(rollout_id), _ROOM)

    def keep(self, emergency: Emergency) -> str:
        """Keep it across a crash; the first one of a rollout stays.

        Returns why this process alone remembers it; empty where it is on disk.
        """
        problem = self._write(emergency)
        if problem:
            self._held.setdefault(emergency.rollout_id, emergency)
        return problem

    def get(self, rollout_id: str) -> Emergency | None:
        """What is kept for this rollout. A damaged record still says that there was a rollback."""
        held = self._held.get(rollout_id)
        if held is not None:
            if not self._write(held):
                del self._held[rollout_id]
            return held
        path = self._path(rollout_id)
        try:
            return _EMERGENCY.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            return _damaged(rollout_id, path, error)

    def drop(self, rollout_id: str) -> None:
        """The ledger has it, and the rollout gets no more traffic."""
        self._held.pop(rollout_id, None)
        with contextlib.suppress(OSError):
            discard(self._path(rollout_id))

    def _write(self, emergency: Emergency) -> str:
        path = self._path(emergency.rollout_id)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                replace(path, _EMERGENCY.dump_json(emergency), from_reserve=True)
        except OSError as error:
            return f"{path}: {error.strerror}"
        return ""

    def _path(self, rollout_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(rollout_id.encode()).hexdigest()[:32]}.json"


def _damaged(rollout_id: str, path: Path, error: Exception) -> Emergency:
    """Its file was written when traffic was taken away: that much is known, and is what the ledger is told."""
    log.error("%s: the record of an emergency rollback is damaged: %s", path, error)
    return Emergency(
        rollout_id=rollout_id,
        at=datetime.now(UTC),
        by="spool",
        reason=f"an emergency rollback whose record cannot be read ({path.name}: {type(error).__name__})",
        ordered=True,
    )
