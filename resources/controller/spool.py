"""Emergency rollbacks that the ledger could not be told about: one file each, until it can."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import LedgerError
from pipelines.rollout.evidence import Evidence


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
    """The files, in one directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, emergency: Emergency) -> None:
        """Keep it across a crash; the first one of a rollout stays."""
        path = self._path(emergency.rollout_id)
        if path.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        with draft.open("wb") as file:
            file.write(_EMERGENCY.dump_json(emergency))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def get(self, rollout_id: str) -> Emergency | None:
        """What is kept for this rollout. Raises LedgerError where the file is damaged."""
        path = self._path(rollout_id)
        try:
            return _EMERGENCY.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise LedgerError(f"{path}: the record of an emergency rollback is damaged") from error

    def drop(self, rollout_id: str) -> None:
        """The ledger has it."""
        with contextlib.suppress(FileNotFoundError):
            self._path(rollout_id).unlink()

    def waiting(self) -> tuple[str, ...]:
        """Rollouts with something to tell the ledger."""
        files = sorted(self._folder.glob("*.json"))
        return tuple(_EMERGENCY.validate_json(path.read_bytes()).rollout_id for path in files)

    def _path(self, rollout_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(rollout_id.encode()).hexdigest()[:32]}.json"
