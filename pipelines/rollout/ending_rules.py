"""Rules that end a rollout, or that keep it from ending badly."""

from pipelines.manifest.model import OnUnknown
from pipelines.rollout.case import Case, hold, in_words, promote, roll_back, wait
from pipelines.rollout.decision import Decision, End
from pipelines.rollout.events import Order
from pipelines.rollout.evidence import Verdict
from pipelines.rollout.standing import words
from pipelines.rollout.state import Phase

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
    """A version that was deleted or archived is withdrawn; with the champion deleted, only an order promotes."""
    found, state = case.registered, case.state
    if found is None or found.verdict is not Verdict.FAIL or case.champion_trouble is not None:
        return None
    if state.forced is not None and found.values.get("gone") != state.version:
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
    """Neither side can be trusted with more traffic: hold, and call somebody."""
    if case.champion_trouble is None:
        return None
    reason = f"the champion (version {case.state.champion}) is unhealthy: {case.champion_trouble}"
    harm = case.harm
    if harm:
        reason += f"; not rolling back into it although {in_words(harm)}"
    return hold("champion_unhealthy", reason, evidence=harm, unknown=case.unknown, severity="critical")


def harm(case: Case) -> Decision | None:
    """A failed guardrail rolls back at once."""
    failing = case.harm
    if not failing:
        return None
    return roll_back("harm", in_words(failing), end=End.ROLLED_BACK, evidence=failing)


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
