"""The plan of a model's experiment, before a rollout starts."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.core.errors import LakeError, ServingError
from pipelines.core.manifest.load import Model
from pipelines.core.statistics.planning import duration_words
from pipelines.experiments.plan import ExperimentPlan, curve, plan_experiment
from pipelines.rollouts.naming import key
from resources.configured import LakeResource, ServingResource
from resources.pictures import power_curve

_POWERED = "powered"

_COLUMNS = ("metric", "share", "challenger units", "champion units", "takes", "visible", "inconclusive")


def experiment_plan(model: Model) -> dg.AssetsDefinition:
    """The asset that plans."""
    asset_key = key(model.name, "experiment_plan")

    @dg.asset(
        key=asset_key,
        deps=[key(model.name, "prediction_log"), key(model.name, "outcomes")],
        group_name="experiment",
        kinds={"scipy"},
        check_specs=[
            dg.AssetCheckSpec(
                _POWERED,
                asset=asset_key,
                description="Is a version that is as good as the champion promoted within the maximum duration, with the"
                " power that is asked for? And can the traffic show what the manifest wants to see?",
            )
        ],
    )
    def make(
        lake: LakeResource,
        serving: ServingResource,
    ):  # no return type: Dagster would take it for a tuple of asset and check
        """How likely is a healthy version promoted in time, what takes longest, and what can be seen?

        First the whole decision: a version that is as good as the champion must be within every margin at once, after the
        floors of all steps. Then each metric by itself.
        Baseline, variance and traffic are the served version's over the last two weeks. `visible` is the smallest effect
        found with the wanted power within the maximum duration, `inconclusive` the chance of ending without an
        answer although the planned effect is there. Each step is planned as if the rollout stayed at it.
        """
        try:
            stable = serving.get().status(model.name).stable
            if stable is None:
                return _unplanned("nothing is served yet whose history could be used")
            made = plan_experiment(lake.get(), model.rollout, stable.version, now=datetime.now(UTC))
        except (LakeError, ServingError) as error:
            return _unplanned(str(error))
        return dg.MaterializeResult(metadata=_metadata(made), check_results=[_check(made.warnings)])

    return make


def _unplanned(reason: str) -> dg.MaterializeResult[Any]:
    told = f"no plan: {reason}. By hand: python -m pipelines.experiments --help"
    return dg.MaterializeResult(metadata={"status": told}, check_results=[_check((told,))])


def _check(warnings: tuple[str, ...]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=_POWERED,
        passed=not warnings,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n".join(warnings)
        or "a healthy version is promoted in time, and every metric can be answered",
    )


def _metadata(made: ExperimentPlan) -> dict[str, dg.MetadataValue]:
    whole = made.promotion
    words = [
        *(f"- **Warning.** {warning}" for warning in made.warnings),
        *(f"- {sentence}" for sentence in (whole.sentences if whole else ())),
        *(f"- {m.metric}: {sentence}" for m in made.metrics if m.plan for sentence in m.plan.sentences),
        *(f"- {m.note}" for m in made.metrics if m.note),
        f"- {made.note}",
    ]
    values: dict[str, dg.MetadataValue] = {
        "in words": dg.MetadataValue.md("\n".join(words)),
        "plan": _table(made),
        "units a day": dg.MetadataValue.float(made.history.units_per_day),
    }
    if whole is not None:
        values["promoted if healthy"] = dg.MetadataValue.float(round(whole.chance, 4))
    primary = made.primary
    if primary is not None:
        picture = power_curve(
            curve(primary),
            target=primary.target.power,
            planned=primary.best.challenger_units,
            metric=primary.baseline.name,
        )
        values["power curve"] = dg.MetadataValue.md(picture.markdown)
    return values


def _table(made: ExperimentPlan) -> dg.TableMetadataValue:
    records = [
        dg.TableRecord(
            dict(
                zip(
                    _COLUMNS,
                    (
                        m.metric,
                        f"{step.share:.0%}",
                        f"{step.challenger_units:,.0f}",
                        f"{step.champion_units:,.0f}",
                        duration_words(step.days),
                        f"{step.detectable:.4g}",
                        f"{step.inconclusive:.0%}",
                    ),
                    strict=True,
                )
            )
        )
        for m in made.metrics
        if m.plan is not None
        for step in m.plan.steps
    ]
    return dg.MetadataValue.table(
        records=records, schema=dg.TableSchema([dg.TableColumn(c) for c in _COLUMNS])
    )
