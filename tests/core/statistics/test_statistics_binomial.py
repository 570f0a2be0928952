"""The conditional-binomial e-process: algebra, bad input, and speed of detection."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.binomial import (
    ConditionalBinomial,
    Counts,
    blended_mixture,
    harm_mixture,
    log_e_process,
    normal_mixture,
    slow_answers,
)
from pipelines.core.statistics.sections import DISTINCT, log_block, log_later
from pipelines.core.statistics.starts import LATER, log_cash, log_started

trials = st.integers(0, 300)

share = st.floats(0.01, 0.99)


@st.composite
def buckets(draw: st.DrawFn) -> list[Counts]:
    def one() -> Counts:
        n1, n0 = draw(trials), draw(trials)
        return Counts(n1, draw(st.integers(0, n1)), n0, draw(st.integers(0, n0)))

    return [one() for _ in range(draw(st.integers(1, 6)))]


@given(buckets())
def test_batch_and_incremental_agree(data: list[Counts]) -> None:
    process, path = ConditionalBinomial(min_trials=0), list[float]()
    for bucket in data:
        process = process.observe(bucket)
        path.append(process.log_e)
    columns = (np.array(column, float) for column in zip(*data, strict=True))
    informative = [b.canary_trials > 0 and b.champion_trials > 0 for b in data]
    # `observe` keeps a one-armed bucket open until the other arm appears; the batch skips it.
    if all(informative):
        assert log_e_process(*columns) == pytest.approx(path, abs=1e-8)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), share)
def test_buckets_of_the_same_share_may_be_split(a: int, b: int, c: int, d: int, rho: float) -> None:
    start = ConditionalBinomial(later=0.0)
    whole = start.update(a + b, c + d, rho).log_e
    split = start.update(a, c, rho).update(b, d, rho).log_e
    assert split == pytest.approx(whole, abs=1e-8)


@given(st.integers(0, 200), st.integers(0, 200), share)
def test_more_events_at_the_canary_are_more_evidence(canary: int, champion: int, rho: float) -> None:
    start = ConditionalBinomial(later=0.0)
    assert start.update(canary + 1, champion, rho).log_e >= start.update(canary, champion, rho).log_e
    assert start.update(canary, champion + 1, rho).log_e <= start.update(canary, champion, rho).log_e + 1e-12


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 80))
def test_mean_under_equal_rates_is_at_most_one(n1: int, n0: int, events: int) -> None:
    """Exact: over the hypergeometric distribution of the canary's events in one bucket."""
    from scipy.stats import hypergeom

    events = min(events, n1 + n0)
    x1 = np.arange(max(0, events - n0), min(n1, events) + 1)
    probability = hypergeom.pmf(x1, n1 + n0, n1, events)
    for mixture in (harm_mixture(), normal_mixture(0.3), blended_mixture(0.05)):
        start = ConditionalBinomial(mixture, min_trials=0)
        for most in (math.inf, math.log(3)):
            after = [start.update(x, events - x, n1 / (n1 + n0), most=most) for x in x1.tolist()]
            assert float(probability @ np.exp([each.log_e for each in after])) <= 1 + 1e-9


def test_a_moment_of_slow_answers_wins_a_factor_of_three_at_most() -> None:
    process = slow_answers()
    for poll in range(8):
        process = process.observe(Counts(20, 20, 20, 0), seconds=0.25)
        assert (process.log_e == 0) == (poll < 7), "it is compared when two seconds are over"
    assert 0 < process.log_e <= math.log(3)
    gap = slow_answers().observe(Counts(2000, 2000, 2000, 0), seconds=60)
    assert math.log(3) < gap.log_e <= 30 * math.log(3), "a gap in the watch has as many moments as it is long"


def test_silence_does_not_make_what_follows_it_worth_more() -> None:
    silent = slow_answers()
    for _ in range(600):
        silent = silent.observe(Counts(), seconds=0.2)
    assert silent.observe(Counts(50, 50, 50, 0), seconds=0.2).log_e <= 1.1 * math.log(3)


def test_single_slow_answers_of_a_canary_with_a_third_of_traffic_are_worth_what_they_were() -> None:
    data = [Counts(40, 1, 60, 1), Counts(40, 0, 60, 0), Counts(40, 1, 60, 0)] * 20
    usual, slow = ConditionalBinomial(), slow_answers()
    for bucket in data:
        usual, slow = usual.observe(bucket), slow.observe(bucket, seconds=2.0)
    assert slow.log_e == pytest.approx(usual.log_e)


def test_nothing_to_compare_says_nothing() -> None:
    start = ConditionalBinomial()
    assert start.log_e == 0
    assert start.update(5, 0, 1.0).log_e == 0
    assert start.update(0, 5, 0.0).log_e == 0
    assert start.update(0, 0, 0.5).log_e == 0


def test_small_polls_are_merged_by_their_trials() -> None:
    process = ConditionalBinomial(min_trials=10)
    for _ in range(9):
        process = process.observe(Counts(0, 0, 1, 0))
    assert process.pending.trials == 9
    process = process.observe(Counts(1, 1, 0, 0))
    assert process.pending == Counts()
    assert process.log_e == pytest.approx(ConditionalBinomial().update(1, 0, 0.1).log_e)


def test_sealing_takes_the_pending_bucket_in() -> None:
    pending = ConditionalBinomial(min_trials=100).observe(Counts(5, 5, 5, 0))
    assert pending.log_e == 0
    assert pending.sealed().log_e == pytest.approx(ConditionalBinomial().update(5, 0, 0.5).log_e)
    assert pending.sealed().pending == Counts()


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_impossible_numbers_are_refused(bad: float) -> None:
    with pytest.raises(NotMeasured, match="finite and not negative"):
        ConditionalBinomial().update(bad, 0, 0.5)
    with pytest.raises(NotMeasured, match="canary: trials"):
        ConditionalBinomial().observe(Counts(bad, 0, 1, 0))
    with pytest.raises(NotMeasured):
        log_e_process(*map(np.array, ([1.0], [bad], [1.0], [0.0])))


def test_events_without_trials_are_refused() -> None:
    with pytest.raises(NotMeasured, match="had no trials"):
        ConditionalBinomial().update(1, 0, 0.0)
    with pytest.raises(NotMeasured, match="5 events in 4 trials"):
        ConditionalBinomial().observe(Counts(4, 5, 4, 0))
    with pytest.raises(NotMeasured):
        ConditionalBinomial().update(0, 0, 1.5)


@pytest.mark.parametrize(("rho", "rate", "most"), [(0.1, 1.0, 3), (0.1, 0.05, 3), (0.5, 1.0, 8)])
def test_a_failing_canary_is_caught_after_a_few_failures(rho: float, rate: float, most: int) -> None:
    """The champion never fails; alpha 0.05, one guardrail."""
    failures, process = 0, ConditionalBinomial()
    while process.log_e < math.log(20):
        failures += 1
        process = process.update(1, 0, rho)
    assert failures <= most


def test_harm_that_begins_late_is_found_nearly_as_fast_and_without_any_history() -> None:
    """2x at a tenth of the traffic, to evidence of 100 to 1: 12,235 events after 100,000 healthy ones without a late start."""
    healthy = [(1, 9)] * 10_000
    for later, most in ((LATER, 700), (0.0, 100_000)):
        process = ConditionalBinomial(later=later)
        for canary, champion in healthy:
            process = process.update(canary, champion, 0.1)
        waited = 0
        while process.log_e < math.log(100) and waited < most:
            process, waited = process.update(2, 9, 0.1), waited + 11
        assert (waited < most) if later else (waited > 8_000)
        assert process.log_mass is not None
        assert process.log_mass.shape == process.mixture.ratios.shape


@given(st.floats(0, 1e12), st.floats(0.5, 1e6), st.floats(0.01, 1))
def test_what_is_staked_and_what_is_left_is_all_the_money(before: float, more: float, later: float) -> None:
    staked, left = (
        math.exp(log_started(before, before + more, later)),
        math.exp(log_cash(before + more, later)),
    )
    assert staked + left == pytest.approx(math.exp(log_cash(before, later)), rel=1e-9)
    assert math.exp(log_cash(0.0, later)) == pytest.approx(later)


@pytest.mark.parametrize(("ratio", "limit"), [(1.5, 1.34), (2.0, 1.34), (5.0, 1.34), (50.0, 1.4)])
def test_detection_is_near_that_of_a_test_that_knows_the_effect(ratio: float, limit: float) -> None:
    rho, d = 0.1, math.log(ratio)
    p = rho * ratio / (1 - rho + rho * ratio)
    size = int(40 / (p * math.log(p / rho) + (1 - p) * math.log((1 - p) / (1 - rho))))
    rng = np.random.default_rng(7)
    ours, oracle = list[int](), list[int]()
    for _ in range(150):
        canary = rng.random(size) < p
        x1, total = np.cumsum(canary), np.arange(1, size + 1)
        known = x1 * d - total * np.log1p(rho * np.expm1(d))
        oracle.append(int(np.argmax(known >= math.log(20))))
        each = np.full(size, 1000.0)
        path = log_e_process(each * rho, canary * 1.0, each * (1 - rho), ~canary * 1.0)
        ours.append(int(np.argmax(path >= math.log(20))))
    assert np.mean(np.array(ours) + 1) / np.mean(np.array(oracle) + 1) <= limit


def test_all_sections_together_have_all_of_the_error_at_most() -> None:
    """However many later starts and blocks there are; ten thousand of either leave little over."""
    numbers = range(1, 10_001)
    later = sum(map(math.exp, map(log_later, numbers)))
    blocks = sum(math.exp(log_block(number - 1)) for number in numbers)
    assert 0.98 < DISTINCT + later + blocks <= 1
