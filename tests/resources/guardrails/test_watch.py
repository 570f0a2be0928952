"""One rollout's watcher: what it concludes, and that another one can take over."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from pipelines.errors import LedgerConflict
from pipelines.rollout.evidence import OnFail, Verdict
from pipelines.rollout.policy import CHAMPION_HEALTH
from pipelines.rollout.state import RolloutState
from resources.guardrails import GuardrailWatch
from resources.ledger import Ledger
from resources.serving.backend import Counters
from tests.support.memory_systems import counters
from tests.support.rollouts import START, Rig, manifest

SECOND = timedelta(seconds=1)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture
def ledger(rig: Rig) -> Iterator[Ledger]:
    ledger = rig.ledger
    yield ledger
    ledger.close()


@pytest.fixture
def state(rig: Rig, ledger: Ledger) -> RolloutState:
    return rig.controller(ledger=ledger).state(rig.start())


def watch(ledger: Ledger, state: RolloutState) -> GuardrailWatch:
    return GuardrailWatch(store=ledger.counters, manifest=manifest(), state=state, save_every=2 * SECOND)


def at(seconds: float, epoch: str = "a", **versions: tuple[int, int]) -> Counters:
    return replace(counters(epoch, **versions), at=START + seconds * SECOND)


def blameless(shown: Counters) -> Counters:
    """The same counters, with errors that only callers can be blamed for."""
    return replace(shown, revisions=tuple(replace(each, faults=0) for each in shown.revisions))


def look(watcher: GuardrailWatch, shown: Counters) -> None:
    watcher.observe(shown)
    watcher.save_if_due()


def test_a_canary_that_fails_where_the_champion_does_not_is_harm(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(900, 0), v2=(100, 30)))
    (harm,) = watcher.evidence(START)
    assert (harm.name, harm.verdict, harm.on_fail) == ("errors", Verdict.FAIL, OnFail.ROLL_BACK)
    assert "30 of 100 answers at the canary" in harm.reason


def test_errors_on_both_sides_are_no_harm(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(900, 90), v2=(100, 10)))
    assert watcher.evidence(START) == ()


def test_a_champion_that_fails_is_said_with_the_harm(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(200, 120), v2=(200, 200)))
    assert {item.name for item in watcher.evidence(START)} == {"errors", CHAMPION_HEALTH}


def test_a_flood_of_bad_requests_makes_no_champion_unhealthy(ledger: Ledger, state: RolloutState) -> None:
    """It fails on both sides, and a harmful canary is still taken out of it."""
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, blameless(at(1, v1=(900, 890), v2=(100, 99))))
    assert watcher.evidence(START) == ()
    look(watcher, blameless(at(2, v1=(1800, 890), v2=(200, 199))))
    assert [item.name for item in watcher.evidence(START)] == ["errors"]


def test_counters_of_an_earlier_release_are_no_beginning(ledger: Ledger, state: RolloutState) -> None:
    """It counted fewer kinds of errors: the difference would be all bad requests so far at once."""
    seen = ledger.counters.seen(f"watch:{state.rollout_id}")
    before = TypeAdapter(Counters).dump_python(at(0, v1=(5000, 0), v2=(5000, 0)), mode="json")
    for revision in before["revisions"]:
        del revision["faults"]
    ledger.counters.append([], key=f"watch:{state.rollout_id}", value=json.dumps(before), after=seen)
    watcher = watch(ledger, state)
    look(watcher, at(1, v1=(5010, 0), v2=(5010, 900)))
    look(watcher, at(2, v1=(5110, 0), v2=(5110, 900)))
    assert watcher.totals["errors"] == (100, 0, 100, 0)


def test_the_champion_is_well_again_after_half_a_minute_without_errors(
    ledger: Ledger, state: RolloutState
) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(100, 60), v2=(0, 0)))
    look(watcher, at(40, v1=(200, 60), v2=(0, 0)))
    assert watcher.evidence(START) == ()


def test_the_next_watcher_goes_on_from_what_was_written(ledger: Ledger, state: RolloutState) -> None:
    first = watch(ledger, state)
    look(first, at(0, v1=(0, 0), v2=(0, 0)))
    look(first, at(3, v1=(90, 0), v2=(10, 2)))
    look(first, at(4, v1=(180, 0), v2=(20, 4)))  # dies before this is due to be written
    second = watch(ledger, state)
    look(second, at(9, v1=(270, 0), v2=(30, 6)))
    uninterrupted = watch(ledger, state)
    assert second.totals == first.totals | {"errors": uninterrupted.totals["errors"]}
    assert second.totals["errors"] == (30, 6, 270, 0)


def test_a_restart_of_the_gateway_loses_nothing_that_was_read(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(90, 0), v2=(10, 2)))
    look(watcher, at(2, "b", v1=(9, 0), v2=(1, 1)))
    assert watcher.totals["errors"] == (11, 3, 99, 0)


def test_of_two_watchers_one_is_told(ledger: Ledger, state: RolloutState) -> None:
    first, second = watch(ledger, state), watch(ledger, state)
    look(first, at(0, v1=(0, 0), v2=(0, 0)))
    with pytest.raises(LedgerConflict):
        look(second, at(0, v1=(0, 0), v2=(0, 0)))


def test_evidence_of_an_earlier_step_still_counts(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(900, 0), v2=(100, 30)))
    watcher.follow(replace(state, step=1, percent=50.0))
    look(watcher, at(2, v1=(1000, 0), v2=(200, 30)))
    assert [item.name for item in watcher.evidence(START)] == ["errors"]


def test_buckets_belong_to_the_step_they_were_counted_at(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, replace(state, step=0, percent=10.0))
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(90, 0), v2=(10, 0)))
    watcher.follow(replace(state, step=1, percent=50.0))
    look(watcher, at(5, v1=(140, 0), v2=(60, 0)))
    found = [(b.step, b.canary_trials, b.champion_trials) for b in ledger.counters.buckets(state.rollout_id)]
    assert found == [(0, 10, 90), (1, 50, 50)]
