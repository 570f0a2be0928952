"""Which stretch of the prediction log checks and drift look at, and whether it speaks for an open rollout.

Where the shorter window of `data_checks` and `drift` is a whole number of hours that divides a day, there is one
partition for each such window, from `START` on, in UTC: any of them can be looked at again.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import Evidence
from resources.lake.connection import Lake
from resources.lake.windows import complete_until, longest_latency
from resources.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The first partition: no lake holds anything older."""

SETTLES = timedelta(minutes=5)
"""After its end a window waits this long for what was answered in it to be loaded."""

RUN_ALLOWANCE = timedelta(minutes=3)
"""On top of two windows: how long evidence counts while the next run is on its way."""

_HOUR, _FORMAT = timedelta(hours=1), "%Y-%m-%d-%H:%M"


def rhythm(manifest: RolloutManifest) -> timedelta:
    """How often windows are looked at while a rollout takes traffic: the shorter one's length."""
    return min(manifest.data_checks.window, manifest.drift.window)


def has_partitions(manifest: RolloutManifest) -> bool:
    """Whether there is a partition for each window: not where they are shorter than an hour, or do not divide a day."""
    every = rhythm(manifest)
    return every >= _HOUR and not every % _HOUR and not timedelta(days=1) % every


def window_partitions(manifest: RolloutManifest) -> dg.TimeWindowPartitionsDefinition | None:
    """One partition for each window; None where windows have none."""
    if not has_partitions(manifest):
        return None
    hours = rhythm(manifest) // _HOUR
    cron = "0 0 * * *" if hours == 24 else f"0 */{hours} * * *"
    return dg.TimeWindowPartitionsDefinition(start=START, fmt=_FORMAT, cron_schedule=cron, timezone="UTC")


def latest_whole(manifest: RolloutManifest, now: datetime) -> str | None:
    """The partition of the latest window that is over and has settled; None where windows have no partitions."""
    if not has_partitions(manifest):
        return None
    return (_boundary(manifest, now - SETTLES) - rhythm(manifest)).strftime(_FORMAT)


def first_whole(manifest: RolloutManifest, since: datetime) -> datetime:
    """When the first window that ends after `since` has settled; `since` where windows have no partitions."""
    if not has_partitions(manifest):
        return since
    return _boundary(manifest, since) + rhythm(manifest) + SETTLES


def _boundary(manifest: RolloutManifest, at: datetime) -> datetime:
    """The last end of a window up to `at`: they divide a day, so they are counted from any midnight."""
    return START + (at - START) // rhythm(manifest) * rhythm(manifest)


def window_end(context: dg.AssetExecutionContext, now: datetime) -> datetime:
    """The end of the run's partition; now, where it has none."""
    return context.partition_time_window.end if context.has_partition_key else now


def not_all_loaded(lake: Lake, settings: Settings, model: str, end: datetime, now: datetime) -> str:
    """Why a window that ended then cannot be judged yet; empty where all that was answered in it is in the lake.

    A window up to now is never whole, and is taken as it is. Raises LakeError.
    """
    if end >= now:
        return ""
    log = settings.prediction_log / model
    complete = complete_until(lake, model, predictions=log, now=now)
    complete -= longest_latency(lake, model, end)
    if complete >= end:
        return ""
    return (
        f"the window ended at {end:%Y-%m-%d %H:%M} UTC, and predictions are loaded up to"
        f" {complete:%Y-%m-%d %H:%M:%S} UTC: not all of it can be seen"
    )


def in_time(
    state: RolloutState, evidence: Sequence[Evidence], window: timedelta, end: datetime, now: datetime
) -> tuple[Evidence, ...]:
    """Those that belong to the rollout in time, each valid until two windows after the end of its own.

    None of a window that ended before the present step began, or two windows ago; nor any where the rollout has
    evidence of a later window: looking at last week again says nothing about today.
    """
    left = end + 2 * window + RUN_ALLOWANCE - now
    if end <= state.since or left <= timedelta(0):
        return ()
    return tuple(replace(item, valid_for=left) for item in evidence if _seen_until(state, item.name) <= end)


def _seen_until(state: RolloutState, name: str) -> datetime:
    known = state.evidence.get(name)
    end = None if known is None else known.values.get("window_end")
    return datetime.fromisoformat(end) if isinstance(end, str) else state.started_at
