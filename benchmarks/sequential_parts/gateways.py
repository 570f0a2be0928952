"""Harmless versions behind gateways that come, go and start again while the base rate moves, and harm that is found there.

Each rollout is several gateways whose cumulative counters are read once a second, by the function that the watch of the
live counters uses (`pipelines.rollouts.counting.growth`); the reference counts all of them anew whenever one comes or goes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts
from pipelines.rollouts.counting import Watermark, by_version, first_watermark, growth
from resources.serving.contract import Counters, GatewayCounters, RevisionCounters

BOUNDARY = math.log(20)
"""One guardrail at an alpha of 5 %."""

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

LOOKS, REQUESTS, SHARE = 100, 800, 0.1
"""A look a second, of so many requests over all gateways."""

JOINS = (10, 27, 45, 62, 80)

PAST = 1_000_000
"""Answers of the champion at each of the first gateways before the rollout."""


class Case(NamedTuple):
    """The champion's past and present error rate, and by how much the canary's is higher."""

    past: float
    rate: Callable[[int], float]
    ratio: float = 1.0


ALL_NEW = "all counters anew when a gateway comes or goes"


@dataclass
class _Gateway:
    name: str
    started: datetime
    answers: np.ndarray = field(default_factory=lambda: np.zeros(2, int))
    """Of the champion and the canary."""
    errors: np.ndarray = field(default_factory=lambda: np.zeros(2, int))

    def shown(self, at: datetime) -> GatewayCounters:
        sides = (
            RevisionCounters(revision=str(side), version=str(side), requests=int(answers), errors=int(errors))
            for side, answers, errors in zip((1, 2), self.answers, self.errors, strict=True)
        )
        return GatewayCounters(instance=self.name, at=at, started=self.started, revisions=tuple(sides))


def rows(paths: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    runs = max(paths // 20, 200)
    for name, case in (
        ("the champion's past 0.2 %, both now 1 %", Case(0.002, lambda look: 0.01)),
        (
            "both 0.5 %, rising to 1.5 % within the rollout",
            Case(0.005, lambda look: 0.005 + 0.01 * look / LOOKS),
        ),
        (
            "both 1.5 %, falling to 0.5 % within the rollout",
            Case(0.015, lambda look: 0.015 - 0.01 * look / LOOKS),
        ),
    ):
        found = [_rollout(rng, case, "each", "all anew") for _ in range(runs)]
        hits, before = (sum(each[rule] is not None for each in found) for rule in ("each", "all anew"))
        error = math.sqrt(hits / runs * (1 - hits / runs) / runs)
        yield row(
            f"false rollback, five gateways join, one ends and one starts again, {name}: upper 95 % bound"
            f" ({hits / runs:.3g} +-{error:.2g} of {runs} rollouts)",
            upper_95(hits, runs),
            before / runs,
            ALL_NEW,
            "share of rollouts",
            0.05,
        )
    yield _found(rng, runs)


def _found(rng: np.random.Generator, runs: int) -> dict[str, Any]:
    """2x from the start: seconds until it is found, over those of one gateway that saw every answer."""
    case = Case(0.002, lambda look: 0.01, ratio=2.0)
    found = [_rollout(rng, case, "each", "one gateway") for _ in range(runs)]
    ours, alone = (
        np.array([float(LOOKS if each[rule] is None else each[rule]) for each in found])
        for rule in ("each", "one gateway")
    )
    error = (ours - alone).std() / math.sqrt(runs) / alone.mean()
    return row(
        f"seconds until 2x is found while five gateways join, against one gateway that saw it all: ratio (+-{error:.2g})",
        ours.mean() / alone.mean(),
        1.0,
        f"one gateway, {alone.mean():.3g} s",
        "ratio",
        1.02,
    )


def _rollout(rng: np.random.Generator, case: Case, *rules: str) -> Mapping[str, int | None]:
    """The look at which each of these ways of counting would have rolled back."""
    there = [_Gateway(f"old-{number}", BEGIN - timedelta(days=9)) for number in range(3)]
    for each in there:
        each.answers[0], each.errors[0] = PAST, rng.binomial(PAST, case.past)
    tests = {rule: ConditionalBinomial() for rule in rules}
    over: dict[str, int | None] = dict.fromkeys(tests)
    mark: Watermark | None = None
    before: Counters | None = None
    for look in range(LOOKS):
        at = BEGIN + timedelta(seconds=look)
        if look in JOINS:
            there.append(_Gateway(f"new-{look}", at - timedelta(seconds=0.5)))
        if look == 35:
            there.pop(0)
        if look == 70:
            there[0] = _Gateway("again", at - timedelta(seconds=0.5))
        answered = _answer(rng, there, case, look) if look else Counts()
        shown = Counters(at=at, gateways=tuple(each.shown(at) for each in there))
        grown: dict[str, Callable[[], Counts]] = {
            "each": partial(_of_each, mark, shown),
            "all anew": partial(_all_anew, before, shown),
            "one gateway": lambda answered=answered: answered,
        }
        for rule in rules:
            if over[rule] is None and (new := grown[rule]()).trials:
                tests[rule] = tests[rule].observe(new)
                over[rule] = look if tests[rule].log_e >= BOUNDARY else None
        mark = first_watermark(shown) if mark is None else mark.moved(shown)
        before = shown
    return over


def _answer(rng: np.random.Generator, there: list[_Gateway], case: Case, look: int) -> Counts:
    """A second's requests, spread over the gateways."""
    total = Counts()
    for each, requests in zip(
        there, rng.multinomial(REQUESTS, np.full(len(there), 1 / len(there))), strict=True
    ):
        canary = rng.binomial(requests, SHARE)
        answers = np.array([requests - canary, canary])
        errors = rng.binomial(answers, case.rate(look) * np.array([1.0, case.ratio]))
        each.answers += answers
        each.errors += errors
        total = total.plus(Counts(canary, errors[1], requests - canary, errors[0]))
    return total


def _counts(grown: Mapping[str, RevisionCounters]) -> Counts:
    champion, canary = grown["1"], grown["2"]
    return Counts(canary.requests, canary.errors, champion.requests, champion.errors)


def _of_each(before: Watermark | None, now: Counters) -> Counts:
    return _counts(by_version(growth(before, now)))


def _all_anew(before: Counters | None, now: Counters) -> Counts:
    """One sum under one epoch, as long as the gateways are the same."""
    after = _counts({each.version: each for each in now.revisions})
    if before is None:
        return Counts()
    if before.epoch != now.epoch:
        return after
    former = _counts({each.version: each for each in before.revisions})
    return Counts(*(a - b for a, b in zip(after, former, strict=True)))
