"""Where units are compared: which of the gateways' answers each test counts, so that no unit counts twice in it.

What a section is, and what part of the error it has: `pipelines.core.statistics.sections`. Whoever goes on watching has
the evidence of the rollout and of the last start from the ledger. A block he begins anew, with the next one: what another watcher
has tested of this one is written down nowhere.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, assert_never

from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.sections import LOG_DISTINCT, log_block, log_later
from pipelines.rollouts.counting import WITHIN, Growth, Watermark

BLOCK = WITHIN
"""In so short a time no unit is a first one twice."""

_NEVER = datetime.max.replace(tzinfo=UTC)


class Of(StrEnum):
    """Which answers a metric counts. What is tested besides has this at the end of its name, as no metric of a manifest can."""

    ANSWERS = ""
    FIRST = "/first"
    """Each unit's first in `UNIT_WINDOW`. Not tested."""
    DISTINCT = "/new"
    """Each unit's first in the rollout, at gateways that are older than its first share."""
    LATER = "/later"
    """The same at gateways that began later, where everybody is new: since the last of them did."""
    BLOCK = "/block"
    """Each unit's first in `UNIT_WINDOW`, within one block of time."""


SECTIONS = (Of.DISTINCT, Of.LATER, Of.BLOCK)
"""What counts a part of the answers; the others count all of them."""


class _Section(NamedTuple):
    number: int
    begin: datetime


class Sections:
    """The sections that are open, of those that follow each other."""

    def __init__(self, resumed: Watermark | None) -> None:
        """`resumed`: how far another watch had got, whose evidence is gone on from."""
        self._open = {} if resumed is None else {Of.LATER: _later(resumed)}
        self._resumed = resumed is not None

    def enter(self, mark: Watermark, state: RolloutState) -> list[Of]:
        """The sections in which `mark` lies. Returns whose tests begin anew: without evidence, and with another weight."""
        begun: list[Of] = []
        for of, now in ((Of.LATER, _later(mark)), (Of.BLOCK, _block(mark, state))):
            before = self._open.get(of)
            if before is not None and now.number <= before.number:
                continue
            seen_before = before is None and of is Of.BLOCK and self._resumed
            self._open[of] = now._replace(begin=_NEVER) if seen_before else now
            begun += [] if before is None else [of]
        self._resumed = False
        return begun

    def countable(self, of: Of, stretches: Sequence[Growth], state: RolloutState) -> list[Growth]:
        """What lies within the section, of gateways that know whom they have answered in it."""
        section = self._open.get(of)
        found = [
            each for each in stretches if section is None or each.begun >= section.begin < each.gateway.at
        ]
        match of:
            case Of.ANSWERS | Of.FIRST:
                return found
            case Of.DISTINCT:
                return list(_older(found, _first_share(state)))
            case Of.LATER:
                return [each for each in found if not each.is_older_than(_first_share(state))]
            case Of.BLOCK:
                return list(_older(found, section.begin)) if section else []
            case _:
                assert_never(of)

    def log_weight(self, of: Of) -> float:
        """ln of the section's part of the error."""
        number = self._open[of].number if of in self._open else 0
        match of:
            case Of.ANSWERS | Of.FIRST:
                return 0.0
            case Of.DISTINCT:
                return LOG_DISTINCT
            case Of.LATER:
                return log_later(max(1, number))
            case Of.BLOCK:
                return log_block(number)
            case _:
                assert_never(of)

    def in_words(self, of: Of) -> str:
        """When an answer is a unit's first one, after those words."""
        since = f" since {self._open[of].begin:%H:%M}" if of in self._open else ""
        match of:
            case Of.ANSWERS | Of.FIRST | Of.BLOCK:
                return since
            case Of.DISTINCT:
                return " in this rollout"
            case Of.LATER:
                return f" at gateways that began later,{since}"
            case _:
                assert_never(of)


def _older(stretches: Iterable[Growth], time: datetime) -> Iterable[Growth]:
    return (each for each in stretches if each.is_older_than(time))


def _first_share(state: RolloutState) -> datetime:
    """When the canary was given its first share, at the earliest; never, before there is one."""
    return next((weight.begun for weight in state.weights if weight.percent > 0), _NEVER)


def _later(mark: Watermark) -> _Section:
    """Since the last start of a gateway; never, where none has begun since the first look."""
    return _Section(mark.starts, mark.newest or _NEVER)


def _block(mark: Watermark, state: RolloutState) -> _Section:
    """No longer than `BLOCK`, and under one share: with another one the gateways count every unit anew."""
    began = state.started_at
    past = max(0, (mark.at - began) // BLOCK)
    return _Section(past + len(state.weights), max(began + past * BLOCK, mark.since))
