"""What every harm test owes, whatever it compares and however it is looked at: a new kind or method is met by all of it."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.look import Look, analyse
from pipelines.core.statistics.look_spec import Conclusion, Direction, LookSpec, MetricSpec
from pipelines.core.statistics.metric_look import MetricLook
from pipelines.core.statistics.power import Design, SequentialMethod
from pipelines.experiments.analysing import analyse_next

ALPHA = 0.2
"""Large, so that few repetitions tell a test that errs twice as often."""

LOOKS = 3

UNITS = 400
"""Of one arm between two looks."""

RATE = 0.3
"""Mean of the value and of its square: 0 or 1 per unit, with a denominator of 1 or 2."""

MARGIN = 0.08

REPETITIONS = 100

PLANNED = LOOKS * UNITS / 2 / (RATE * (1 - RATE))
"""1 / variance of the difference at the last look."""


class Member(NamedTuple):
    """One test: what it compares and how it is looked at."""

    kind: EffectKind
    method: SequentialMethod

    def spec(self, **changes: object) -> MetricSpec:
        spec = MetricSpec(
            name="m",
            kind=self.kind,
            margin=self.margin,
            method=self.method,
            planned_information=PLANNED * (MARGIN / self.margin) ** 2,
        )
        return replace(spec, **changes)  # type: ignore[arg-type]

    @property
    def margin(self) -> float:
        return MARGIN / (1.5 if self.kind.has_denominator else 1)


MEMBERS = [Member(*each) for each in itertools.product(EffectKind, SequentialMethod)]

every = pytest.mark.parametrize("member", MEMBERS, ids=lambda m: f"{m.kind}-{m.method}")


def arm(events: float, *, units: float = UNITS) -> Sums:
    """`events` units of value 1 and the others of 0; each denominator is 1 for half and 2 for half of either."""
    n, y = units, events
    return Sums(n=n, sy=y, syy=y, sd=1.5 * n, sdd=2.5 * n, syd=1.5 * y)


def between(look: int, challenger: float, champion: float) -> Cell:
    return Cell("m", 0, float(look), arm(champion), arm(challenger))


def looks(member: Member, cells: list[list[Cell]], **changes: object) -> Iterator[MetricLook]:
    """A look after each group of cells, the last of which is final."""
    spec, past = member.spec(**changes), list[Look]()
    for number in range(1, len(cells) + 1):
        so_far = [cell for group in cells[:number] for cell in group]
        whole = LookSpec(metrics=(spec,), alpha=ALPHA, is_final=number == len(cells))
        past.append(
            analyse_next(so_far, whole, (), past=past, planned_looks={"m": LOOKS}, is_last_step=False)
        )
        yield past[-1].metrics[0]


def steady(change: float) -> list[list[Cell]]:
    """The challenger's rate differs by `change`, without noise."""
    return [[between(k, UNITS * (RATE + change), UNITS * RATE)] for k in range(LOOKS)]


@cache
def harmless() -> list[list[list[Cell]]]:
    """Rollouts of a version that is exactly as good as the champion."""
    events = np.random.default_rng(7).binomial(UNITS, RATE, (REPETITIONS, LOOKS, 2)).tolist()
    return [[[between(k, *pair)] for k, pair in enumerate(rollout)] for rollout in events]


@every
def test_a_harmless_version_is_found_worse_or_better_no_more_often_than_alpha_over_all_looks(
    member: Member,
) -> None:
    # A margin that is never proven: an answer would end the looks before they could err.
    found = [list(looks(member, rollout, margin=1e-3)) for rollout in harmless()]
    worse = sum(any(look.harm.is_crossed for look in rollout) for rollout in found)
    missed = sum(
        any(
            look.interval is not None and not look.interval.low <= 0 <= look.interval.high for look in rollout
        )
        for rollout in found
    )
    slack = 3 * math.sqrt(ALPHA * (1 - ALPHA) / REPETITIONS)
    assert worse / REPETITIONS <= ALPHA + slack
    assert missed / REPETITIONS <= ALPHA + slack
    assert any(look.interval is not None for rollout in found for look in rollout)


@every
@pytest.mark.parametrize("better", Direction)
def test_more_harm_is_more_evidence_and_a_worse_bound_until_it_is_proven(
    member: Member, better: Direction
) -> None:
    sign = 1 if better is Direction.LOWER else -1
    changes = [sign * each for each in (-0.2, -0.1, 0.0, 0.04, 0.1, 0.2)]
    found = [list(looks(member, steady(change)[:1], better=better))[-1] for change in changes]
    # Below 1 to 1 evidence says nothing, and what was held back for a later start is all that is left.
    evidence = [max(look.harm.value, 0.0) for look in found]
    assert evidence == sorted(evidence)
    assert evidence[-1] > evidence[0]
    worst = [sign * look.worst for look in found if look.worst is not None]
    assert len(worst) == len(found)
    assert worst == sorted(worst)
    assert (found[0].conclusion, found[-1].conclusion) == (Conclusion.BETTER, Conclusion.WORSE)


@every
def test_a_version_that_is_as_good_is_within_its_margin_at_the_end(member: Member) -> None:
    *_, last = looks(member, steady(0.0))
    assert last.conclusion is Conclusion.NON_INFERIOR


@every
def test_how_the_units_are_split_into_cells_changes_neither_numbers_nor_conclusion(member: Member) -> None:
    whole = looks(member, steady(0.02))
    split = looks(
        member, [[_part(cell, half) for cell in group for half in (0, 1)] for group in steady(0.02)]
    )
    for one, two in zip(whole, split, strict=True):
        assert two.conclusion == one.conclusion
        assert _numbers(two) == pytest.approx(_numbers(one), rel=1e-6, abs=1e-9)
        # Twice as many moments at which harm may have begun.
        assert two.harm.value == pytest.approx(one.harm.value, abs=0.3)


def _numbers(look: MetricLook) -> dict[str, float]:
    found = {name: getattr(look, name) for name in ("effect", "champion", "challenger", "worst", "fraction")}
    low, high = look.interval or (None, None)
    found |= {"low": low, "high": high, "boundary": look.harm.boundary}
    return {name: value for name, value in found.items() if value is not None}


def _part(cell: Cell, half: int) -> Cell:
    champion, challenger = (Sums(*(part / 2 for part in sums)) for sums in (cell.champion, cell.challenger))
    return cell._replace(bucket=cell.bucket + half / 2, champion=champion, challenger=challenger)


@every
def test_the_order_in_which_cells_are_given_changes_nothing(member: Member) -> None:
    turned = [list(reversed(range(k + 1))) for k in range(LOOKS)]
    cells = [group[0] for group in steady(0.02)]
    given = [cells[: k + 1] for k in range(LOOKS)]
    spec = LookSpec(metrics=(member.spec(),), alpha=ALPHA)
    for some, order in zip(given, turned, strict=True):
        assert analyse([some[place] for place in order], spec).metrics == analyse(some, spec).metrics


@every
def test_a_bucket_that_is_given_twice_is_refused(member: Member) -> None:
    (cell,) = steady(0.02)[0]
    with pytest.raises(NotMeasured, match="counted twice"):
        analyse([cell, cell], LookSpec(metrics=(member.spec(),), alpha=ALPHA))


@pytest.mark.parametrize(
    "member", [m for m in MEMBERS if not m.kind.is_count], ids=lambda m: f"{m.kind}-{m.method}"
)
@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_the_unit_in_which_a_value_is_written_changes_no_evidence(member: Member, factor: float) -> None:
    """A share has no unit."""
    scaled = [[_in_unit(cell, factor) for cell in group] for group in steady(0.02)]
    margin = factor * member.margin
    planned = PLANNED * (MARGIN / margin) ** 2
    whole = looks(member, steady(0.02))
    for one, two in zip(
        whole, looks(member, scaled, margin=margin, planned_information=planned), strict=True
    ):
        assert two.conclusion is one.conclusion
        assert two.harm.value == pytest.approx(one.harm.value)
        assert two.effect == pytest.approx(factor * (one.effect or 0.0))


def _in_unit(cell: Cell, factor: float) -> Cell:
    one, zero = (
        sums._replace(sy=factor * sums.sy, syy=factor**2 * sums.syy, syd=factor * sums.syd)
        for sums in (cell.challenger, cell.champion)
    )
    return cell._replace(challenger=one, champion=zero)


@every
@pytest.mark.parametrize("units", [0, 1, 2])
def test_too_little_data_is_not_yet_and_never_harm(member: Member, units: int) -> None:
    """However bad those few are: all of the challenger's have it, none of the champion's."""
    few = Cell("m", 0, 0.0, arm(0, units=units), arm(units, units=units))
    for cells in ([], [few] if units else []):
        (look,) = looks(member, [cells])
        assert look.conclusion is Conclusion.NOT_YET
        assert not look.harm.is_crossed
        assert not look.is_within_margin
        assert "not yet" in look.sentence.lower()


@every
@pytest.mark.parametrize(
    ("change", "share_of_margin", "conclusion", "words"),
    [
        (-0.2, 1.0, Conclusion.BETTER, "The challenger is better."),
        (0.0, 1.0, Conclusion.NON_INFERIOR, "Not worse by more than the accepted"),
        (0.2, 1.0, Conclusion.WORSE, "The challenger is worse: "),
        (0.0, 0.1, Conclusion.NOT_YET, "Not yet: it may still be"),
    ],
)
def test_every_conclusion_is_reached_and_told(
    member: Member, change: float, share_of_margin: float, conclusion: Conclusion, words: str
) -> None:
    *_, last = looks(member, steady(change), margin=share_of_margin * member.margin)
    assert last.conclusion is conclusion, last.sentence
    assert words in last.sentence
    assert last.sentence.startswith("m: ")
    assert ("points" in last.sentence) == member.kind.is_count


@every
def test_every_plan_finds_its_effect_with_its_power(member: Member) -> None:
    design = Design(method=member.method, alpha=ALPHA, looks=LOOKS)
    assert design.power(design.shift(0.8)) == pytest.approx(0.8, abs=1e-3)
    assert design.power(0.0) <= ALPHA
    assert design.inflation(0.8) >= 1 - 1e-3
