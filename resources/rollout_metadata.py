"""A rollout as Dagster metadata: what a person sees on the assets `rollout` and `rollout_report`."""

import dagster as dg

from pipelines.rollout.decision import Decision
from pipelines.rollout.evidence import Verdict
from pipelines.rollout.state import RolloutState
from resources.reports import report_name, rollout_story, write_report
from resources.reports.words import headline
from resources.systems import Systems

_ORDER = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS)
"""What explains a decision comes first."""


def started_metadata(systems: Systems, begun: RolloutState) -> dict[str, dg.MetadataValue]:
    """Of a rollout that was opened: which artefact of which version, and against whom."""
    champion = begun.champion or "none: this is the model's first version"
    return {
        "decision": dg.MetadataValue.text(f"started: version {begun.version} may be rolled out"),
        "rollout": dg.MetadataValue.text(begun.rollout_id),
        "version": dg.MetadataValue.text(begun.version),
        "digest": dg.MetadataValue.text(begun.artefact.digest),
        "champion": dg.MetadataValue.text(champion),
        "in MLflow": dg.MetadataValue.url(systems.links.version(begun.model, begun.version)),
    }


def report_metadata(systems: Systems, model: str) -> dict[str, dg.MetadataValue]:
    """Write the report of the model's latest rollout; the link to it, and the verdict. Raises CorruptLedger."""
    row = systems.ledger.latest(model)
    if row is None:
        return {"status": dg.MetadataValue.text("there was no rollout yet")}
    path = write_report(systems, row.rollout_id)
    verdict = headline(rollout_story(systems, row.rollout_id))
    return {
        "report": dg.MetadataValue.url(systems.links.report(report_name(row.rollout_id))),
        "verdict": dg.MetadataValue.text(f"{verdict.title}. {verdict.why}".strip()),
        "path": dg.MetadataValue.path(str(path)),
        "rollout": dg.MetadataValue.text(row.rollout_id),
    }


def decision_metadata(systems: Systems, rollout_id: str, decision: Decision) -> dict[str, dg.MetadataValue]:
    """Share of traffic, decision in words, every piece of evidence, and where to read on."""
    state = systems.controller.state(rollout_id)
    return {
        "decision": dg.MetadataValue.text(f"{decision.kind.replace('_', ' ')}: {decision.reason}"),
        "report": dg.MetadataValue.url(systems.links.rollout_report(rollout_id)),
        "rollout": dg.MetadataValue.text(rollout_id),
        "version": dg.MetadataValue.text(state.version),
        "champion": dg.MetadataValue.text(state.champion or "none"),
        "phase": dg.MetadataValue.text(f"{state.phase}{f' ({state.end})' if state.end else ''}"),
        "canary share (%)": dg.MetadataValue.float(float(state.percent)),
        "evidence": _evidence(state),
        "share of traffic": _weights(state),
        "in MLflow": dg.MetadataValue.url(systems.links.version(state.model, state.version)),
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
