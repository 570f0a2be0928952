"""Looks at the experiment between champion and challenger."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.manifest.load import Model
from pipelines.rollout.state import Phase, RolloutState
from pipelines.statistics.metric_look import MetricLook
from resources.experiment import TakenLook, past_looks, shadow_evidence, take_look
from resources.monitoring.pictures import EffectAt, effect_over_time
from resources.naming import key
from resources.rollouts import open_rollout, record_if_open
from resources.systems import Systems

_LOOKED_AT = (Phase.SHADOW, Phase.STEPPING)


def experiment(model: Model) -> dg.AssetsDefinition:
    """The asset that takes a look."""

    @dg.asset(
        key=key(model.name, "experiment"),
        deps=[key(model.name, "prediction_log"), key(model.name, "outcomes")],
        group_name="experiment",
        kinds={"scipy"},
    )
    def look(
        context: dg.AssetExecutionContext, systems: dg.ResourceParam[Systems]
    ) -> dg.MaterializeResult[Any]:
        """Is the challenger better, no worse, or worse, on the team's own metrics?

        Each materialization is one look. Its tests stay valid however often one looks: the intervals hold at
        all looks together, and evidence of harm is weighed against one error budget for the whole rollout. A
        look is stored with its inputs and never recomputed on revised data. While a rollout is open, every
        look is evidence in it.
        """
        state = open_rollout(systems.ledger, model.name)
        if state is None or state.champion is None or state.phase not in _LOOKED_AT:
            return dg.MaterializeResult(metadata={"status": "no canary is taking traffic"})
        if state.phase is Phase.SHADOW:
            return _shadowed(systems, model, state)
        taken, evidence = take_look(systems.lake, systems.ledger, model, state, now=datetime.now(UTC))
        record_if_open(systems.controller, state.rollout_id, evidence)
        if taken is None:
            context.log.warning(evidence[0].reason)
            return dg.MaterializeResult(metadata={"status": evidence[0].reason})
        return dg.MaterializeResult(metadata=_metadata(systems, model, state.rollout_id, taken))

    return look


def _shadowed(systems: Systems, model: Model, state: RolloutState) -> dg.MaterializeResult[Any]:
    """In the shadow there is no experiment yet: the copies are judged by their errors, latency and agreement."""
    evidence = shadow_evidence(systems.lake, systems.ledger, model, state, now=datetime.now(UTC))
    record_if_open(systems.controller, state.rollout_id, evidence)
    words = "\n".join(f"- {item.name}: {item.verdict}: {item.reason}" for item in evidence)
    return dg.MaterializeResult(
        metadata={"shadow": dg.MetadataValue.md(words), "rollout": dg.MetadataValue.text(state.rollout_id)}
    )


def _metadata(
    systems: Systems, model: Model, rollout_id: str, taken: TakenLook
) -> dict[str, dg.MetadataValue]:
    values: dict[str, dg.MetadataValue] = {
        "in words": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in taken.look.sentences)),
        "metrics": _table(taken.look.metrics),
        "rollout": dg.MetadataValue.text(rollout_id),
    }
    primary = taken.look.primary
    if primary is not None and primary.effect is not None:
        values["effect"] = dg.MetadataValue.float(primary.effect)
    picture = _picture(systems, model, rollout_id)
    if picture is not None:
        values["interval over time"] = dg.MetadataValue.md(picture)
    return values


def _picture(systems: Systems, model: Model, rollout_id: str) -> str | None:
    """The primary metric's interval at every look so far; None before the first that has one."""
    name = model.rollout.experiment.primary.name
    points: list[EffectAt] = []
    margin = 0.0
    for taken in past_looks(systems.ledger, rollout_id):
        primary = taken.look.primary
        if primary is None or primary.effect is None or primary.interval is None:
            continue
        margin = primary.margin or margin
        points.append(EffectAt(taken.at, primary.effect, *primary.interval))
    if not points:
        return None
    better = model.rollout.experiment.primary.better.value
    return effect_over_time(points, margin=margin, metric=name, better=better).markdown


def _table(metrics: tuple[MetricLook, ...]) -> dg.TableMetadataValue:
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
