"""All peers on the same counters, and whether each would have been right."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from pipelines.peers.argo_rollouts import argo_rollouts
from pipelines.peers.counters import Action, Series
from pipelines.peers.flagger import flagger
from pipelines.peers.growthbook import growthbook


class Truth(StrEnum):
    """What the evidence says about the version by the end."""

    HARMFUL = "harmful"
    HARMLESS = "harmless"
    OPEN = "open"


class Judgement(StrEnum):
    """Whether a rule would have been right."""

    RIGHT = "right"
    FALSE_ALARM = "false alarm"
    TOO_SLOW = "too slow"
    UNDECIDED = "cannot be told"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One peer's action with its judgement."""

    action: Action
    judgement: Judgement
    words: str


def compare(series: Sequence[Series], *, begun: datetime, ended: datetime) -> tuple[Action, ...]:
    """What each peer would have done with the counters of [begun, ended]."""
    rules = (flagger, argo_rollouts, growthbook)
    return tuple(rule(series, begun=begun, ended=ended) for rule in rules)


def judge(action: Action, truth: Truth, *, acted: datetime | None) -> Judged:
    """Whether the peer would have been right. `acted`: when our own rollback was decided, if it was."""
    if action.at is None:
        return _silent(action, truth)
    match truth:
        case Truth.HARMLESS:
            judgement, words = Judgement.FALSE_ALARM, "would have stopped a harmless version"
        case Truth.OPEN:
            words = "it would have stopped a version about which the evidence is still open"
            judgement = Judgement.UNDECIDED
        case Truth.HARMFUL:
            sooner = acted is not None and action.at < acted
            words = "sooner than the evidence here" if sooner else "also, and no sooner"
            judgement = Judgement.RIGHT
        case _:
            assert_never(truth)
    return Judged(action=action, judgement=judgement, words=words)


def _silent(action: Action, truth: Truth) -> Judged:
    match truth:
        case Truth.HARMFUL:
            judgement = Judgement.TOO_SLOW
            words = "had not acted by the time the traffic was taken away here"
        case Truth.HARMLESS:
            judgement, words = Judgement.RIGHT, "would have let a harmless version pass"
        case Truth.OPEN:
            judgement, words = Judgement.UNDECIDED, "the evidence is still open"
        case _:
            assert_never(truth)
    return Judged(action=action, judgement=judgement, words=words)
