"""Flagger's checks with the numbers of its documentation.

Flagger docs, "How it works" and "Metrics Analysis": `interval: 1m`; `request-success-rate` of at least 99 % and
`request-duration` (P99) of at most the objective, each over 1 m. A check without values halts like a failed one. Each
failed check counts, successes in between do not take it back, and once `threshold` of them are reached the next tick
of the schedule rolls back. The threshold of 5 is that of the tutorials' Canary resources.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pipelines.peers.counters import Action, Series, Window, windows

PEER = "Flagger"
RULE = "at least 99 % good answers (and P99 within the objective) each minute; after 5 failed checks, back"
SOURCE = "Flagger docs: How it works, Metrics Analysis"
_KINDS = {"errors": "success rate", "slow": "answers within the objective"}


def flagger(
    series: Iterable[Series],
    *,
    begun: datetime,
    ended: datetime,
    interval: timedelta = timedelta(minutes=1),
    max_bad_share: float = 0.01,
    threshold: int = 5,
) -> Action:
    """When Flagger would have rolled back. `max_bad_share` 0.01 is a success rate of 99 %, and a P99."""
    checked = [s for s in series if s.kind in _KINDS]
    per_metric = [
        [(s, window) for window in windows(s.buckets, begun=begun, ended=ended, every=interval)]
        for s in checked
    ]
    failed, last = 0, ""
    for checks in zip(*per_metric, strict=True):
        if failed >= threshold:
            return _action(checks[0][1].end, f"{failed} failed checks, the last: {last}")
        problem = next((p for s, w in checks if (p := _problem(s, w, max_bad_share)) is not None), None)
        if problem is not None:
            failed, last = failed + 1, problem
    if not checked:
        return _action(None, "it has no check for these guardrails")
    return _action(
        None, f"{failed} failed checks of {threshold} allowed" + (f", the last: {last}" if last else "")
    )


def _problem(series: Series, window: Window, max_bad_share: float) -> str | None:
    what = _KINDS[series.kind]
    if window.bad_share is None:
        return f"no values for the {what}"
    if window.bad_share > max_bad_share:
        return f"{what} {100 * (1 - window.bad_share):.1f} % of {window.trials:.0f} answers"
    return None


def _action(at: datetime | None, reason: str) -> Action:
    return Action(peer=PEER, rule=RULE, source=SOURCE, at=at, reason=reason)
