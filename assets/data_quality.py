"""Data checks on the latest window of the prediction log."""

from datetime import UTC, datetime

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.core.vocabulary import OnFail
from pipelines.monitoring.data_checks import DataCheckReport
from pipelines.monitoring.evidence import from_data_checks
from pipelines.monitoring.window_reports import data_check_report
from pipelines.monitoring.windows import in_time, window_end, window_partitions
from pipelines.reports.configured import ReportsResource
from pipelines.reports.metadata import check_result, data_check_metadata
from pipelines.rollouts.configured import ControllerResource
from pipelines.rollouts.naming import key
from pipelines.rollouts.open_rollout import open_rollout, record_if_open
from resources.checks.expectations import check_names
from resources.configured import LakeResource, LedgerResource, RegistryResource, SettingsResource

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
        lake: LakeResource,
        ledger: LedgerResource,
        registry: RegistryResource,
        settings: SettingsResource,
        controller: ControllerResource,
        reports: ReportsResource,
    ):  # no return type: Dagster would take it for a tuple of asset and checks
        """Is the data that the model is asked about still the data it was made for?

        Great Expectations runs the manifest's checks on the window; each is an asset check here, and the
        Data Docs page holds the details. A check that could not run is unknown and warns; it never counts as
        failed. While a rollout is open, the verdict is evidence in it.
        """
        now = datetime.now(UTC)
        report = data_check_report(
            lake.get(), registry.get(), settings.get(), model, window_end(context, now), now
        )
        state = open_rollout(ledger.get(), model.name)
        if state is not None:
            window = model.rollout.data_checks.window
            evidence = [from_data_checks(report, at=now, valid_for=window)]
            evidence = in_time(state, evidence, window, report.window_end, now)
            record_if_open(controller.get(), state.rollout_id, evidence)
        return dg.MaterializeResult(
            metadata=data_check_metadata(reports.get(), report), check_results=_checks(report, names)
        )

    return check


def _describe(model: Model, name: str) -> str:
    if name == WINDOW:
        return "All of the manifest's data checks on the latest window."
    return f"A data check of {model.name}'s rollout.yaml, run by Great Expectations on the latest window."


def _checks(report: DataCheckReport, names: tuple[str, ...]) -> list[dg.AssetCheckResult]:
    results = [
        check_result(r.name, r.verdict, r.reason, on_fail=r.on_fail, more={"expected": r.expected})
        for r in report.results
        if r.name in names
    ]
    return [*results, check_result(WINDOW, report.verdict, report.reason, on_fail=OnFail.HOLD)]
