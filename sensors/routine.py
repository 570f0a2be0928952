"""What comes round for every model, whether it has a rollout or not: loading the log, data checks and drift."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.monitoring.windows import latest_whole
from pipelines.rollouts.naming import AssetJob, Turn, job_name
from resources.configured import LedgerResource, SettingsResource
from resources.lake.windows import ingested_until
from resources.notifier import contained
from resources.settings import Settings

INGEST: Mapping[str, timedelta] = {
    "low": timedelta(minutes=15),
    "standard": timedelta(minutes=5),
    "high": timedelta(minutes=1),
}

WINDOWS: Mapping[str, timedelta] = {
    "low": timedelta(days=1),
    "standard": timedelta(hours=1),
    "high": timedelta(minutes=15),
}
"""How often the tiers load the prediction log, and check data and drift, when no rollout asks for it."""


class Turns(NamedTuple):
    """When a model's job comes round: every `period`, at a time of its own, so that many models do not come at once."""

    job: str
    period: timedelta

    def number(self, at: datetime) -> int:
        """How many turns have begun by then."""
        return int((at.timestamp() - self._offset()) // self.period.total_seconds())

    def begun(self, number: int) -> datetime:
        """When the turn of this number began."""
        return datetime.fromtimestamp(number * self.period.total_seconds() + self._offset(), UTC)

    def _offset(self) -> float:
        digest = hashlib.sha256(self.job.encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48 * self.period.total_seconds()


def routine_sensor(
    models: Sequence[Model],
    jobs: Sequence[AssetJob] = (),
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorDefinition:
    """Asks for the ingestion and the windows of each model as its tier says, where something was logged."""

    @dg.sensor(
        name="routine_sensor",
        jobs=jobs,
        minimum_interval_seconds=20,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Loads what was logged into the lake, and looks for bad data and drift, for every model as often as its"
            " tier says. A model for which nothing was logged is left alone."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, ledger: LedgerResource, settings: SettingsResource
    ) -> dg.SkipReason | dg.SensorResult:
        now = clock()
        last = _last(context.cursor) or now
        requests: list[dg.RunRequest] = []
        for model in models:
            where = f"{model.name}'s routine"
            with contained(ledger.get(), context.log, where=where, model=model.name):
                requests += _due(settings.get(), model, last, now)
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(now.isoformat()))

    return sensor


def _last(cursor: str | None) -> datetime | None:
    """When it was looked last: all that has to be remembered."""
    return datetime.fromisoformat(json.loads(cursor)) if cursor else None


def _due(settings: Settings, model: Model, last: datetime, now: datetime) -> Iterator[dg.RunRequest]:
    tier, name = model.rollout.tier, model.name
    folders = (settings.prediction_log / name, settings.outcomes / name)
    elsewhere = bool(settings.log_store or settings.log_blobs)
    ingest = Turns(job_name(name, "ingest"), INGEST[tier])
    if _comes(ingest, last, now) and (elsewhere or any(map(_waits, folders))):
        yield _request(ingest, now)
    windows = Turns(job_name(name, "windows"), WINDOWS[tier])
    if _comes(windows, last, now):
        window = max(model.rollout.data_checks.window, model.rollout.drift.window)
        since = windows.begun(windows.number(now)) - windows.period - window
        if elsewhere or (_changed(folders[0]) or since) > since:
            yield _request(windows, now, partition=latest_whole(model.rollout, now))


def _comes(turns: Turns, last: datetime, now: datetime) -> bool:
    """Of turns that were missed, the latest stands for all."""
    return turns.number(now) > turns.number(last)


def _request(turns: Turns, now: datetime, partition: str | None = None) -> dg.RunRequest:
    key = f"{turns.job}:{turns.begun(turns.number(now)).isoformat()}"
    return dg.RunRequest(job_name=turns.job, run_key=key, tags=Turn.SCHEDULED.tags, partition_key=partition)


def _waits(folder: Path) -> bool:
    """Whether something was logged since the last ingestion that ended well began, or is in a segment that is open."""
    changed, ingested = _changed(folder), ingested_until(folder)
    return changed is not None and (ingested is None or changed >= ingested or _is_open(folder))


def _is_open(folder: Path) -> bool:
    """A writer that died has left it: the ingestion closes it when it is old enough."""
    return any(size for size, _ in _logged(folder, "*.open"))


def _changed(folder: Path) -> datetime | None:
    """When a log was last written to; None where it is empty."""
    times = [at for pattern in ("*.jsonl", "*.open") for size, at in _logged(folder, pattern) if size]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _logged(folder: Path, pattern: str) -> Iterator[tuple[int, float]]:
    """Bytes and last change of the files; none where there is no such folder."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # closed or removed meanwhile
            found = path.stat()
            yield found.st_size, found.st_mtime
