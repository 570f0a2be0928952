"""Evidence of harm that is too strong to give a version more traffic, and too weak to take it back.

What is measured says it, live and at the looks; the rule that waits for it is asked when everything else has passed.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from pipelines.core.rollout.case import Case, hold
from pipelines.core.rollout.events import Decision
from pipelines.core.rollout.policy import DOUBTS
from pipelines.core.rollout.standing import stale
from pipelines.core.statistics.metric_look import odds
from pipelines.core.vocabulary import Evidence, OnFail, Verdict


def doubt_evidence(
    name: str,
    log_e_values: Mapping[str, float],
    below: float,
    *,
    source: str,
    at: datetime,
    valid_for: timedelta,
) -> Evidence:
    """Fails while any of the e-values, given by their logarithms, is not below `below`."""
    doubtful = {metric: log_e for metric, log_e in log_e_values.items() if log_e >= math.log(below)}
    found = ", ".join(f"{odds(log_e)} to 1 ({metric})" for metric, log_e in doubtful.items())
    return Evidence(
        name=name,
        source=source,
        verdict=Verdict.FAIL if doubtful else Verdict.PASS,
        reason=f"evidence of harm {found}, advance below {below:g} to 1"
        if doubtful
        else f"every metric's evidence of harm is below {below:g} to 1",
        at=at,
        on_fail=OnFail.HOLD,
        valid_for=valid_for,
        values={**log_e_values, "below": below},
    )


def doubts(evidence: Mapping[str, Evidence], now: datetime) -> tuple[Evidence, ...]:
    """What says at this moment that harm is too likely to go on; what is no longer said has passed."""
    found = (evidence[name] for name in DOUBTS if name in evidence)
    return tuple(item for item in found if item.verdict is Verdict.FAIL and not stale(item, now))


def doubted(case: Case) -> Decision | None:
    """Everything has passed, and harm is too likely to go on: it is waited for, and never gone back for."""
    if not case.doubts:
        return None
    held = hold("doubted", f"held: {'; '.join(item.reason for item in case.doubts)}")
    return replace(held, evidence=tuple(item.name for item in case.doubts))
