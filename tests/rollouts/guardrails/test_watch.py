"""One rollout's watcher: what it concludes, and that another one can take over."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from pipelines.core.errors import LedgerConflict
from pipelines.core.rollout.policy import CHAMPION_HEALTH
from pipelines.core.rollout.state import Phase, RolloutState, Weight
from pipelines.core.statistics.binomial import Counts
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.rollouts import guardrails
from pipelines.rollouts.counting import certainly_failed, first_watermark, written
from pipelines.rollouts.guardrails import HOLD_LASTS, UNITS_THAT_FAIL, GuardrailWatch
from pipelines.rollouts.harm_budget import harm_boundary, harm_tests
from pipelines.rollouts.serving_metrics import REPEATED
from resources.ledger.counters import CounterBucket
from resources.ledger.ledger import Ledger
from resources.serving.contract import LEASE, UNIT_WINDOW, Answers, Counters, RevisionCounters
from tests.support.memory_systems import asked_at, counters, each_revision
from tests.support.rollouts import START, Rig, good, manifest

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
    """Of a gateway that began long before, or, by another name, a second before."""
    asked = START + seconds * SECOND
    began = START - 3600 * SECOND if epoch == "a" else asked - SECOND
    return asked_at(counters(epoch, **versions), asked, began=began)


def blameless(shown: Counters) -> Counters:
    """The same counters, with errors that only callers can be blamed for."""
    return each_revision(shown, lambda each: replace(each, faults=0))


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


@pytest.mark.parametrize("lacks", ["faults", "request_faults"])
def test_counters_of_an_earlier_release_are_no_beginning(
    ledger: Ledger, state: RolloutState, lacks: str
) -> None:
    """It counted other errors: the difference would be all bad requests so far at once."""
    seen = ledger.counters.seen(f"watch:{state.rollout_id}")
    before = of_earlier_release("a", at(0, v1=(5000, 0), v2=(5000, 0)))
    for revision in before["revisions"]:
        revision.pop(lacks)
        revision.pop("request_faults", None)
    ledger.counters.append([], key=f"watch:{state.rollout_id}", value=json.dumps(before), after=seen)
    watcher = watch(ledger, state)
    look(watcher, at(1, v1=(5010, 0), v2=(5010, 900)))
    look(watcher, at(2, v1=(5110, 0), v2=(5110, 900)))
    assert watcher.totals["errors"] == (100, 0, 100, 0)


def by_customer(ledger: Ledger, state: RolloutState, *, first: bool = True) -> GuardrailWatch:
    """A watch where units are compared, which has looked once; or the next one, which has not."""
    given = manifest()
    given = given.model_copy(update={"experiment": given.experiment.model_copy(update={"unit": "customer"})})
    watcher = GuardrailWatch(store=ledger.counters, manifest=given, state=state, save_every=2 * SECOND)
    if first:
        look(watcher, units(0, canary=(0, 0)))
    return watcher


def units(
    seconds: float,
    *,
    canary: tuple[int, int],
    answers: tuple[int, int] | None = None,
    new: tuple[int, int] | None = None,
) -> Counters:
    """The canary's first answers and errors; all of its answers, if they are more, and those of new units, if they are fewer.
    The champion's are well, and all of new units."""
    well = (round(100 * seconds), 0)
    shown = at(seconds, v1=well, v2=answers or canary)

    def with_units(each: RevisionCounters) -> RevisionCounters:
        first, distinct = (well, well) if each.version == "1" else (canary, canary if new is None else new)
        return replace(each, first=answered(first), distinct=answered(distinct))

    return each_revision(shown, with_units)


def answered(counts: tuple[int, int]) -> Answers:
    return Answers(requests=counts[0], errors=counts[1], over_slo={250: 0})


def of_another(shown: Counters, instance: str, *, began: datetime | None = None) -> Counters:
    """The same counts, of another start of a gateway."""
    (one,) = shown.gateways
    return replace(shown, gateways=(replace(one, instance=instance, started=began or one.started),))


def of_all(*shown: Counters) -> Counters:
    """Several gateways, read at once."""
    return replace(shown[0], gateways=tuple(gateway for each in shown for gateway in each.gateways))


def of_earlier_release(epoch: str, shown: Counters, gateways: int = 1) -> dict[str, Any]:
    """The watermark that it would have written: one sum, under one epoch."""
    revisions = TypeAdapter(tuple[RevisionCounters, ...]).dump_python(shown.revisions, mode="json")
    for revision in revisions:
        revision.pop("stand_in")
    return {"at": shown.at.isoformat(), "epoch": epoch, "revisions": revisions, "gateways": gateways}


def test_where_units_are_compared_first_answers_roll_back_and_all_answers_hold(
    ledger: Ledger, state: RolloutState
) -> None:
    watcher = by_customer(ledger, state)
    look(watcher, units(10, canary=(100, 1), answers=(140, 40)))
    (held,) = watcher.evidence(START + 10 * SECOND)
    assert (held.name, held.on_fail) == ("errors" + REPEATED, OnFail.HOLD)
    assert watcher.evidence(START + 10 * SECOND + HOLD_LASTS) == (), "until it happens again"
    look(watcher, units(20, canary=(200, 20), answers=(240, 60)))
    assert [e.on_fail for e in watcher.evidence(START) if e.name == "errors"] == [OnFail.ROLL_BACK]


def test_a_unit_that_fails_in_window_after_window_holds_and_rolls_nothing_back(
    ledger: Ledger, state: RolloutState
) -> None:
    watcher, window = by_customer(ledger, state), UNIT_WINDOW.total_seconds()
    for number in range(1, 30):
        look(watcher, units(number * window, canary=(number * 10, number), new=(10, 1)))
    assert {e.name for e in watcher.evidence(START + number * UNIT_WINDOW)} == {"errors" + REPEATED}
    hours_later = 90 * window  # nobody has looked for five hours: one unit may have failed sixty times
    look(watcher, units(hours_later, canary=(900, 90), new=(10, 1)))
    assert {e.name for e in watcher.evidence(START + 90 * UNIT_WINDOW)} == {"errors" + REPEATED}


def exposed(state: RolloutState, *shares: float) -> RolloutState:
    """At the last of these shares, which were given a second after the start and an hour after each other."""
    times = [START + SECOND + number * timedelta(hours=1) for number in range(len(shares))]
    weights = tuple(Weight(at, at, percent) for at, percent in zip(times, shares, strict=True))
    return replace(state, step=len(shares) - 1, percent=shares[-1], weights=weights)


def every(seconds: int, until: int, *, start: int = 0) -> Iterator[int]:
    yield from range(start + seconds, until + 1, seconds)


def test_a_few_units_that_return_and_fail_again_and_again_for_hours_roll_nothing_back(
    ledger: Ledger, state: RolloutState
) -> None:
    """Ten of the canary's, of which one fails whatever it asks; the champion's never do."""
    watcher = by_customer(ledger, exposed(state, 10.0))
    held = False
    for number, second in enumerate(every(60, 3 * 3600), start=1):
        look(watcher, units(second, canary=(2 * number, number // 5), new=(10, 1)))
        evidence = {item.on_fail for item in watcher.evidence(START + second * SECOND)}
        assert OnFail.ROLL_BACK not in evidence
        held = held or OnFail.HOLD in evidence
    assert held, "all answers hold"
    firsts = watcher.totals["errors"]
    assert (firsts.canary_trials, firsts.canary_events) == (360, 36)
    assert watcher.totals["errors/new"][:2] == (10, 1)


def test_many_new_units_that_fail_roll_back_however_long_it_takes_them_to_come(
    ledger: Ledger, state: RolloutState
) -> None:
    """One in ten minutes: never three within four, and never two in one block."""
    watcher = by_customer(ledger, exposed(state, 10.0))
    for number, second in enumerate(every(600, 40 * 600), start=1):
        look(watcher, units(second, canary=(10 * number, number)))
        found = {item.name: item for item in watcher.evidence(START + second * SECOND)}
        if "errors" in found:
            break
    assert 3 <= number <= 6
    assert found["errors"].on_fail is OnFail.ROLL_BACK
    assert "each a unit's first in this rollout" in found["errors"].reason


def test_blatant_harm_among_a_few_units_that_return_is_rolled_back_within_seconds(
    ledger: Ledger, state: RolloutState
) -> None:
    """Nobody new has come for hours, and it begins in the middle of a block."""
    watcher = by_customer(ledger, exposed(state, 10.0))
    look(watcher, units(60, canary=(100, 0)))
    calm = 5 * 3600 + 100
    for second in every(60, calm, start=60):
        look(watcher, units(second, canary=(100 + second // 4, 0), new=(100, 0)))
    for second in every(2, calm + 120, start=calm):
        failed = (second - calm) // 4
        look(watcher, units(second, canary=(100 + second // 4, failed), new=(100, 0)))
        found = {item.name: item for item in watcher.evidence(START + second * SECOND)}
        if "errors" in found:
            break
    assert found["errors"].on_fail is OnFail.ROLL_BACK
    assert "each a unit's first since 14:00" in found["errors"].reason
    assert second - calm <= 60


def test_no_block_of_time_reaches_over_a_change_of_share(ledger: Ledger, state: RolloutState) -> None:
    """The gateway counts every unit anew: what two of its units fail on both sides of it is not what four do."""
    watcher = by_customer(ledger, exposed(state, 10.0))
    look(watcher, units(3602, canary=(20, 2), new=(0, 0)))
    look(watcher, units(3604, canary=(24, 6), new=(0, 0)))
    known = watcher.processes["errors/block"].log_e
    assert known > 0
    watcher.follow(exposed(state, 10.0, 50.0))
    look(watcher, units(3606, canary=(24, 6), new=(0, 0)))
    assert watcher.processes["errors/block"].log_e == 0
    look(watcher, units(3608, canary=(27, 8), new=(0, 0)))
    assert watcher.totals["errors/block"][:2] == (3, 2)


def test_the_next_watcher_has_the_evidence_on_new_units_and_begins_a_block_of_its_own(
    ledger: Ledger, state: RolloutState
) -> None:
    shared = exposed(state, 10.0)
    first = by_customer(ledger, shared)
    for number, second in enumerate((10, 20, 30), start=1):
        look(first, units(second, canary=(20 * number, 2 * number), new=(10 * number, number)))
    second_one = by_customer(ledger, shared, first=False)
    known = first.processes["errors/new"].log_e
    assert second_one.processes["errors/new"].log_e == pytest.approx(known)
    assert known > 0
    look(second_one, units(40, canary=(80, 20), new=(30, 3)))
    assert second_one.totals["errors/block"].trials == 0, "what the other one had seen of it is not known"
    look(second_one, units(241, canary=(90, 20), new=(30, 3)))
    look(second_one, units(243, canary=(100, 21), new=(30, 3)))
    assert second_one.totals["errors/block"][:2] == (10, 1), "from the next one's first whole look on"


def test_a_gateway_that_starts_again_makes_no_unit_new_to_the_evidence_so_far(
    ledger: Ledger, state: RolloutState
) -> None:
    """Everybody is new there, so it is a test of its own, from 1 on; the next start begins another one."""
    shared = exposed(state, 10.0)
    watcher = by_customer(ledger, shared)
    look(watcher, units(20, canary=(20, 2)))
    known = watcher.processes["errors/new"].log_e
    for start in (1, 2):
        began = START + 100 * start * SECOND
        for number in range(3):
            shown = of_another(
                units(100 * start + 2 * number, canary=(10 * number, number)), f"b{start}", began=began
            )
            look(watcher, shown)
        assert watcher.processes["errors/new"].log_e == known
        assert watcher.totals["errors/later"][:2] == (20, 2), "not that of another start"
        assert watcher.totals["errors"].canary_events == 2 + 2 * start
        taken_over = by_customer(ledger, shared, first=False)
        assert taken_over.processes["errors/later"].log_e == pytest.approx(
            watcher.processes["errors/later"].log_e
        )
    for number in range(3, 30):
        look(watcher, of_another(units(200 + 2 * number, canary=(10 * number, number)), "b2", began=began))
    (found,) = (item for item in watcher.evidence(START) if item.name == "errors")
    assert found.on_fail is OnFail.ROLL_BACK, "harm is found after a start as well"


def test_what_an_earlier_release_counted_by_windows_is_shown_and_tested_no_more(
    ledger: Ledger, state: RolloutState
) -> None:
    """Its counters told nobody's first answer in the rollout: that is counted from the next look on."""
    mark = json.loads(written(first_watermark(units(10, canary=(100, 40)))))
    for name in ("starts", "newest", "most"):
        mark.pop(name)
    for revision in mark["gateways"][0]["revisions"]:
        revision.pop("distinct")
    counts = {"canary_trials": 100, "canary_events": 40, "champion_trials": 1000, "champion_events": 0}
    bucket = CounterBucket(
        rollout_id=state.rollout_id, epoch="a", at=START + 10 * SECOND, step=0, metric="errors", **counts
    )
    ledger.counters.append([bucket], key=f"watch:{state.rollout_id}", value=json.dumps(mark), after=None)
    watcher = by_customer(ledger, exposed(state, 10.0), first=False)
    look(watcher, units(11, canary=(100, 40)))
    assert watcher.totals["errors"] == (100, 40, 1100, 0)
    assert watcher.evidence(START + 11 * SECOND) == ()
    look(watcher, units(12, canary=(103, 41)))
    assert watcher.totals["errors/new"] == (3, 1, 100, 0)


def test_once_a_gateway_may_have_forgotten_a_unit_no_unit_is_new(
    ledger: Ledger, state: RolloutState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardrails, "UNITS_REMEMBERED", 2000)
    watcher = by_customer(ledger, exposed(state, 10.0))
    look(watcher, units(18, canary=(200, 2)))
    seen = watcher.totals["errors/new"]
    assert seen.trials == 2000
    look(watcher, units(30, canary=(300, 30)))
    assert watcher.totals["errors/new"] == seen
    assert watcher.totals["errors"].canary_events == 30


def test_with_several_gateways_a_unit_may_count_at_each(ledger: Ledger, state: RolloutState) -> None:
    watcher = by_customer(ledger, state)

    def three(seconds: float, *failed: int) -> Counters:
        shown = (units(seconds, canary=(round(5 * seconds), each)) for each in failed)
        began = START + 5 * SECOND
        every = (of_another(each, name, began=began) for each, name in zip(shown, "abc", strict=True))
        return of_all(*every)

    look(watcher, three(10, 2, 2, 2))
    assert [item.on_fail for item in watcher.evidence(START + 10 * SECOND)] == [OnFail.HOLD]
    taken_over = by_customer(ledger, state, first=False)
    look(taken_over, three(11, 2, 2, 2))
    assert [item.on_fail for item in taken_over.evidence(START + 11 * SECOND)] == [OnFail.HOLD]
    look(taken_over, three(12, 2, 2, 5))
    assert OnFail.ROLL_BACK in {item.on_fail for item in taken_over.evidence(START + 12 * SECOND)}


def test_a_unit_that_fails_at_gateway_after_gateway_holds_and_rolls_nothing_back(
    ledger: Ledger, state: RolloutState
) -> None:
    """It counts anew at each that starts; a watch that takes over must not take that for several units either."""
    state = exposed(state, 10.0)
    for number in range(1, 12):
        watcher = by_customer(ledger, state, first=number == 1)
        shown = units(3 * number, canary=(1, 1))
        look(watcher, of_another(shown, f"start-{number}", began=shown.at - SECOND))
        assert OnFail.ROLL_BACK not in {e.on_fail for e in watcher.evidence(START + 3 * number * SECOND)}
    assert watcher.totals["errors"].canary_events >= 10


def test_a_copy_of_a_bad_request_fails_as_the_request_does(ledger: Ledger, state: RolloutState) -> None:
    """Copies are tried once: their failures stand beside all failures of the other side."""
    watcher = watch(ledger, replace(state, phase=Phase.SHADOW))
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    shown = at(1, v1=(1000, 0), v2=(1000, 300))
    look(
        watcher,
        each_revision(shown, lambda each: replace(each, request_faults=300 * (each.version == "1"))),
    )
    assert watcher.evidence(START) == ()
    assert watcher.totals["errors"] == (1000, 300, 1000, 300)


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
    assert second.totals == uninterrupted.totals
    assert second.totals["errors"] == (30, 6, 270, 0)


def test_the_next_watcher_has_the_evidence_of_one_that_was_never_interrupted(
    ledger: Ledger, state: RolloutState
) -> None:
    """Also what the old share left pending, and what was set aside for harm that begins later."""
    first = watch(ledger, replace(state, step=0, percent=10.0))
    shown = [(0, 0), (3, 1), (5, 1), (900, 20), (2000, 60), (2000, 60)]
    for number, (answers, errors) in enumerate(shown):
        beside = 9 * answers + (3 if number == 5 else 0)
        look(first, at(3 * number, v1=(beside, 2 * errors), v2=(answers, errors)))
        if number == 1:
            first.follow(replace(state, step=1, percent=50.0))
        first.save()
    second = watch(ledger, replace(state, step=1, percent=50.0))
    mine, taken_over = first.processes["errors"], second.processes["errors"]
    assert (taken_over.log_e, taken_over.events) == (mine.log_e, mine.events)
    assert taken_over.pending == mine.pending != Counts()


SLOW = {
    "name": "slow",
    "type": "proportion",
    "source": "serving.over_slo",
    "slo": "250ms",
    "margin": "1pp",
}


def slow_too(state: RolloutState, ledger: Ledger, on_fail: str = "roll_back") -> GuardrailWatch:
    errors = manifest().guardrails[0].model_dump(mode="json", exclude_none=True)
    wanted = manifest(guardrails=[errors, SLOW | {"on_fail": on_fail}])
    return GuardrailWatch(store=ledger.counters, manifest=wanted, state=state, save_every=2 * SECOND)


def both(seconds: float, champion: int, canary: int, bad: int) -> Counters:
    """So many answers; of the canary's, `bad` failed and as many were slow."""
    shown = at(seconds, v1=(champion, 0), v2=(canary, bad))
    return each_revision(shown, lambda each: replace(each, over_slo={250: bad * (each.version == "2")}))


def test_evidence_of_several_guardrails_adds_up(ledger: Ledger, state: RolloutState) -> None:
    """Neither reaches the boundary; their sum does, and each one's own evidence is told."""
    watcher = slow_too(state, ledger)
    look(watcher, both(0, 0, 0, 0))
    for number in range(1, 60):
        look(watcher, both(60 * number, 90 * number, 10 * number, number))
        if found := watcher.evidence(START):
            break
    single = [watcher.processes[name].log_e for name in ("errors", "slow")]
    assert max(single) < watcher.boundary <= np.logaddexp(*single)
    assert {item.name for item in found} == {"errors", "slow"}
    assert all(item.on_fail is OnFail.ROLL_BACK for item in found)
    one = f"{math.exp(single[0]):.3g}"
    assert f"(e-value {one}, {2 * math.exp(single[0]):.3g} with the others, boundary" in found[0].reason


def test_evidence_of_what_only_holds_adds_nothing_to_a_rollback(ledger: Ledger, state: RolloutState) -> None:
    watcher = slow_too(state, ledger, on_fail="hold")
    look(watcher, both(0, 0, 0, 0))
    while watcher.processes["errors"].log_e < watcher.boundary - math.log(1.9):
        number = watcher.totals["errors"].canary_trials // 10 + 1
        look(watcher, both(number, 90 * round(number), 10 * round(number), round(number)))
    assert watcher.processes["errors"].log_e < watcher.boundary
    assert watcher.evidence(START) == ()


@pytest.mark.parametrize("at_once", [True, False])
def test_answers_that_one_stall_made_late_roll_nothing_back(
    ledger: Ledger, state: RolloutState, at_once: bool
) -> None:
    """Twenty of the canary's answers waited together: one cause. Failed ones are bad, whatever the cause."""
    watcher = slow_too(state, ledger)
    seconds, late = (1, 20) if at_once else (2, 10)
    look(watcher, late_answers(0, 0, 0))
    look(watcher, late_answers(1, 50, late))
    look(watcher, late_answers(seconds, 50, 20))
    for quiet in range(3, 20):
        look(watcher, late_answers(quiet, 50 * quiet, 20))
        assert watcher.evidence(START) == ()


def test_slowness_that_lasts_is_harm_within_a_few_moments(ledger: Ledger, state: RolloutState) -> None:
    watcher = slow_too(state, ledger)
    look(watcher, late_answers(0, 0, 0))
    poll = 0
    while not watcher.evidence(START):
        poll += 1
        look(watcher, late_answers(poll / 5, 10 * poll, 10 * poll))
    assert 6 <= poll / 5 <= 12
    again = slow_too(state, ledger)
    assert again.processes["slow"].log_e == pytest.approx(watcher.processes["slow"].log_e, abs=math.log(3.0))


def late_answers(seconds: float, answers: int, late: int) -> Counters:
    """So many answers of either version; of the canary's, `late` were slow."""
    shown = at(seconds, v1=(answers, 0), v2=(answers, 0))
    return each_revision(shown, lambda each: replace(each, over_slo={250: late * (each.version == "2")}))


def test_likely_harm_is_said_while_it_lasts(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    assert watcher.doubt(START) == ()
    look(watcher, at(1, v1=(90, 0), v2=(10, 2)))
    assert watcher.evidence(START) == ()
    (doubt,) = watcher.doubt(START)
    assert (doubt.verdict, doubt.on_fail) == (Verdict.FAIL, OnFail.HOLD)
    assert "to 1 (errors), advance below 3 to 1" in doubt.reason
    look(watcher, at(2, v1=(190, 20), v2=(20, 2)))
    assert watcher.doubt(START) == ()


def test_the_same_counts_are_tested_once() -> None:
    by_unit = manifest().experiment.model_copy(update={"unit": "customer"})
    assert harm_tests(manifest()) == 2, "errors live, cost at the looks"
    assert harm_tests(manifest().model_copy(update={"experiment": by_unit})) == 2


def test_a_restart_of_the_gateway_loses_nothing_that_was_read(ledger: Ledger, state: RolloutState) -> None:
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(90, 0), v2=(10, 2)))
    look(watcher, at(2, "b", v1=(9, 0), v2=(1, 1)))
    assert watcher.totals["errors"] == (11, 3, 99, 0)


def one_of(seconds: float, pods: dict[str, tuple[int, int]], *, began: float | None = None) -> Counters:
    """Pods that each answered as often at both versions: `(answers of each, errors of each)`."""
    start = None if began is None else START + began * SECOND
    shown = (of_another(at(seconds, v1=each, v2=each), name, began=start) for name, each in pods.items())
    return of_all(*shown)


PAST = {"one": (100_000, 0), "two": (100_000, 0)}
"""What two pods had answered, and well, before the rollout began."""


@pytest.mark.parametrize("happens", ["joins", "leaves", "starts again", "is silent"])
def test_a_gateway_that_comes_or_goes_makes_nothing_new_of_what_the_others_had_counted(
    ledger: Ledger, state: RolloutState, happens: str
) -> None:
    watcher = watch(ledger, state)
    look(watcher, one_of(0, PAST, began=-9000))
    look(watcher, one_of(1, {"one": (100_010, 1), "two": (100_010, 1)}, began=-9000))
    seen = watcher.totals["errors"]
    assert seen == (20, 2, 20, 2)
    pods, began = {"one": (100_015, 2), "two": (100_015, 2)}, -9000.0
    if happens in ("leaves", "is silent"):
        pods.pop("two")
    after = one_of(2, pods, began=began)
    if happens == "joins":
        after = of_all(after, one_of(2, {"three": (4, 1)}, began=1.5))
    if happens == "starts again":
        after = of_all(one_of(2, {"one": (100_015, 2)}, began=began), one_of(2, {"two'": (4, 1)}, began=1.5))
    look(watcher, after)
    expected = {"joins": (14, 3), "leaves": (5, 1), "starts again": (9, 2), "is silent": (5, 1)}[happens]
    assert watcher.totals["errors"] == seen.plus(Counts(*expected, *expected))
    if happens == "is silent":
        look(watcher, one_of(5, {"one": (100_015, 2), "two": (100_030, 3)}, began=began))
        assert watcher.totals["errors"] == (45, 5, 45, 5), "it counts where it left off"


def test_what_a_gateway_answered_while_nobody_could_read_it_for_a_lease_is_lost(
    ledger: Ledger, state: RolloutState
) -> None:
    """It may have taken the share away by itself meanwhile: its two versions would be compared over different times."""
    watcher, away = watch(ledger, state), LEASE.total_seconds()
    look(watcher, one_of(0, PAST, began=-9000))
    look(watcher, one_of(1, {"one": (100_001, 0)}, began=-9000))
    look(watcher, one_of(1 + away, {"one": (100_002, 0)}, began=-9000))
    look(watcher, one_of(2 + away, {"one": (100_003, 0), "two": (190_000, 900)}, began=-9000))
    look(watcher, one_of(3 + away, {"one": (100_004, 0), "two": (190_001, 901)}, began=-9000))
    assert watcher.totals["errors"] == (5, 1, 5, 1)


def test_what_all_gateways_answered_while_nobody_watched_is_counted(
    ledger: Ledger, state: RolloutState
) -> None:
    look(watch(ledger, state), one_of(0, PAST, began=-9000))
    later = watch(ledger, state)
    old = one_of(3600, {"one": (100_900, 9), "two": (100_900, 9)}, began=-9000)
    look(later, of_all(old, one_of(3600, {"new": (900, 9)}, began=600)))
    assert later.totals["errors"] == (2700, 27, 2700, 27)


def test_a_gateway_that_was_not_read_when_the_share_changed_is_not_compared_over_the_change(
    ledger: Ledger, state: RolloutState
) -> None:
    watcher = watch(ledger, replace(state, step=0, percent=10.0))
    look(watcher, one_of(0, PAST, began=-9000))
    look(watcher, one_of(1, {"one": (100_001, 0)}, began=-9000))
    watcher.follow(replace(state, step=1, percent=50.0))
    taken_over = watch(ledger, replace(state, step=1, percent=50.0))
    for each in (watcher, taken_over):
        new = (one_of(2, {"new": (70, 7)}, began=0.5), one_of(3, {"new": (71, 8)}, began=0.5))
        each.observe(of_all(one_of(2, {"one": (100_002, 0), "two": (100_500, 50)}, began=-9000), new[0]))
        each.observe(of_all(one_of(3, {"one": (100_003, 0), "two": (100_501, 51)}, began=-9000), new[1]))
        assert each.totals["errors"] == (5, 2, 5, 2)


def test_watchers_that_take_turns_count_what_one_alone_would(ledger: Ledger, state: RolloutState) -> None:
    """Each goes on from the ledger, from one gateway's numbers to the next one's."""
    pods: dict[str, tuple[int, int]] = {"one": (100_000, 0)}
    alone = watch(ledger, state)
    alone._key = "alone"
    two = [watch(ledger, state), watch(ledger, state)]
    for number in range(12):
        pods = {name: (answers + 10, errors + 1) for name, (answers, errors) in pods.items()}
        if number in (3, 6):
            pods[f"new-{number}"] = (2, 1)
        began = {name: float(name.partition("-")[2] or -50) - 0.5 for name in pods}
        shown = of_all(*(one_of(number, {name: each}, began=began[name]) for name, each in pods.items()))
        alone.observe(shown)
        for place, each in enumerate(two):
            try:
                each.observe(shown)
                each.save()
            except LedgerConflict:
                two[place] = watch(ledger, state)
                two[place].observe(shown)
    assert {each.totals["errors"] for each in two} == {alone.totals["errors"]} == {(244, 26, 244, 26)}


def test_an_earlier_releases_watermark_of_one_gateway_is_gone_on_from_and_of_several_begun_anew(
    ledger: Ledger, state: RolloutState
) -> None:
    seen = ledger.counters.seen(f"watch:{state.rollout_id}")
    value = json.dumps(of_earlier_release("gateway-7/revision-1", at(0, v1=(900, 9), v2=(100, 1))))
    seen = ledger.counters.append([], key=f"watch:{state.rollout_id}", value=value, after=seen)
    now = of_another(at(1, v1=(990, 10), v2=(110, 2)), "gateway-7", began=START - 60 * SECOND)
    beside = each_revision(now, lambda each: replace(each, stand_in="revision-1" * (each.version == "2")))
    watcher = watch(ledger, state)
    watcher.observe(beside)
    assert watcher.totals["errors"] == (10, 1, 90, 1)
    value = json.dumps(of_earlier_release("8d1f", one_of(0, PAST), gateways=2))
    ledger.counters.append([], key=f"watch:{state.rollout_id}", value=value, after=seen)
    watcher = watch(ledger, state)
    look(watcher, one_of(1, {"one": (100_010, 9), "two": (100_010, 9)}, began=-9000))
    look(watcher, one_of(2, {"one": (100_020, 10), "two": (100_020, 10)}, began=-9000))
    assert watcher.totals["errors"] == (20, 2, 20, 2)


def test_of_two_watchers_one_is_told(ledger: Ledger, state: RolloutState) -> None:
    first, second = watch(ledger, state), watch(ledger, state)
    look(first, at(0, v1=(0, 0), v2=(0, 0)))
    with pytest.raises(LedgerConflict):
        look(second, at(0, v1=(0, 0), v2=(0, 0)))


def test_a_clock_that_is_set_back_stops_no_watch(ledger: Ledger, state: RolloutState) -> None:
    watcher = by_customer(ledger, state)
    look(watcher, asked_at(units(10, canary=(100, 30)), START - SECOND))
    assert "errors" in {item.name for item in watcher.evidence(START)}


def test_an_unhealthy_champion_is_well_again_half_a_minute_after_the_clock_was_set_back(
    ledger: Ledger, state: RolloutState
) -> None:
    """What was answered at a time that is still to come does not count until then."""
    watcher = watch(ledger, state)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(200, 120), v2=(200, 120)))
    assert CHAMPION_HEALTH in {item.name for item in watcher.evidence(START)}
    look(watcher, at(-7200, v1=(300, 120), v2=(300, 120)))
    assert CHAMPION_HEALTH not in {item.name for item in watcher.evidence(START - 7200 * SECOND)}


@pytest.mark.parametrize(
    ("seconds", "proven"), [((3, 6, 9), True), ((3, 6, 600), False)], ids=["at once", "over ten minutes"]
)
def test_a_watch_that_takes_over_knows_which_units_failed_a_short_time_ago(
    ledger: Ledger, state: RolloutState, seconds: Sequence[int], proven: bool
) -> None:
    for number, second in enumerate(seconds, start=1):
        watcher = by_customer(ledger, state, first=number == 1)
        look(watcher, units(second, canary=(number, number), new=(1, 1)))
    assert (certainly_failed(watcher._failed_units, "errors") >= UNITS_THAT_FAIL) == proven


def test_what_failed_under_another_share_or_another_gateway_proves_no_unit_to_the_next_watch(
    ledger: Ledger, state: RolloutState
) -> None:
    """The gateway counts every unit anew there: one that fails on both sides of it is one."""
    state = exposed(state, 10.0)
    look(by_customer(ledger, state), units(3, canary=(9, 2)))
    began = START + 3.5 * SECOND
    look(by_customer(ledger, state, first=False), of_another(units(4, canary=(9, 1)), "b", began=began))
    last = by_customer(ledger, state, first=False)
    look(last, of_another(units(5, canary=(10, 2)), "b", began=began))
    assert OnFail.ROLL_BACK not in {item.on_fail for item in last.evidence(START + 5 * SECOND)}
    now = START + 6 * SECOND
    shared = replace(state, step=1, percent=50.0, weights=(*state.weights, Weight(now, now, 50.0)))
    later = by_customer(ledger, shared, first=False)
    look(later, of_another(units(7, canary=(11, 3)), "b", began=began))
    assert OnFail.ROLL_BACK not in {item.on_fail for item in later.evidence(START + 7 * SECOND)}


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
    buckets = [b for b in ledger.counters.buckets(state.rollout_id) if b.metric == "errors"]
    found = [(b.step, b.canary_trials, b.champion_trials) for b in buckets]
    assert found == [(0, 10, 90), (1, 50, 50)]


def test_a_bake_is_watched_by_a_test_of_its_own(rig: Rig, ledger: Ledger) -> None:
    """A ramp in which the canary was by far the better one must not weigh against harm that begins later."""
    rollout = rig.start(bake="1h")
    controller = rig.controller(ledger=ledger)
    controller.drive(rollout, good(rig.clock.now))
    wanted, state = manifest(bake="1h"), controller.state(rollout)
    watcher = GuardrailWatch(store=ledger.counters, manifest=wanted, state=state, save_every=2 * SECOND)
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(10, v1=(90_000, 900), v2=(90_000, 0)))
    ramp = watcher.boundary
    for _ in range(2):
        rig.clock.tick()
        controller.drive(rollout, good(rig.clock.now))
    state = controller.state(rollout)
    assert state.phase is Phase.BAKING
    watcher.follow(state)
    assert watcher.boundary - ramp == pytest.approx(math.log(4))
    look(watcher, at(20, v1=(91_000, 910), v2=(94_000, 200)))
    (harm,) = watcher.evidence(START)
    assert "200 of 4000 answers at the canary" in harm.reason
    taken_over = GuardrailWatch(store=ledger.counters, manifest=wanted, state=state, save_every=2 * SECOND)
    assert taken_over.boundary == watcher.boundary
    watcher.save()
    taken_over = GuardrailWatch(store=ledger.counters, manifest=wanted, state=state, save_every=2 * SECOND)
    assert taken_over.totals == watcher.totals


@pytest.mark.parametrize("strays", [0, 40])
def test_at_all_of_the_traffic_stray_answers_of_the_champion_are_compared_with_nothing(
    ledger: Ledger, state: RolloutState, strays: int
) -> None:
    """Nor do they keep a version that fails most of its answers from being taken back."""
    watcher = watch(ledger, replace(state, percent=100.0))
    look(watcher, at(0, v1=(0, 0), v2=(0, 0)))
    look(watcher, at(1, v1=(strays, 0), v2=(4000, 60)))
    assert watcher.evidence(START) == ()
    look(watcher, at(2, v1=(2 * strays, 0), v2=(8000, 4000)))
    assert [item.name for item in watcher.evidence(START)] == ["errors"]


def test_a_bake_has_its_part_of_the_budget_whatever_the_manifest_says_by_now() -> None:
    """The manifest is read anew with each start of the code location; an open rollout keeps its bake."""
    began, now = (harm_boundary(manifest(bake=bake), baking=True) for bake in ("24h", "0s"))
    assert now == began
