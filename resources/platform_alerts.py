"""Alerts that belong to no rollout: a failed run, a manifest that cannot be read."""

import hashlib
from datetime import UTC, datetime

from pipelines.rollout.alerts import Alert
from resources.ledger import Ledger


def platform_alert(
    ledger: Ledger, *, topic: str, title: str, body: str, model: str = "", once: str | None = None
) -> None:
    """Put an alert into the outbox; the same topic and body are one alert, or the same topic and `once`.

    Raises LedgerError.
    """
    digest = hashlib.sha256((body if once is None else once).encode()).hexdigest()[:12]
    ledger.outbox.add(
        Alert(
            key=f"platform:{topic}:{digest}",
            severity="warning",
            model=model,
            version="",
            rollout_id="",
            title=title,
            body=body,
            at=datetime.now(UTC),
        )
    )
