"""The rules of `decide`, in the order in which they are asked: those that end a rollout, then those about
its next step.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from pipelines.core.rollout.case import Case, hold, in_words, promote, roll_back, wait
from pipelines.core.rollout.events import Decision, DecisionKind, End, Order
from pipelines.core.rollout.standing import Status, words
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import AfterTest, OnUnknown, Verdict

# Rules that end a rollout, or that keep it from ending badly.


DEPLOY_ATTEMPTS = 3
"""A version must fail to come up at least this often by its own fault before it is refused for that."""


def ended(case: Case) -> Decision | None:
    """Nothing follows the end."""
    if case.state.phase is not Phase.ENDED:
        return None
    return wait("ended", f"ended: {case.state.end}, {case.state.end_reason}")


def under_way(case: Case) -> Decision | None:
    """A promotion or rollback that was decided is carried out, whatever is measured meanwhile."""
    ending = case.state.ending
    return None if ending is None else ending.decision


def ordered(case: Case) -> Decision | None:
    """A person's abort or rollback, even into an unhealthy champion: they wrote why."""
    order = case.state.ordered
    if order is None:
        return None
    end = End.ABORTED if order.order is Order.ABORT else End.ROLLED_BACK
    return roll_back("ordered", f"{order.order} by {order.by}: {order.reason}", end=end)


def vanished(case: Case) -> Decision | None:
    """A version that was deleted or archived is withdrawn; with the champion deleted, only an order promotes.

    A promoted version goes on without the previous one.
    """
    found, state = case.registered, case.state
    if found is None or found.verdict is not Verdict.FAIL or case.champion_trouble is not None:
        return None
    promoted = state.forced is not None or state.promotion is not None
    if promoted and found.values.get("gone") != state.version:
        return None
    severity = "critical" if state.exposed else "warning"
    return roll_back("vanished", found.reason, end=End.ABORTED, severity=severity)


def forced(case: Case) -> Decision | None:
    """A person's promotion, against evidence, freeze and approval; the version must be running."""
    order = case.state.forced
    if order is None or not case.state.deployed:
        return None
    doubts = (case.registered, case.served)
    although = [item.reason for item in doubts if item is not None and item.verdict is not Verdict.PASS]
    tail = f"; although {'; '.join(although)}" if although else ""
    return promote("forced", f"forced by {order.by}: {order.reason}{tail}")


def cannot_start(case: Case) -> Decision | None:
    """A version that does not come up is refused before any traffic; what is not its fault is waited for longer."""
    trouble, policy = case.state.trouble, case.state.policy
    if case.state.phase is not Phase.STARTING or trouble is None:
        return None
    tried = case.now - trouble.since
    lasting = tried >= policy.start_timeout and trouble.own >= DEPLOY_ATTEMPTS
    blind = trouble.own < trouble.attempts and tried >= policy.max_unknown
    gives_up = blind and policy.on_unknown is OnUnknown.ROLL_BACK
    if not (trouble.final or lasting or gives_up):
        return None
    reason = f"could not be deployed after {trouble.attempts} attempts in {words(tried)}: {trouble.message}"
    return roll_back("cannot_start", reason, end=End.REFUSED, severity="warning")


def refused(case: Case) -> Decision | None:
    """A failed validation ends the rollout before any traffic."""
    if not case.before_traffic or not case.failing:
        return None
    return roll_back(
        "refused", in_words(case.failing), end=End.REFUSED, evidence=case.failing, severity="warning"
    )


def starting(case: Case) -> Decision | None:
    """Nothing is decided about a version that is not running."""
    if case.state.phase is not Phase.STARTING:
        return None
    trouble = case.state.trouble
    tail = "" if trouble is None else f"; attempt {trouble.attempts} failed: {trouble.message}"
    return wait("starting", f"version {case.state.version} is being started{tail}")


def champion_unhealthy(case: Case) -> Decision | None:
    """Neither side can be trusted with more traffic: hold, and call somebody. A bake ends all the same, where it does no harm."""
    if case.champion_trouble is None:
        return None
    harm = case.harm
    if case.state.phase is Phase.BAKING and not harm and -_bake_left(case) >= case.state.policy.max_unknown:
        return None
    reason = f"the champion (version {case.state.champion}) is unhealthy: {case.champion_trouble}"
    if harm:
        reason += f"; not rolling back into it although {in_words(harm)}"
    return hold("champion_unhealthy", reason, evidence=harm, unknown=case.unknown, severity="critical")


def harm(case: Case) -> Decision | None:
    """A failed guardrail rolls back at once."""
    failing = case.harm
    if not failing:
        return None
    return roll_back("harm", in_words(failing), end=End.ROLLED_BACK, evidence=failing)


def baking(case: Case) -> Decision | None:
    """A promoted version bakes: nothing but harm, or a person, takes it back, and nothing but time ends it.

    What is unknown or failing keeps the previous champion warm for `max_unknown` more; a pause, a freeze, and a
    disagreement between registry and serving side for their time.
    """
    state, policy = case.state, case.state.policy
    if state.phase is not Phase.BAKING:
        return None
    left = _bake_left(case)
    found = _doubts(case)
    doubts = "; ".join(each.words for each in found)
    if left > timedelta(0):
        tail = f"; {doubts}" if doubts else ""
        return wait(
            "baking",
            f"promoted; version {state.champion} stays warm with {policy.holdback:g} % for {words(left)} more{tail}",
        )
    if any(each.lasts for each in found) or (found and -left < policy.max_unknown):
        return hold("bake_in_doubt", f"the bake would be over, but {doubts}", severity="warning")
    tail = f", although {doubts}" if doubts else ", no harm was found"
    return promote("baked", f"baked for {words(policy.bake)}{tail}; {_promoted_because(state)}")


def _bake_left(case: Case) -> timedelta:
    return case.state.policy.bake - (case.now - case.state.since)


def _between_sides(case: Case) -> str:
    """What keeps the version from taking the previous one's place: what is served is another one, or cannot be asked."""
    return case.served.reason if case.served and case.served.verdict is not Verdict.PASS else ""


class _Doubt(NamedTuple):
    words: str
    lasts: bool = False
    """It is waited for, however long it takes."""


def _doubts(case: Case) -> list[_Doubt]:
    """What speaks against stopping the previous champion now."""
    pause, until = case.state.paused, case.state.policy.frozen_until(case.now)
    found = [
        _Doubt(f"paused by {pause.by}: {pause.reason}" if pause is not None else "", lasts=True),
        _Doubt(_between_sides(case), lasts=True),
        _Doubt(case.champion_trouble or ""),
        _Doubt(in_words(case.unknown)),
        _Doubt(in_words(case.failing)),
        *(_Doubt(item.reason) for item in case.doubts),
        _Doubt(f"frozen until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "", lasts=True),
    ]
    return [each for each in found if each.words]


def _promoted_because(state: RolloutState) -> str:
    return "" if state.promotion is None else f"promoted because {state.promotion.decision.reason}"


def unknown_too_long(case: Case) -> Decision | None:
    """Nobody flies blind for longer than `max_unknown`."""
    since = {s.name: case.state.unknown_since.get(s.name, case.now) for s in case.unknown}
    lasting = tuple(s for s in case.unknown if case.now - since[s.name] >= case.state.policy.max_unknown)
    if not lasting or case.state.policy.on_unknown is OnUnknown.HOLD:
        return None
    longest = max(case.now - since[s.name] for s in lasting)
    reason = f"unknown for {words(longest)} (allowed: {words(case.state.policy.max_unknown)}): "
    end = End.REFUSED if case.before_traffic else End.ROLLED_BACK
    return roll_back("unknown_too_long", reason + in_words(lasting), end=end, evidence=lasting)


# Rules about the next step: what it waits for, and that it comes.


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
    doubts = "; ".join(item.reason for item in case.doubts)
    if running < limit or not (case.in_the_way or case.disagreement or doubts):
        return None
    found = in_words(case.in_the_way) or case.disagreement or doubts
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


def lapsed(case: Case) -> Decision | None:
    """A share that nobody watched comes back by itself, once the guardrails were looked at and nothing speaks against it.

    It comes back to the same step, which was approved; in a freeze window nothing gets more traffic.
    """
    gone = case.state.lapsed
    if gone is None:
        return None
    what = "the copy of traffic" if gone.mirror else f"the share of {gone.percent:g} %"
    taken = f"{what} was taken away: {gone.reason}"
    if not _judged(case):
        back = "it comes back when the guardrails have been looked at"
        return hold("lapsed", f"{taken}; {back}", severity="warning")
    return failed_check(case) or _frozen(case, taken) or cannot_tell(case) or _again(case, taken)


def _again(case: Case, taken: str) -> Decision:
    target = case.state.policy.ramp[case.state.step]
    return Decision(
        kind=DecisionKind.ADVANCE,
        rule="watched_again",
        reason=f"{taken}; it is watched again, and no harm was found in between",
        step=case.state.step,
        percent=0.0 if target == "shadow" else target,
    )


def _judged(case: Case) -> bool:
    """The guardrails were looked at since the lapse was noticed."""
    return (
        case.watched is not None
        and case.state.lapsed is not None
        and case.watched.at >= case.state.lapsed.at
        and case.watched.verdict is Verdict.PASS
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
    return _frozen(case, "the evidence has passed")


def _frozen(case: Case, otherwise: str) -> Decision | None:
    until = case.state.policy.frozen_until(case.now)
    return None if until is None else hold("frozen", f"frozen until {until:%Y-%m-%d %H:%M} UTC; {otherwise}")


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
