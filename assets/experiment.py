"""Looks at the experiment between champion and challenger."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.errors import ServingError
from pipelines.manifest.load import Model
from pipelines.rollout.evidence import OnFail, Verdict
from pipelines.rollout.state import Phase, RolloutState
from pipelines.statistics.metric_look import MetricLook
from resources.asset_checks import check_result
from resources.experiment import TakenLook, past_looks, registered_in, shadow_evidence, take_look
from resources.experiment.exposure import ExposureCheck
from resources.experiment.registering import Registered
from resources.lake.completeness import complete_until
from resources.monitoring.pictures import EffectAt, effect_over_time
from resources.naming import key
from resources.rollouts import open_rollout, record_if_open
from resources.systems import Systems

_LOOKED_AT = (Phase.SHADOW, Phase.STEPPING)
_EXPOSURE_CHECK = "exposure_recomputed"
_POINTS = 200
"""Looks in the picture; more are thinned out."""


def experiment(model: Model) -> dg.AssetsDefinition:
    """The asset that takes a look."""
    asset_key = key(model.name, "experiment")

    @dg.asset(
        key=asset_key,
        deps=[key(model.name, "prediction_log"), key(model.name, "outcomes")],
        group_name="experiment",
        kinds={"scipy"},
        check_specs=[
            dg.AssetCheckSpec(
                _EXPOSURE_CHECK,
                asset=asset_key,
                description="Recomputes every unit's version from its id, the salt and the shares in force.",
            )
        ],
    )
    def look(
        context: dg.AssetExecutionContext,
        systems: dg.ResourceParam[Systems],
    ):  # no return type: Dagster would take it for a tuple of asset and check
        """Is the challenger better, no worse, or worse, on the team's own metrics?

        Each materialization is one look. Its tests stay valid however often one looks: the intervals hold at
        all looks together, and evidence of harm is weighed against one error budget for the whole rollout. A
        look is stored with its inputs and never recomputed on revised data. While a rollout is open, every
        look is evidence in it.
        """
        state = open_rollout(systems.ledger, model.name)
        if state is None or state.champion is None or state.phase not in _LOOKED_AT:
            return _result({"status": dg.MetadataValue.text("no canary is taking traffic")}, None)
        if state.phase is Phase.SHADOW:
            return _shadowed(systems, model, state)
        now = datetime.now(UTC)
        taken, evidence = take_look(
            systems.lake,
            systems.ledger,
            model,
            state,
            now=now,
            complete=_complete(systems, model, now),
            sticky=_is_sticky(systems, model),
        )
        record_if_open(systems.controller, state.rollout_id, evidence)
        if taken is None:
            context.log.warning(evidence[0].reason)
            return _result({"status": dg.MetadataValue.text(evidence[0].reason)}, None)
        return _result(_metadata(systems, model, state.rollout_id, taken), taken.exposure)

    return look


def _shadowed(systems: Systems, model: Model, state: RolloutState) -> dg.MaterializeResult[Any]:
    """In the shadow there is no experiment yet: the copies are judged by their errors, latency and agreement."""
    now = datetime.now(UTC)
    complete = _complete(systems, model, now)
    evidence = shadow_evidence(systems.lake, systems.ledger, model, state, now=now, complete=complete)
    record_if_open(systems.controller, state.rollout_id, evidence)
    words = "\n".join(f"- {item.name}: {item.verdict}: {item.reason}" for item in evidence)
    return _result(
        {"shadow": dg.MetadataValue.md(words), "rollout": dg.MetadataValue.text(state.rollout_id)}, None
    )


def _complete(systems: Systems, model: Model, now: datetime) -> datetime:
    settings = systems.settings
    return complete_until(
        systems.lake,
        model.name,
        predictions=settings.prediction_log / model.name,
        outcomes=settings.outcomes / model.name,
        now=now,
    )


def _is_sticky(systems: Systems, model: Model) -> bool:
    """Where the serving side cannot be asked, the look is taken without the check of its assignment."""
    try:
        return systems.backend.capabilities(model.name).sticky
    except ServingError:
        return False


def _result(
    metadata: dict[str, dg.MetadataValue], exposure: ExposureCheck | None
) -> dg.MaterializeResult[Any]:
    """The materialization, and whether the gateway split the traffic as it should have."""
    told = (
        "nothing to recompute: no sticky assignment, or no traffic yet"
        if exposure is None
        else exposure.sentence
    )
    check = check_result(
        _EXPOSURE_CHECK,
        _split_verdict(exposure),
        told,
        on_fail=OnFail.HOLD,
        more={
            "compared": exposure.compared if exposure else 0,
            "elsewhere": exposure.mismatches if exposure else 0,
            "share changing": exposure.uncertain if exposure else 0,
            "without unit": exposure.without_unit if exposure else 0,
        },
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[check])


def _split_verdict(exposure: ExposureCheck | None) -> Verdict:
    if exposure is None or not exposure.compared:
        return Verdict.UNKNOWN
    return Verdict.PASS if exposure.holds else Verdict.FAIL


def _metadata(
    systems: Systems, model: Model, rollout_id: str, taken: TakenLook
) -> dict[str, dg.MetadataValue]:
    looks = past_looks(systems.ledger, rollout_id)
    values: dict[str, dg.MetadataValue] = {
        "in words": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in taken.look.sentences)),
        "metrics": _table(taken.look.metrics),
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


def _constants(registered: Iterable[Registered]) -> dg.TableMetadataValue:
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
