"""The ledger of rollouts: what happened, what was decided, whom to tell."""

from resources.ledger.counters import CounterBucket, CounterStore, Look, Seen
from resources.ledger.ledger import Ledger, RolloutRow
from resources.ledger.outbox import Delivery, Outbox

__all__ = ["CounterBucket", "CounterStore", "Delivery", "Ledger", "Look", "Outbox", "RolloutRow", "Seen"]
