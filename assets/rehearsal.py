"""Rollouts of a model's manifest, rehearsed on the champion's own last weeks."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.core.errors import LakeError, NotMeasured, ServingError
from pipelines.core.manifest.load import Model
from pipelines.experiments.rehearsal import HARMED, LEVELS, SAME, Rehearsal, rehearse
from pipelines.experiments.rehearsal_stage import CannotRehearse, set_stage
from pipelines.experiments.rehearsal_words import headline, markdown, numbers, rows, sentences, warnings
from pipelines.rollouts.naming import key
from resources.configured import LakeResource, ServingResource

_KEEPS_ITS_WORD = "keeps_its_word"


class RehearsalConfig(dg.Config):
    """How much is played; twice as much takes twice as long, beside the reading of the history."""

    rollouts: int = SAME
    """Of the identical version."""
    rollouts_of_harm: int = HARMED
    """Of each metric and each percentage of harm."""
    harm_percent: list[float] = [100 * level for level in LEVELS]
    """What is put in: see docs/experiments.md#rehearse-it."""


def rehearsal(model: Model) -> dg.AssetsDefinition:
    """The asset that rehearses."""
    asset_key = key(model.name, "rehearsal")

    @dg.asset(
        key=asset_key,
        deps=[key(model.name, "prediction_log"), key(model.name, "outcomes")],
        group_name="experiment",
        kinds={"duckdb"},
        check_specs=[
            dg.AssetCheckSpec(
                _KEEPS_ITS_WORD,
                asset=asset_key,
                description="On the champion's own traffic: is an identical version rolled back no oftener than `alpha`, and promoted as"
                " often as `power`?",
            )
        ],
    )
    def make(
        context: dg.AssetExecutionContext,
        config: RehearsalConfig,
        lake: LakeResource,
        serving: ServingResource,
    ):  # no return type: Dagster would take it for a tuple of asset and check
        """If an identical version had been rolled out in the last weeks, what would have become of it? And a worse one?

        Plays this manifest on the champion's logged traffic, with its returning units, bursts, seasons and missing outcomes: a random choice
        of units takes the challenger's place. Then the same with harm put into one metric at a time: how long until it is
        found, and how many are hit until then. Nothing is deployed and no traffic moves.
        """
        try:
            _require_sound(config)
            stable = serving.get().status(model.name).stable
            if stable is None:
                return _nothing("nothing is served yet whose history could be played")
            stage = set_stage(lake.get(), model.rollout, stable.version, now=datetime.now(UTC))
            found = rehearse(
                stage,
                same=config.rollouts,
                harmed=config.rollouts_of_harm,
                levels=[percent / 100 for percent in config.harm_percent],
            )
        except (CannotRehearse, LakeError, NotMeasured, ServingError) as error:
            return _nothing(str(error))
        context.log.info(headline(found))
        return dg.MaterializeResult(metadata=_metadata(found), check_results=[_check(warnings(found))])

    return make


def _require_sound(config: RehearsalConfig) -> None:
    if config.rollouts < 1 or config.rollouts_of_harm < 0:
        raise CannotRehearse(
            f"rollouts: {config.rollouts} and rollouts_of_harm: {config.rollouts_of_harm}, must be at least 1 and 0"
        )
    if wrong := [percent for percent in config.harm_percent if not 0 < percent <= 100]:
        raise CannotRehearse(f"harm_percent: {wrong[0]:g}, must be above 0 and at most 100")


def _nothing(reason: str) -> dg.MaterializeResult[Any]:
    told = f"not rehearsed: {reason}"
    return dg.MaterializeResult(metadata={"status": told}, check_results=[_check((told,))])


def _check(warned: tuple[str, ...]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=_KEEPS_ITS_WORD,
        passed=not warned,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n".join(warned)
        or "an identical version is rolled back no oftener than `alpha` says, and promoted in time",
    )


def _metadata(found: Rehearsal) -> dict[str, dg.MetadataValue]:
    said = numbers(found)
    words = "\n".join(f"- {sentence}" for sentence in sentences(found))
    values: dict[str, dg.MetadataValue] = {
        "rehearsal": dg.MetadataValue.md(f"{headline(found)}\n\n{markdown(rows(found))}\n\n{words}"),
        "numbers": dg.MetadataValue.json(said),
        "false rollbacks": dg.MetadataValue.int(said["false_rollbacks"]),
        "promoted": dg.MetadataValue.int(said["promoted"]),
        "rollouts": dg.MetadataValue.int(said["rollouts"]),
    }
    if said["days_to_promote"] is not None:
        values["days to promote"] = dg.MetadataValue.float(said["days_to_promote"])
    return values
