"""Reading rollouts from the ledger."""

from pipelines.rollout.fold import fold
from pipelines.rollout.state import RolloutState
from resources.ledger import Ledger


def open_rollout(ledger: Ledger, model: str) -> RolloutState | None:
    """The model's rollout under way; None where there is none. Raises LedgerError and CorruptLedger."""
    rows = ledger.rollouts(model, open_only=True)
    return fold(ledger.events(rows[0].rollout_id)) if rows else None
