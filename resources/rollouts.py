"""Reading rollouts from the ledger, and adding to what they know."""

from collections.abc import Iterable
from contextlib import suppress

from pipelines.errors import CommandRefused
from pipelines.rollout.evidence import Evidence
from pipelines.rollout.fold import fold
from pipelines.rollout.state import RolloutState
from resources.controller import Controller
from resources.ledger import Ledger


def open_rollout(ledger: Ledger, model: str) -> RolloutState | None:
    """The model's rollout under way; None where there is none. Raises LedgerError and CorruptLedger."""
    rows = ledger.rollouts(model, open_only=True)
    return fold(ledger.events(rows[0].rollout_id)) if rows else None


def record_if_open(controller: Controller, rollout_id: str, evidence: Iterable[Evidence]) -> None:
    """Keep evidence, unless the rollout ended while it was gathered. Raises LedgerError and CorruptLedger."""
    with suppress(CommandRefused):
        controller.record(rollout_id, evidence)
