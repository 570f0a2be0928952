"""Alerts that belong to no rollout: a failed run, a manifest that cannot be read, a sensor that is off."""

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


def alert_switched_off(ledger: Ledger, name: str, does: str, url: str) -> None:
    """One alert a day about a sensor or schedule that somebody has turned off. Raises LedgerError."""
    platform_alert(
        ledger,
        topic=f"off:{name}",
        title=f"{name} is off",
        body=f"{switched_off(does)}: {url}",
        once=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def switched_off(does: str) -> str:
    """What it means that a sensor or schedule is off, by the first sentence of its description."""
    return f"somebody turned it off; until it is on, nobody does this: {first_sentence(does)}; turn it on in Dagster"


def first_sentence(text: str) -> str:
    """Up to the first full stop, without it."""
    return text.partition(". ")[0].strip().rstrip(".") or "what its name says"
