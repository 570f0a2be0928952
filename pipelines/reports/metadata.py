"""Verdicts and decisions as Dagster metadata: what a person sees on assets and their checks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import Decision
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.metric_look import MetricLook
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.experiments.looks import TakenLook, past_looks, registered_in
from pipelines.experiments.registering import RegisteredConstants
from pipelines.monitoring.data_checks import DataCheckReport
from pipelines.reports.report import Reports, report_name, rollout_story, write_story
from pipelines.reports.words import headline
from resources.checks.evidently import DriftReport
from resources.checks.expectations import CheckResult
from resources.ledger.ledger import Ledger
from resources.links import Links
from resources.pictures import EffectAt, drift_scores, effect_over_time


def drift_metadata(reports: Reports, scored: Iterable[DriftReport]) -> dict[str, dg.MetadataValue]:
    values: dict[str, dg.MetadataValue] = {}
    for report in scored:
        name = report.comparison.value.replace("_", " ")
        values[name] = dg.MetadataValue.text(f"{report.verdict}: {report.reason}")
        if report.columns:
            values[f"{name}: scores"] = _drift_table(report)
            values[f"{name}: picture"] = dg.MetadataValue.md(drift_scores(report).markdown)
        if report.share is not None:
            values[f"{name}: share of columns drifted"] = dg.MetadataValue.float(report.share)
        if report.html is not None:
            page = report.html.relative_to(reports.folder)
            values[f"{name}: Evidently report"] = dg.MetadataValue.url(reports.links.report(*page.parts))
        if report.unsaved:
            values[f"{name}: not written"] = dg.MetadataValue.text(report.unsaved)
        if report.link is not None:
            values[f"{name}: in Evidently"] = dg.MetadataValue.url(
                reports.links.evidently_page(report.link.path)
            )
    return values


def _drift_table(report: DriftReport) -> dg.TableMetadataValue:
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


def data_check_metadata(reports: Reports, report: DataCheckReport) -> dict[str, dg.MetadataValue]:
    values: dict[str, dg.MetadataValue] = {
        "verdict": dg.MetadataValue.text(f"{report.verdict}: {report.reason}"),
        "rows": dg.MetadataValue.int(report.rows),
        "window": dg.MetadataValue.text(
            f"{report.window_start:%Y-%m-%d %H:%M:%S} to {report.window_end:%H:%M:%S} UTC"
        ),
        "checks": _data_check_table(report.results),
    }
    if report.page is not None:
        page = report.page.relative_to(reports.folder)
        values["data docs"] = dg.MetadataValue.url(reports.links.report(*page.parts))
    if report.unsaved:
        values["data docs not written"] = dg.MetadataValue.text(report.unsaved)
    return values


def _data_check_table(results: tuple[CheckResult, ...]) -> dg.TableMetadataValue:
    records = [
        dg.TableRecord(
            {"check": r.name, "verdict": str(r.verdict), "expected": r.expected, "reason": r.reason}
        )
        for r in results
    ]
    columns = [dg.TableColumn(name) for name in ("check", "verdict", "expected", "reason")]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns))


_POINTS = 200
"""Looks in the picture; more are thinned out."""


def look_metadata(
    ledger: Ledger, model: Model, rollout_id: str, taken: TakenLook
) -> dict[str, dg.MetadataValue]:
    looks = past_looks(ledger, rollout_id)
    values: dict[str, dg.MetadataValue] = {
        "in words": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in taken.look.sentences)),
        "metrics": _look_table(taken.look.metrics),
        "rollout": dg.MetadataValue.text(rollout_id),
        "constants": _constants(registered_in(looks).values()),
    }
    primary = taken.look.primary
    if primary is not None and primary.effect is not None:
        values["effect"] = dg.MetadataValue.float(primary.effect)
    picture = _picture(model, looks)
    if picture is not None:
        values["interval over time"] = dg.MetadataValue.md(picture)
    return values | _left_out(taken)


def _left_out(taken: TakenLook) -> dict[str, dg.MetadataValue]:
    """What the statistics do not count, with its number."""
    values: dict[str, dg.MetadataValue] = {}
    if taken.coverage is not None:
        values["units"] = dg.MetadataValue.int(taken.coverage.units)
        values["crossovers (left out)"] = dg.MetadataValue.int(taken.coverage.crossovers)
        values["moved as the share grew (kept)"] = dg.MetadataValue.int(taken.coverage.moved)
        values["answers without a unit id"] = dg.MetadataValue.int(taken.coverage.rows_without_unit)
    if taken.outcomes is not None:
        values["outcomes"] = dg.MetadataValue.text(taken.outcomes.sentence or "all of them are usable")
    return values


def _constants(registered: Iterable[RegisteredConstants]) -> dg.TableMetadataValue:
    """What was fixed before the looks."""
    records = [
        dg.TableRecord(
            {
                "metric": r.spec.name,
                "baseline": _number(r.spec.baseline),
                "margin": _number(r.spec.margin),
                "cap": _number(r.cap),
                "from": r.origin,
            }
        )
        for r in registered
    ]
    columns = ("metric", "baseline", "margin", "cap", "from")
    return dg.MetadataValue.table(
        records=records, schema=dg.TableSchema([dg.TableColumn(c) for c in columns])
    )


def _picture(model: Model, looks: Sequence[TakenLook]) -> str | None:
    """The primary metric's interval at every look so far; None before the first that has one."""
    name = model.rollout.experiment.primary.name
    points: list[EffectAt] = []
    margin = 0.0
    for taken in looks:
        primary = taken.look.primary
        if primary is None or primary.effect is None or primary.interval is None:
            continue
        margin = primary.margin or margin
        points.append(EffectAt(taken.at, primary.effect, *primary.interval))
    if not points:
        return None
    better = model.rollout.experiment.primary.better.value
    shown = points[:: -(-len(points) // _POINTS)]
    shown = shown if shown[-1] is points[-1] else [*shown, points[-1]]
    return effect_over_time(shown, margin=margin, metric=name, better=better).markdown


def _look_table(metrics: tuple[MetricLook, ...]) -> dg.TableMetadataValue:
    columns = ("metric", "champion", "challenger", "difference", "interval", "harm", "boundary", "conclusion")
    records = [
        dg.TableRecord(
            {
                "metric": m.name,
                "champion": _number(m.champion),
                "challenger": _number(m.challenger),
                "difference": _number(m.effect),
                "interval": f"{_number(m.interval[0])} to {_number(m.interval[1])}" if m.interval else "",
                "harm": f"{m.harm.value:.2f}",
                "boundary": f"{m.harm.boundary:.2f}",
                "conclusion": str(m.conclusion),
            }
        )
        for m in metrics
    ]
    return dg.MetadataValue.table(
        records=records, schema=dg.TableSchema([dg.TableColumn(c) for c in columns])
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def check_result(
    name: str,
    verdict: Verdict,
    reason: str,
    *,
    on_fail: OnFail,
    more: Mapping[str, str | int] | None = None,
) -> dg.AssetCheckResult:
    """Green for pass alone. Unknown is yellow, as is what only warns when it fails; any other failure is red."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=verdict is Verdict.PASS,
        severity=_severity(verdict, on_fail),
        description=reason,
        metadata={"verdict": str(verdict), "reason": reason} | dict(more or {}),
    )


def _severity(verdict: Verdict, on_fail: OnFail) -> dg.AssetCheckSeverity:
    match verdict:
        case Verdict.PASS | Verdict.UNKNOWN:
            return dg.AssetCheckSeverity.WARN
        case Verdict.FAIL:
            return dg.AssetCheckSeverity.WARN if on_fail is OnFail.WARN else dg.AssetCheckSeverity.ERROR
        case _:
            assert_never(verdict)


# A rollout as Dagster metadata: what a person sees on the assets `rollout` and `rollout_report`.


_ORDER = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS)
"""What explains a decision comes first."""


def started_metadata(links: Links, begun: RolloutState) -> dict[str, dg.MetadataValue]:
    """Of a rollout that was opened: which artefact of which version, and against whom."""
    champion = begun.champion or "none: this is the model's first version"
    return {
        "decision": dg.MetadataValue.text(f"started: version {begun.version} may be rolled out"),
        "rollout": dg.MetadataValue.text(begun.rollout_id),
        "version": dg.MetadataValue.text(begun.version),
        "digest": dg.MetadataValue.text(begun.artefact.digest),
        "champion": dg.MetadataValue.text(champion),
        "in MLflow": dg.MetadataValue.url(links.version(begun.model, begun.version)),
    }


def report_metadata(reports: Reports, model: str) -> dict[str, dg.MetadataValue]:
    """Write the report of the model's latest rollout; the link to it, and the verdict. Raises CorruptLedger."""
    row = reports.ledger.latest(model)
    if row is None:
        return {"status": dg.MetadataValue.text("there was no rollout yet")}
    name, story = report_name(row.rollout_id), rollout_story(reports, row.rollout_id)
    path, verdict = write_story(reports, story, reports.folder / name), headline(story)
    return {
        "report": dg.MetadataValue.url(reports.links.report(name)),
        "verdict": dg.MetadataValue.text(f"{verdict.title}. {verdict.why}".strip()),
        "path": dg.MetadataValue.path(str(path)),
        "rollout": dg.MetadataValue.text(row.rollout_id),
    }


def decision_metadata(links: Links, state: RolloutState, decision: Decision) -> dict[str, dg.MetadataValue]:
    """Share of traffic, decision in words, every piece of evidence, and where to read on."""
    return {
        "decision": dg.MetadataValue.text(f"{decision.kind.replace('_', ' ')}: {decision.reason}"),
        "report": dg.MetadataValue.url(links.rollout_report(state.rollout_id)),
        "rollout": dg.MetadataValue.text(state.rollout_id),
        "version": dg.MetadataValue.text(state.version),
        "champion": dg.MetadataValue.text(state.champion or "none"),
        "phase": dg.MetadataValue.text(f"{state.phase}{f' ({state.end})' if state.end else ''}"),
        "canary share (%)": dg.MetadataValue.float(float(state.percent)),
        "evidence": _evidence(state),
        "share of traffic": _weights(state),
        "in MLflow": dg.MetadataValue.url(links.version(state.model, state.version)),
    }


def _evidence(state: RolloutState) -> dg.TableMetadataValue:
    records = [
        dg.TableRecord(
            {
                "evidence": e.name,
                "verdict": str(e.verdict),
                "if it fails": e.on_fail.replace("_", " "),
                "at (UTC)": f"{e.at:%H:%M:%S}",
                "reason": e.reason,
            }
        )
        for e in sorted(state.evidence.values(), key=lambda item: (_ORDER.index(item.verdict), item.name))
    ]
    columns = ("evidence", "verdict", "if it fails", "at (UTC)", "reason")
    return dg.MetadataValue.table(
        records=records, schema=dg.TableSchema([dg.TableColumn(c) for c in columns])
    )


def _weights(state: RolloutState) -> dg.TableMetadataValue:
    records = [
        dg.TableRecord({"from (UTC)": f"{w.at:%Y-%m-%d %H:%M:%S}", "canary (%)": w.percent})
        for w in state.weights
    ]
    columns = [dg.TableColumn("from (UTC)"), dg.TableColumn("canary (%)", type="float")]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns))
