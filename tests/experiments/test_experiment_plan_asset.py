"""The plan as an asset: words, table, picture, and a check that warns."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from assets.experiment_plan import experiment_plan
from tests.resources.lake.segments_by_hand import Log, load_past
from tests.support.memory_systems import MemorySystems, given
from tests.support.rollouts import MODEL


def planned(systems: MemorySystems) -> tuple[dict[str, Any], dg.AssetCheckEvaluation]:
    result = dg.materialize([experiment_plan(systems.model)], resources=given(systems))
    (event,) = result.get_asset_materialization_events()
    (check,) = result.get_asset_check_evaluations()
    return {name: value.value for name, value in event.materialization.metadata.items()}, check


def test_without_a_champions_history_it_says_how_to_plan_by_hand(systems: MemorySystems) -> None:
    shown, check = planned(systems)
    assert "python -m pipelines.experiments" in shown["status"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_a_history_becomes_a_plan(systems: MemorySystems) -> None:
    log = Log(systems.settings.prediction_log / MODEL, systems.settings.outcomes / MODEL)
    log.predictions.mkdir(parents=True)
    log.outcomes.mkdir(parents=True)
    begin = datetime.now(UTC) - timedelta(days=1)
    load_past(systems.lake, log, requests=300, begin=begin, every=timedelta(minutes=4))
    systems.world.aliases[MODEL, "champion"] = "1"
    shown, check = planned(systems)
    assert "A version that is as good as the champion is promoted within" in shown["in words"]
    assert "Bottleneck: " in shown["in words"]
    assert 0 <= shown["promoted if healthy"] <= 1
    assert "cost: At 10 % it takes" in shown["in words"]
    assert {record.data["metric"] for record in shown["plan"].records} == {"cost", "errors", "slow"}
    assert shown["power curve"].startswith("![cost: 80% power at")
    assert 250 < shown["units a day"] < 350
    assert check.description
