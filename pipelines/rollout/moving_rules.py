"""Rules about the next step: what it waits for, and that it comes."""

from datetime import datetime, timedelta

from pipelines.manifest.model import AfterTest
from pipelines.rollout.case import Case, hold, in_words, promote, roll_back, wait
from pipelines.rollout.decision import Decision, DecisionKind, End
from pipelines.rollout.evidence import Verdict
from pipelines.rollout.standing import Status, words
from pipelines.rollout.state import Phase


def paused(case: Case) -> Decision | None:
    """Somebody wants to look first; guardrails have already had their say."""
    pause = case.state.paused
    if pause is None:
        return None
    return hold("paused", f"paused by {pause.by}: {pause.reason}", unknown=case.unknown)


def test_over(case: Case) -> Decision | None:
    """An A/B test ends with its period: the champion stays, unless a better version was to take its place.

    Its last look is waited for, up to `max_unknown`.
    """
    test = case.state.policy.ab_test
    if test is None or case.state.phase is not Phase.STEPPING:
        return None
    over = case.now - case.state.since - test.duration
    if over < timedelta(0):
        return None
    left = case.state.policy.max_unknown - over
    unseen = _not_looked_at_since(case.now - over, case)
    if unseen and left > timedelta(0):
        return wait("last_look", f"the A/B test is over and waits for its last look, {words(left)} at most")
    if test.then is AfterTest.PROMOTE_IF_BETTER and not case.in_the_way:
        return None
    found = case.in_the_way if test.then is AfterTest.PROMOTE_IF_BETTER else case.standings
    blind = " (no look was taken since)" if unseen else ""
    reason = (
        f"the A/B test is over after {words(test.duration)}{blind}, the champion stays: {in_words(found)}"
    )
    return roll_back("test_over", reason, end=End.COMPARED, evidence=found, severity="info")


def _not_looked_at_since(end: datetime, case: Case) -> bool:
    """The primary metric was not measured after `end`, or could not be."""
    names = case.state.policy.required_to_promote
    primary = [s for s in case.standings if s.name in names]
    return any(s.at is None or s.at < end or s.status is Status.UNKNOWN for s in primary)


def inconclusive(case: Case) -> Decision | None:
    """Out of time without the evidence to promote: the champion stays."""
    running = case.now - case.state.started_at
    limit = case.state.policy.max_duration
    if running < limit or not (case.in_the_way or case.disagreement):
        return None
    found = in_words(case.in_the_way) or case.disagreement
    reason = f"inconclusive after {words(running)} (allowed: {words(limit)}): {found}"
    return roll_back(
        "inconclusive", reason, end=End.ROLLED_BACK, evidence=case.in_the_way, severity="warning"
    )


def disagreement(case: Case) -> Decision | None:
    """Nothing advances while what is served is not what the registry says, or not what the rollout started against."""
    if case.disagreement is None:
        return None
    return hold("disagreement", case.disagreement, unknown=case.unknown, severity="warning")


def unknown(case: Case) -> Decision | None:
    """What cannot be measured holds, and resumes by itself."""
    if not case.unknown:
        return None
    return hold(
        "unknown",
        in_words(case.unknown),
        evidence=case.unknown,
        unknown=case.unknown,
        severity="warning",
    )


def failed_check(case: Case) -> Decision | None:
    """A failed check that asks for a hold."""
    failing = tuple(s for s in case.in_the_way if s.status is Status.FAIL)
    if not failing:
        return None
    return hold("failed_check", in_words(failing), evidence=failing, severity="warning")


def floor(case: Case) -> Decision | None:
    """Every step lasts at least its floor, whatever the statistics say."""
    if case.before_traffic:
        return None
    left = case.state.policy.min_duration - (case.now - case.state.since)
    if left <= timedelta(0):
        return None
    need = words(case.state.policy.min_duration)
    return wait("floor", f"this step lasts at least {need}; {words(left)} to go")


def pending(case: Case) -> Decision | None:
    """More data is needed."""
    if not case.in_the_way:
        return None
    return wait("pending", in_words(case.in_the_way), evidence=case.in_the_way)


def frozen(case: Case) -> Decision | None:
    """A freeze window stops advances and promotions, never rollbacks."""
    until = case.state.policy.frozen_until(case.now)
    if until is None:
        return None
    return hold("frozen", f"frozen until {until:%Y-%m-%d %H:%M} UTC; the evidence has passed")


def approval(case: Case) -> Decision | None:
    """Everything has passed, and a person has the last word."""
    wanted = case.state.policy.approval
    due = wanted == "every_step" or (wanted == "promote" and case.next_step is None)
    if not due or case.state.approved is not None:
        return None
    move = "the promotion" if case.next_step is None else f"step {case.next_step + 1}"
    return hold("approval", f"{move} waits for approval; the evidence has passed", severity="warning")


def cannot_tell(case: Case) -> Decision | None:
    """Everything has passed, and what is served could not be asked."""
    if case.served is None or case.served.verdict is not Verdict.UNKNOWN:
        return None
    return hold("cannot_tell", case.served.reason, severity="warning")


def move(case: Case) -> Decision:
    """Everything needed has passed: the next step, or the promotion after the last one."""
    passed = tuple(s for s in case.standings if s.status is Status.PASS)
    reason = in_words(passed) or "nothing is required"
    if case.next_step is None:
        if case.state.champion is None:
            return promote("first_version", f"the model's first version; {reason}", evidence=passed)
        return promote("passed", reason, evidence=passed)
    target = case.state.policy.ramp[case.next_step]
    return Decision(
        kind=DecisionKind.ADVANCE,
        rule="passed",
        reason=reason,
        step=case.next_step,
        percent=0.0 if target == "shadow" else target,
        evidence=tuple(s.name for s in passed),
    )
