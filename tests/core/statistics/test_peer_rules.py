"""The peers' rules on counters made by hand."""

from datetime import UTC, datetime, timedelta
from typing import Literal, TypedDict

import numpy as np

from benchmarks.sequential_parts.peer_rules import (
    Bucket,
    Series,
    argo_rollouts,
    flagger,
    growthbook,
    looks,
    lower_bound,
)

BEGUN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def errors(
    canary: list[tuple[float, float]],
    *,
    every: timedelta = MINUTE,
    kind: Literal["errors", "slow", "other"] = "errors",
) -> Series:
    """(trials, events) of the canary per interval; the champion has 1000 answers and 5 errors in each."""
    buckets = tuple(
        Bucket(BEGUN + every * (k + 1), trials, events, 1000, 5) for k, (trials, events) in enumerate(canary)
    )
    return Series(name="errors", kind=kind, buckets=buckets)


class Span(TypedDict):
    begun: datetime
    ended: datetime


def span(minutes: float) -> Span:
    return {"begun": BEGUN, "ended": BEGUN + minutes * MINUTE}


def test_flagger_rolls_back_a_tick_after_the_fifth_failed_check() -> None:
    action = flagger([errors([(100, 2)] * 10)], **span(10))
    assert action.at == BEGUN + 6 * MINUTE
    assert "98.0 %" in action.reason


def test_flaggers_failed_checks_add_up_over_good_minutes() -> None:
    action = flagger([errors([(100, 2), (100, 0)] * 6)], **span(12))
    assert action.at == BEGUN + 10 * MINUTE


def test_flagger_takes_missing_values_for_failures() -> None:
    assert flagger([errors([(0, 0)] * 8)], **span(8)).at == BEGUN + 6 * MINUTE


def test_flagger_lets_exactly_99_percent_pass_and_knows_only_its_own_metrics() -> None:
    assert flagger([errors([(100, 1)] * 60)], **span(60)).at is None
    assert flagger([errors([(100, 50)] * 60, kind="other")], **span(60)).at is None


def test_flagger_counts_one_failure_a_minute_however_many_metrics_fail() -> None:
    both = [errors([(100, 20)] * 10), errors([(100, 20)] * 10, kind="slow")]
    assert flagger(both, **span(10)).at == BEGUN + 6 * MINUTE


def test_argo_aborts_at_the_fourth_failed_measurement() -> None:
    assert argo_rollouts([errors([(100, 6)] * 60)], **span(60)).at == BEGUN + 20 * MINUTE
    assert argo_rollouts([errors([(100, 5)] * 60)], **span(60)).at is None


def test_argo_aborts_after_five_measurements_without_data() -> None:
    assert argo_rollouts([errors([(0, 0)] * 60)], **span(60)).at == BEGUN + 25 * MINUTE
    gaps = [(0, 0)] * 20 + [(100, 0)] * 5
    assert argo_rollouts([errors(gaps * 3)], **span(75)).at is None


def test_growthbook_looks_at_the_first_update_after_a_step_has_passed() -> None:
    harm = errors([(100, 10)] * 720)
    assert growthbook([harm], **span(359)).at is None
    assert growthbook([harm], **span(720)).at == BEGUN + 6 * HOUR
    assert growthbook([harm], **span(720), step=7 * HOUR).at == BEGUN + 12 * HOUR
    assert growthbook([harm], **span(720), every=10 * MINUTE).at == BEGUN + HOUR
    assert growthbook([errors([(100, 0.5)] * 720)], **span(720)).at is None


def test_growthbooks_next_step_follows_its_look() -> None:
    found = looks(**span(24 * 60), step=2 * HOUR, every=3 * HOUR)
    assert [(at - BEGUN) / HOUR for at in found] == [3, 6, 9, 12, 15, 18, 21, 24]
    found = looks(**span(24 * 60), step=6 * HOUR, every=6 * HOUR)
    assert [(at - BEGUN) / HOUR for at in found] == [6, 12, 18, 24]


def test_growthbooks_bound_holds_about_as_often_as_it_says() -> None:
    """One guardrail, no difference, 28 updates: at most 5 % pass zero."""
    generator = np.random.default_rng(7)
    passed = 0
    for _ in range(400):
        x1, x0 = generator.binomial(500, 0.02, 28).cumsum(), generator.binomial(500, 0.02, 28).cumsum()
        n = 500.0 * np.arange(1, 29)
        pairs = zip(x1, x0, n, strict=True)
        passed += any(lower_bound((a, m), (b, m), alpha=0.05, tuning=5000) > 0 for a, b, m in pairs)
    assert passed / 400 <= 0.05
