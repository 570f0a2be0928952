"""Data checks on the latest window of the prediction log."""

from contextlib import suppress
from datetime import UTC, datetime

import dagster as dg
import pandas as pd

from pipelines.errors import NotInRegistry, RegistryError, VersionRefused
from pipelines.manifest.load import Model
from pipelines.rollout.evidence import OnFail
from resources.asset_checks import check_result
from resources.lake.windows import answered
from resources.monitoring.data_checks import DataCheckReport, check_window, unjudged
from resources.monitoring.evidence import from_data_checks
from resources.monitoring.expectations import CheckResult, check_names
from resources.monitoring.windows import in_time, not_all_loaded, window_end, window_partitions
from resources.naming import key
from resources.rollouts import open_rollout, record_if_open
from resources.systems import Systems

WINDOW = "window"


def data_quality(model: Model) -> dg.AssetsDefinition:
    """The asset that runs the manifest's checks, one Dagster asset check each."""
    asset_key = key(model.name, "data_quality")
    names = check_names(model.rollout.data_checks.checks)
    specs = [
        dg.AssetCheckSpec(name=name, asset=asset_key, description=_describe(model, name))
        for name in (*names, WINDOW)
    ]

    @dg.asset(
        key=asset_key,
        deps=[key(model.name, "prediction_log")],
        group_name="data_quality",
        kinds={"greatexpectations"},
        check_specs=specs,
        partitions_def=window_partitions(model.rollout),
    )
    def check(
        context: dg.AssetExecutionContext,
        systems: dg.ResourceParam[Systems],
    ):  # no return type: Dagster would take it for a tuple of asset and checks
        """Is the data that the model is asked about still the data it was made for?

        Great Expectations runs the manifest's checks on the window; each is an asset check here, and the
        Data Docs page holds the details. A check that could not run is unknown and warns; it never counts as
        failed. While a rollout is open, the verdict is evidence in it.
        """
        now = datetime.now(UTC)
        report = _report(systems, model, window_end(context, now), now)
        state = open_rollout(systems.ledger, model.name)
        if state is not None:
            window = model.rollout.data_checks.window
            evidence = [from_data_checks(report, at=now, valid_for=window)]
            evidence = in_time(state, evidence, window, report.window_end, now)
            record_if_open(systems.controller, state.rollout_id, evidence)
        return dg.MaterializeResult(metadata=_metadata(systems, report), check_results=_checks(report, names))

    return check


def _report(systems: Systems, model: Model, end: datetime, now: datetime) -> DataCheckReport:
    checks = model.rollout.data_checks
    start = end - checks.window
    if why := not_all_loaded(systems, model.name, end, now):
        return unjudged(checks, why, model=model.name, window_start=start, window_end=end)
    frame = answered(systems.lake, model.name, start, end, sample=checks.sample_rows)
    if not checks.checks:
        frame = _of_every_version(systems, model.name, frame)
    docs = systems.settings.home / "reports" / "data_docs"
    return check_window(frame, checks, model=model.name, window_start=start, window_end=end, docs_dir=docs)


def _of_every_version(systems: Systems, model: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that every version in the window has: the others are null in its rows, and nothing is wrong with that.

    All of them while the registry cannot be asked; a version that is gone from it says nothing.
    """
    found: list[set[str]] = []
    try:
        for version in frame["version"].dropna().unique() if "version" in frame else ():
            with suppress(NotInRegistry, VersionRefused):
                schema = systems.registry.signature(model, version)
                found.append({name.lower() for name in schema.columns()})
    except RegistryError:
        return frame
    own = [column for column in frame if str(column).startswith(("features.", "outputs."))]
    return frame.drop(columns=[column for column in own if any(column.lower() not in each for each in found)])


def _describe(model: Model, name: str) -> str:
    if name == WINDOW:
        return "All of the manifest's data checks on the latest window."
    return f"A data check of {model.name}'s rollout.yaml, run by Great Expectations on the latest window."


def _metadata(systems: Systems, report: DataCheckReport) -> dict[str, dg.MetadataValue]:
    values: dict[str, dg.MetadataValue] = {
        "verdict": dg.MetadataValue.text(f"{report.verdict}: {report.reason}"),
        "rows": dg.MetadataValue.int(report.rows),
        "window": dg.MetadataValue.text(
            f"{report.window_start:%Y-%m-%d %H:%M:%S} to {report.window_end:%H:%M:%S} UTC"
        ),
        "checks": _table(report.results),
    }
    if report.page is not None:
        page = report.page.relative_to(systems.settings.home / "reports")
        values["data docs"] = dg.MetadataValue.url(systems.links.report(*page.parts))
    if report.unsaved:
        values["data docs not written"] = dg.MetadataValue.text(report.unsaved)
    return values


def _table(results: tuple[CheckResult, ...]) -> dg.TableMetadataValue:
    records = [
        dg.TableRecord(
            {"check": r.name, "verdict": str(r.verdict), "expected": r.expected, "reason": r.reason}
        )
        for r in results
    ]
    columns = [dg.TableColumn(name) for name in ("check", "verdict", "expected", "reason")]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns))


def _checks(report: DataCheckReport, names: tuple[str, ...]) -> list[dg.AssetCheckResult]:
    results = [
        check_result(r.name, r.verdict, r.reason, on_fail=r.on_fail, more={"expected": r.expected})
        for r in report.results
        if r.name in names
    ]
    return [*results, check_result(WINDOW, report.verdict, report.reason, on_fail=OnFail.HOLD)]
