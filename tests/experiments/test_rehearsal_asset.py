"""The rehearsal as an asset and a job: its first line, numbers, and a check that warns; and what it says where it cannot."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from assets.rehearsal import rehearsal
from tests.resources.lake.segments_by_hand import Log, load_past
from tests.support.memory_systems import MemorySystems, given
from tests.support.rollouts import MODEL


def rehearsed(systems: MemorySystems, **config: Any) -> tuple[dict[str, Any], dg.AssetCheckEvaluation]:
    asset = rehearsal(systems.model)
    result = dg.materialize(
        [asset],
        resources=given(systems),
        run_config={"ops": {asset.op.name: {"config": config}}} if config else None,
    )
    (event,) = result.get_asset_materialization_events()
    (check,) = result.get_asset_check_evaluations()
    return {name: value.value for name, value in event.materialization.metadata.items()}, check


def test_where_it_cannot_be_rehearsed_the_asset_says_why_and_the_check_warns(systems: MemorySystems) -> None:
    shown, check = rehearsed(systems)
    assert shown["status"].startswith("not rehearsed: ")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    shown, _ = rehearsed(systems, harm_percent=[0.0])
    assert shown["status"] == "not rehearsed: harm_percent: 0, must be above 0 and at most 100"
    shown, _ = rehearsed(systems, rollouts=0)
    assert "rollouts: 0 and rollouts_of_harm: 10, must be at least 1 and 0" in shown["status"]


def test_a_history_is_played_and_the_first_line_says_what_became_of_it(systems: MemorySystems) -> None:
    log = Log.below(systems.settings.home / "history")
    begin = datetime.now(UTC) - timedelta(days=4)
    load_past(systems.lake, log, requests=1200, begin=begin, every=timedelta(minutes=4.5))
    systems.world.aliases[MODEL, "champion"] = "1"
    shown, check = rehearsed(systems, rollouts=3, rollouts_of_harm=1, harm_percent=[50])
    first = shown["rehearsal"].splitlines()[0]
    assert first.startswith("identical version: promoted in ") and "rolled back 0" in first
    assert "errors harmed: 50 % found after" in first
    assert "| identical | " in shown["rehearsal"]
    assert shown["numbers"]["false_rollbacks"] == shown["false rollbacks"] == 0
    assert [each["metric"] for each in shown["numbers"]["harm"]] == ["cost", "errors", "slow"]
    assert shown["rollouts"] == 3
    assert check.description
