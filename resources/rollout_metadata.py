"""A decision as Dagster metadata: what a person sees on the `rollout` asset."""

import dagster as dg

from pipelines.rollout.decision import Decision
from pipelines.rollout.evidence import Verdict
from pipelines.rollout.state import RolloutState
from resources.systems import Systems

_ORDER = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS)
"""What explains a decision comes first."""


def decision_metadata(systems: Systems, rollout_id: str, decision: Decision) -> dict[str, dg.MetadataValue]:
    """Share of traffic, decision in words, every piece of evidence, and where to read on."""
    state = systems.controller.state(rollout_id)
    return {
        "decision": dg.MetadataValue.text(f"{decision.kind.replace('_', ' ')}: {decision.reason}"),
        "report": dg.MetadataValue.url(systems.report_url(f"{rollout_id}.html")),
        "rollout": dg.MetadataValue.text(rollout_id),
        "version": dg.MetadataValue.text(state.version),
        "champion": dg.MetadataValue.text(state.champion or "none"),
        "phase": dg.MetadataValue.text(f"{state.phase}{f' ({state.end})' if state.end else ''}"),
        "canary share (%)": dg.MetadataValue.float(float(state.percent)),
        "evidence": _evidence(state),
        "share of traffic": _weights(state),
        "in MLflow": dg.MetadataValue.url(systems.registry.link(state.model, state.version)),
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
