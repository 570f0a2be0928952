"""`decide`: what to do with a rollout now. Pure and total: the same inputs always give the same decision.

The rules are tried in order and the first that has something to say decides. Evidence that fails and asks for
a rollback comes before everything that waits (a pause, an approval, a freeze): only a person's own order, and a
stable side that is itself unfit to take the traffic back, come before it. A version that was deleted is taken back
even from a person who wants to promote it; a disagreement between registry and serving side holds.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from pipelines.rollout import ending_rules as ending
from pipelines.rollout import moving_rules as moving
from pipelines.rollout.case import Case
from pipelines.rollout.decision import Decision
from pipelines.rollout.evidence import Evidence
from pipelines.rollout.fold import merge
from pipelines.rollout.policy import REGISTERED, SERVED
from pipelines.rollout.standing import champion_trouble, standings
from pipelines.rollout.state import RolloutState

Rule = Callable[[Case], Decision | None]

RULES: tuple[Rule, ...] = (
    ending.ended,
    ending.under_way,
    ending.ordered,
    ending.vanished,
    ending.forced,
    ending.cannot_start,
    ending.refused,
    ending.starting,
    ending.champion_unhealthy,
    ending.harm,
    ending.unknown_too_long,
    moving.paused,
    moving.test_over,
    moving.inconclusive,
    moving.disagreement,
    moving.unknown,
    moving.failed_check,
    moving.floor,
    moving.pending,
    moving.frozen,
    moving.approval,
    moving.cannot_tell,
)


def decide(state: RolloutState, evidence: Iterable[Evidence], now: datetime) -> Decision:
    """The decision for `state` at `now`, given what the ledger has and `evidence` that is newer."""
    merged = merge(state.evidence, evidence)
    case = Case(
        state=state,
        standings=standings(state, merged, now),
        champion_trouble=None if state.champion is None else champion_trouble(merged, now),
        served=merged.get(SERVED),
        registered=merged.get(REGISTERED),
        now=now,
    )
    answers = (rule(case) for rule in RULES)
    return next((answer for answer in answers if answer is not None), moving.move(case))
