"""All peers on the same counters, and whether each would have been right."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
    if truth is Truth.HARMLESS:
        return Judged(
            action=action, judgement=Judgement.FALSE_ALARM, words="would have stopped a harmless version"
        )
    if truth is Truth.OPEN:
        words = "it would have stopped a version about which the evidence is still open"
        return Judged(action=action, judgement=Judgement.UNDECIDED, words=words)
    sooner = acted is not None and action.at < acted
    words = "sooner than the evidence here" if sooner else "also, and no sooner"
    return Judged(action=action, judgement=Judgement.RIGHT, words=words)


def _silent(action: Action, truth: Truth) -> Judged:
    if truth is Truth.HARMFUL:
        words = "had not acted by the time the traffic was taken away here"
        return Judged(action=action, judgement=Judgement.TOO_SLOW, words=words)
    if truth is Truth.HARMLESS:
        return Judged(
            action=action, judgement=Judgement.RIGHT, words="would have let a harmless version pass"
        )
    return Judged(action=action, judgement=Judgement.UNDECIDED, words="the evidence is still open")
