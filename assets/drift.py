"""Drift: canary against stable, and the current window against the ones before it."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

import dagster as dg
import pandas as pd

from pipelines.manifest.load import Model
from pipelines.rollout.evidence import Evidence, OnFail, Verdict
from pipelines.rollout.state import RolloutState
from resources.asset_checks import check_result
from resources.lake.windows import answered
from resources.monitoring.drift import compare
from resources.monitoring.drift_report import Comparison, DriftReport
from resources.monitoring.evidence import from_drift
from resources.monitoring.pictures import drift_scores
from resources.monitoring.windows import in_time, not_all_loaded, window_end, window_partitions
from resources.naming import key
from resources.rollouts import open_rollout, record_if_open
from resources.systems import Systems

REFERENCE_WINDOWS = 3
"""How many windows before the current one it is compared with."""


def drift(model: Model) -> dg.AssetsDefinition:
    """The asset that scores drift with Evidently, one Dagster asset check per comparison."""
    asset_key = key(model.name, "drift")
    specs = [
        dg.AssetCheckSpec(
            name=Comparison.CANARY_VS_STABLE.value,
            asset=asset_key,
            description="The canary's requests and answers against the champion's over the same time.",
        ),
        dg.AssetCheckSpec(
            name=Comparison.CURRENT_VS_REFERENCE.value,
            asset=asset_key,
            description="The latest window against the windows before it: has the world moved?",
        ),
    ]

    @dg.asset(
        key=asset_key,
        deps=[key(model.name, "prediction_log")],
        group_name="drift",
        kinds={"evidently"},
        check_specs=specs,
        partitions_def=window_partitions(model.rollout),
    )
    def score(
        context: dg.AssetExecutionContext,
        systems: dg.ResourceParam[Systems],
    ):  # no return type: Dagster would take it for a tuple of asset and checks
        """Have the inputs or the answers moved?

        Evidently scores every column of the latest window twice: the canary's rows against the champion's, which
        differ by chance alone unless something is wrong with the split or the model, and all rows against the
        windows before. The threshold never falls below what chance gives at these row counts. The links open
        the full Evidently reports.
        """
        now = datetime.now(UTC)
        state = open_rollout(systems.ledger, model.name)
        end = window_end(context, now)
        reports = _reports(systems, model, state, end, now)
        if state is not None:
            evidence = [_evidence(model, report, now) for report in reports]
            evidence = in_time(state, evidence, model.rollout.drift.window, end, now)
            record_if_open(systems.controller, state.rollout_id, evidence)
        return dg.MaterializeResult(
            metadata=_metadata(systems, reports), check_results=list(_checks(model, reports))
        )

    return score


def _reports(
    systems: Systems, model: Model, state: RolloutState | None, end: datetime, now: datetime
) -> list[DriftReport]:
    """Both comparisons; the one with the canary where there is one in the window."""
    with_canary = (
        state is not None and state.champion is not None and bool(state.weights) and state.since < end
    )
    if why := not_all_loaded(systems, model.name, end, now):
        made = [Comparison.CURRENT_VS_REFERENCE, *([Comparison.CANARY_VS_STABLE] if with_canary else [])]
        start = end - model.rollout.drift.window
        return [
            DriftReport(
                model=model.name, comparison=comparison, window_start=start, window_end=end,
                reference_rows=0, current_rows=0, reason=why,
            )
            for comparison in made
        ]  # fmt: skip
    reports = [_against_reference(systems, model, end)]
    if state is not None and with_canary:
        reports.append(_against_stable(systems, model, state, end))
    return reports


def _evidence(model: Model, report: DriftReport, now: datetime) -> Evidence:
    evidence = from_drift(report, model.rollout.drift, at=now, valid_for=model.rollout.drift.window)
    return replace(evidence, on_fail=_on_fail(model, report.comparison))


def _on_fail(model: Model, comparison: Comparison) -> OnFail:
    """A world that moves moves for both versions: against the windows before, drift warns and holds nothing up."""
    match comparison:
        case Comparison.CANARY_VS_STABLE:
            return model.rollout.drift.on_fail
        case Comparison.CURRENT_VS_REFERENCE:
            return OnFail.WARN
        case _:
            assert_never(comparison)


def _against_stable(systems: Systems, model: Model, state: RolloutState, now: datetime) -> DriftReport:
    start = comparable_since(state, model.rollout.drift.window, now)
    stable, canary = (
        _answered(systems, model, start, now, version=version) for version in (state.champion, state.version)
    )
    return _compare(systems, model, stable, canary, Comparison.CANARY_VS_STABLE, start, now)


def comparable_since(state: RolloutState, window: timedelta, now: datetime) -> datetime:
    """From when canary and champion may be compared: the window, but never further back than the present share.

    Over a ramp most of the canary's rows come from later than the champion's, and the hour of the day or the
    weather would look like drift.
    """
    return max(now - window, state.since)


def _against_reference(systems: Systems, model: Model, now: datetime) -> DriftReport:
    start = now - model.rollout.drift.window
    before = start - REFERENCE_WINDOWS * model.rollout.drift.window
    reference, current = (_answered(systems, model, *span) for span in ((before, start), (start, now)))
    return _compare(systems, model, reference, current, Comparison.CURRENT_VS_REFERENCE, start, now)


def _answered(
    systems: Systems, model: Model, start: datetime, end: datetime, *, version: str | None = None
) -> pd.DataFrame:
    rows = model.rollout.drift.sample_rows
    return answered(systems.lake, model.name, start, end, version=version, sample=rows)


def _compare(
    systems: Systems,
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
        reports_dir=systems.settings.home / "reports" / "drift",
        workspace=systems.settings.home / "evidently",
    )


def _metadata(systems: Systems, reports: Iterable[DriftReport]) -> dict[str, dg.MetadataValue]:
    values: dict[str, dg.MetadataValue] = {}
    for report in reports:
        name = report.comparison.value.replace("_", " ")
        values[name] = dg.MetadataValue.text(f"{report.verdict}: {report.reason}")
        if report.columns:
            values[f"{name}: scores"] = _table(report)
            values[f"{name}: picture"] = dg.MetadataValue.md(drift_scores(report).markdown)
        if report.share is not None:
            values[f"{name}: share of columns drifted"] = dg.MetadataValue.float(report.share)
        if report.html is not None:
            page = report.html.relative_to(systems.settings.home / "reports")
            values[f"{name}: Evidently report"] = dg.MetadataValue.url(systems.links.report(*page.parts))
        if report.unsaved:
            values[f"{name}: not written"] = dg.MetadataValue.text(report.unsaved)
        if report.link is not None:
            values[f"{name}: in Evidently"] = dg.MetadataValue.url(
                systems.links.evidently_page(report.link.path)
            )
    return values


def _table(report: DriftReport) -> dg.TableMetadataValue:
    names = ("column", "method", "score", "threshold", "drifted")
    records = [
        dg.TableRecord(
            {
                "column": c.column,
                "method": c.method,
                "score": "" if c.score is None else f"{c.score:.4f}",
                "threshold": f"{c.threshold:.4f}",
                "drifted": "not compared" if c.drifted is None else str(c.drifted),
            }
        )
        for c in report.columns
    ]
    return dg.MetadataValue.table(
        records=records, schema=dg.TableSchema([dg.TableColumn(name) for name in names])
    )


def _checks(model: Model, reports: Iterable[DriftReport]) -> Iterable[dg.AssetCheckResult]:
    """Every declared check gets a result: a comparison that was not made is unknown."""
    by_kind = {report.comparison: report for report in reports}
    for comparison in Comparison:
        report = by_kind.get(comparison)
        yield check_result(
            comparison.value,
            Verdict.UNKNOWN if report is None else report.verdict,
            "no canary is taking traffic" if report is None else report.reason,
            on_fail=_on_fail(model, comparison),
        )
