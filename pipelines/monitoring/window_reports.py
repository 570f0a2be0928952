"""One window of a model: its rows from the lake, checked by Great Expectations and compared by Evidently."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

import pandas as pd

from pipelines.core.errors import NotInRegistry, RegistryError, VersionRefused
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import Evidence, OnFail
from pipelines.monitoring.data_checks import DataCheckReport, check_window, unjudged
from pipelines.monitoring.drift import compare
from pipelines.monitoring.evidence import from_drift
from pipelines.monitoring.windows import not_all_loaded
from resources.checks.evidently import Comparison, DriftReport
from resources.lake.connection import Lake
from resources.lake.windows import answered
from resources.registry.registry import Registry
from resources.settings import Settings

REFERENCE_WINDOWS = 3
"""How many windows before the current one it is compared with."""


def drift_reports(
    lake: Lake, settings: Settings, model: Model, state: RolloutState | None, end: datetime, now: datetime
) -> list[DriftReport]:
    """Both comparisons; the one with the canary where there is one in the window."""
    with_canary = (
        state is not None and state.champion is not None and bool(state.weights) and state.since < end
    )
    if why := not_all_loaded(lake, settings, model.name, end, now):
        made = [Comparison.CURRENT_VS_REFERENCE, *([Comparison.CANARY_VS_STABLE] if with_canary else [])]
        start = end - model.rollout.drift.window
        return [
            DriftReport(
                model=model.name, comparison=comparison, window_start=start, window_end=end,
                reference_rows=0, current_rows=0, reason=why,
            )
            for comparison in made
        ]  # fmt: skip
    reports = [_against_reference(lake, settings, model, end)]
    if state is not None and with_canary:
        reports.append(_against_stable(lake, settings, model, state, end))
    return reports


def drift_evidence(model: Model, report: DriftReport, now: datetime) -> Evidence:
    evidence = from_drift(report, model.rollout.drift, at=now, valid_for=model.rollout.drift.window)
    return replace(evidence, on_fail=drift_on_fail(model, report.comparison))


def drift_on_fail(model: Model, comparison: Comparison) -> OnFail:
    """A world that moves moves for both versions: against the windows before, drift warns and holds nothing up."""
    match comparison:
        case Comparison.CANARY_VS_STABLE:
            return model.rollout.drift.on_fail
        case Comparison.CURRENT_VS_REFERENCE:
            return OnFail.WARN
        case _:
            assert_never(comparison)


def _against_stable(
    lake: Lake, settings: Settings, model: Model, state: RolloutState, now: datetime
) -> DriftReport:
    start = comparable_since(state, model.rollout.drift.window, now)
    stable, canary = (
        _answered(lake, model, start, now, version=version) for version in (state.champion, state.version)
    )
    return _compared(settings, model, stable, canary, Comparison.CANARY_VS_STABLE, start, now)


def comparable_since(state: RolloutState, window: timedelta, now: datetime) -> datetime:
    """From when canary and champion may be compared: the window, but never further back than the present share.

    Over a ramp most of the canary's rows come from later than the champion's, and the hour of the day or the
    weather would look like drift.
    """
    return max(now - window, state.since)


def _against_reference(lake: Lake, settings: Settings, model: Model, now: datetime) -> DriftReport:
    start = now - model.rollout.drift.window
    before = start - REFERENCE_WINDOWS * model.rollout.drift.window
    reference, current = (_answered(lake, model, *span) for span in ((before, start), (start, now)))
    return _compared(settings, model, reference, current, Comparison.CURRENT_VS_REFERENCE, start, now)


def _answered(
    lake: Lake, model: Model, start: datetime, end: datetime, *, version: str | None = None
) -> pd.DataFrame:
    rows = model.rollout.drift.sample_rows
    return answered(lake, model.name, start, end, version=version, sample=rows)


def _compared(
    settings: Settings,
    model: Model,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    comparison: Comparison,
    start: datetime,
    end: datetime,
) -> DriftReport:
    return compare(
        reference,
        current,
        model.rollout.drift,
        model=model.name,
        title=f"{model.name}: {comparison.value.replace('_', ' ')}",
        comparison=comparison,
        window_start=start,
        window_end=end,
        reports_dir=settings.home / "reports" / "drift",
        workspace=settings.home / "evidently",
    )


def data_check_report(
    lake: Lake, registry: Registry, settings: Settings, model: Model, end: datetime, now: datetime
) -> DataCheckReport:
    checks = model.rollout.data_checks
    start = end - checks.window
    if why := not_all_loaded(lake, settings, model.name, end, now):
        return unjudged(checks, why, model=model.name, window_start=start, window_end=end)
    frame = answered(lake, model.name, start, end, sample=checks.sample_rows)
    if not checks.checks:
        frame = _of_every_version(registry, model.name, frame)
    docs = settings.home / "reports" / "data_docs"
    return check_window(frame, checks, model=model.name, window_start=start, window_end=end, docs_dir=docs)


def _of_every_version(registry: Registry, model: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that every version in the window has: the others are null in its rows, and nothing is wrong with that.

    All of them while the registry cannot be asked; a version that is gone from it says nothing.
    """
    found: list[set[str]] = []
    try:
        for version in frame["version"].dropna().unique() if "version" in frame else ():
            with suppress(NotInRegistry, VersionRefused):
                schema = registry.signature(model, version)
                found.append({name.lower() for name in schema.columns()})
    except RegistryError:
        return frame
    own = [column for column in frame if str(column).startswith(("features.", "outputs."))]
    return frame.drop(columns=[column for column in own if any(column.lower() not in each for each in found)])
