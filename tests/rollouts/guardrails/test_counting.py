"""From cumulative counters to what happened since the last look."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.statistics.binomial import Counts
from pipelines.core.vocabulary import OnFail
from pipelines.rollouts.guardrails import ServingMetric, counts, difference, serving_metrics
from resources.serving.contract import Counters, RevisionCounters
from tests.support.rollouts import manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)

ERRORS = ServingMetric(name="errors", source="serving.errors", slo_ms=None, on_fail=OnFail.ROLL_BACK)

SLOW = ServingMetric(name="slow", source="serving.over_slo", slo_ms=250, on_fail=OnFail.ROLL_BACK)


def seen(epoch: str, *revisions: RevisionCounters) -> Counters:
    return Counters(at=NOW, epoch=epoch, revisions=revisions)


def revision(
    name: str, version: str, requests: int, errors: int = 0, over: dict[int, int] | None = None
) -> RevisionCounters:
    return RevisionCounters(
        revision=name, version=version, requests=requests, errors=errors, over_slo=over or {}
    )


def test_nothing_is_known_before_the_first_look() -> None:
    grown = difference(None, seen("a", revision("r1", "1", 100, 7)))
    assert (grown["1"].requests, grown["1"].errors) == (0, 0)


def test_growth_is_what_came_since_the_last_look() -> None:
    grown = difference(seen("a", revision("r1", "1", 100, 7)), seen("a", revision("r1", "1", 130, 9)))
    assert (grown["1"].requests, grown["1"].errors) == (30, 2)


def test_a_new_epoch_counts_from_zero() -> None:
    grown = difference(seen("a", revision("r1", "1", 100, 7)), seen("b", revision("r1", "1", 130, 9)))
    assert (grown["1"].requests, grown["1"].errors) == (130, 9)


def test_a_revision_that_appears_counts_whole() -> None:
    grown = difference(seen("a", revision("r1", "1", 100)), seen("a", revision("r2", "2", 12, 3)))
    assert (grown["2"].requests, grown["2"].errors) == (12, 3)


def test_two_revisions_of_a_version_are_added_up() -> None:
    """A version that is rolled out again, while the gateway still shows its first revision."""
    before = seen("a", revision("r2", "2", 50, 5), revision("r3", "2", 10, 1))
    now = seen("a", revision("r2", "2", 50, 5), revision("r3", "2", 40, 8))
    for order in (now.revisions, now.revisions[::-1]):
        grown = difference(before, seen("a", *order))
        assert (grown["2"].requests, grown["2"].errors) == (30, 7)


def test_an_slo_that_is_not_counted_counts_nothing() -> None:
    grown = difference(seen("a"), seen("a", revision("r1", "1", 10, 1), revision("r2", "2", 10, 2)))
    assert counts(SLOW, grown, canary="2") == Counts()
    assert counts(ERRORS, grown, canary="2") == Counts(10, 2, 10, 1)


def test_a_side_that_is_not_there_has_no_trials() -> None:
    grown = difference(seen("a"), seen("a", revision("r2", "2", 10, 2, {250: 4})))
    assert counts(SLOW, grown, canary="2") == Counts(10, 4, 0, 0)


def test_only_what_the_serving_side_counts_is_watched() -> None:
    assert [metric.name for metric in serving_metrics(manifest())] == ["errors"]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), max_size=30))
def test_the_intervals_add_up_to_everything_that_was_answered(steps: list[tuple[int, int, bool]]) -> None:
    """Whatever restarts in between; what is counted between a look and a restart is lost, never invented."""
    epoch, requests, errors, before = 0, 0, 0, seen("0", revision("r", "2", 0))
    answered = failed = total = wrong = 0
    for grew, of_these, restarts in steps:
        if restarts:
            epoch, requests, errors = epoch + 1, 0, 0
        requests, errors = requests + grew, errors + min(grew, of_these)
        answered, failed = answered + grew, failed + min(grew, of_these)
        now = seen(str(epoch), revision("r", "2", requests, errors))
        new = counts(ERRORS, difference(before, now), canary="2")
        assert 0 <= new.canary_events <= new.canary_trials
        total, wrong, before = total + new.canary_trials, wrong + new.canary_events, now
    assert (total, wrong) == (answered, failed)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_counters_that_fall_without_a_new_epoch_are_no_negative_counts(before: int, now: int) -> None:
    grown = difference(seen("a", revision("r", "2", before, before)), seen("a", revision("r", "2", now, now)))
    assert grown["2"].requests == grown["2"].errors == max(0, now - before)
