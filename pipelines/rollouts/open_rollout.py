"""Reading rollouts from the ledger, and adding to what they know."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import assert_never

from pipelines.core.errors import CommandRefused, CorruptLedger
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.policy import VALIDATION
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.journal import tell_corrupt
from resources.ledger.ledger import Ledger

ATTEMPTS = "attempts"
"""Among the values of a validation that is not known: how often it was tried in a row."""

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=5)


def open_rollout(ledger: Ledger, model: str) -> RolloutState | None:
    """The model's rollout under way; None where there is none. Raises LedgerError, and CorruptLedger with an alert."""
    rows = ledger.rollouts(model, open_only=True)
    return read_rollout(ledger, rows[0].rollout_id) if rows else None


def read_rollout(ledger: Ledger, rollout_id: str) -> RolloutState:
    """From all its events: damage is found wherever it is. Raises LedgerError, and CorruptLedger with an alert."""
    try:
        return fold(ledger.events(rollout_id))
    except CorruptLedger as error:
        tell_corrupt(ledger, rollout_id, error, datetime.now(UTC))
        raise


def record_if_open(controller: Controller, rollout_id: str, evidence: Iterable[Evidence]) -> None:
    """Keep evidence, unless the rollout ended while it was gathered. Raises LedgerError and CorruptLedger."""
    with suppress(CommandRefused):
        controller.record(rollout_id, evidence)


def validation_due(state: RolloutState, now: datetime) -> bool:
    """Whether the version has to show again what it can do before it gets traffic.

    It has not yet; or it is not known, and 10 s, 20 s, 40 s, up to five minutes have passed; or it is too long ago.
    """
    if state.phase is not Phase.VALIDATING:
        return False
    known = state.evidence.get(VALIDATION)
    if known is None:
        return True
    match known.verdict:
        case Verdict.UNKNOWN:
            return now - known.at >= _pause(validation_attempts(known))
        case Verdict.PASS | Verdict.FAIL:
            return now - known.at > known.valid_for
        case _:
            assert_never(known.verdict)


def validation_attempts(known: Evidence | None) -> int:
    """How often in a row the validation was tried without an answer; 0 where it was answered last."""
    if known is None or known.verdict is not Verdict.UNKNOWN:
        return 0
    attempts = known.values.get(ATTEMPTS)
    return attempts if isinstance(attempts, int) else 1


def _pause(attempts: int) -> timedelta:
    return min(_FIRST_PAUSE * 2 ** min(attempts - 1, 10), _LONGEST_PAUSE)
