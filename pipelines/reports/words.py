"""What happened, in sentences for somebody who was not there."""

from datetime import timedelta
from typing import NamedTuple, assert_never

from pipelines.core.rollout.events import Decision, DecisionKind, End
from pipelines.core.rollout.standing import words as duration
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.reports.story import Story


class Headline(NamedTuple):
    """The verdict: how it stands, and why."""

    kind: str
    """good, bad, wait or plain: the colour."""
    title: str
    why: str


def headline(story: Story) -> Headline:
    """One sentence on how the rollout stands or ended, one on why."""
    state = story.state
    name = f"{state.model} version {state.version}"
    if state.phase is Phase.ENDED and state.end is not None:
        kind, what = _ended(state, state.end)
        if state.policy.dry_run:
            kind, what = "plain", "went through a dry run; no traffic was changed"
        return Headline(kind, f"{name} {what}", state.end_reason)
    last = "" if state.last is None else in_words(state.last.decision)
    return Headline("wait", f"{name} {_stands(story)}", last)


def in_words(decision: Decision) -> str:
    """The decision as a sentence, its reason included."""
    return f"{_move(decision)} ({decision.rule.replace('_', ' ')}): {decision.reason}"


def _ended(state: RolloutState, end: End) -> tuple[str, str]:
    """Colour, and what became of the version."""
    baked = state.promotion is not None
    side = "previous champion" if baked else "champion"
    match end:
        case End.PROMOTED if state.policy.undoes:
            return "good", f"is back, instead of version {state.champion}, and serves all traffic"
        case End.PROMOTED:
            return "good", "was promoted and serves all traffic"
        case End.ROLLED_BACK:
            return "bad", f"was {'promoted, and ' * baked}rolled back; the {side} serves all traffic"
        case End.REFUSED:
            return "bad", "was refused before any traffic"
        case End.ABORTED:
            return "wait", f"was {'promoted, and ' * baked}stopped; the {side} serves all traffic"
        case End.COMPARED:
            return "plain", "was compared in an A/B test, which is over; the champion serves all traffic"
        case _:
            assert_never(end)


def _move(decision: Decision) -> str:
    match decision.kind:
        case DecisionKind.CONTINUE:
            return "Went on waiting"
        case DecisionKind.ADVANCE if decision.percent:
            return f"Advanced to {decision.percent:g} % of the traffic"
        case DecisionKind.ADVANCE:
            return "Began to shadow"
        case DecisionKind.HOLD:
            return "Held"
        case DecisionKind.PROMOTE:
            return "Decided to promote"
        case DecisionKind.ROLL_BACK:
            return "Decided to roll back"
        case _:
            assert_never(decision.kind)


def reaction(story: Story) -> str | None:
    """How fast a rollback took the traffic away; None where there was none to take."""
    back, gone = story.rolled_back, story.traffic_gone_at
    if back is None or gone is None:
        return None
    seconds = max(0.0, (gone - back.at).total_seconds())
    return f"{seconds:.2f} s from the decision to no traffic at the version"


def exposure(story: Story) -> str:
    """How much of the traffic the version had at most before its promotion, and for how long it had any."""
    weights, promoted = story.state.weights, story.state.promotion
    ends = [*(weight.at for weight in weights), story.ended][1:]
    ramp = [
        (weight.percent, end - weight.at)
        for weight, end in zip(weights, ends, strict=True)
        if 0 < weight.percent < 100 and (promoted is None or weight.at < promoted.at)
    ]
    if not ramp:
        return "no share of live traffic before the end"
    most, lasted = max(percent for percent, _ in ramp), sum((time for _, time in ramp), timedelta(0))
    return f"up to {most:g} % of the traffic for {duration(lasted)}"


def _stands(story: Story) -> str:
    paused = story.state.paused is not None and not story.state.winding_up
    return _phase(story.state) + (", paused" if paused else "")


def _phase(state: RolloutState) -> str:
    match state.phase:
        case Phase.STARTING:
            return "is being started"
        case Phase.VALIDATING:
            return "is running without traffic, to be validated"
        case Phase.SHADOW | Phase.STEPPING if state.lapsed is not None:
            return "gets nothing, because nobody watched it"
        case Phase.SHADOW:
            return "answers a copy of the traffic that nobody sees"
        case Phase.STEPPING:
            return f"takes {state.percent:g} % of the traffic"
        case Phase.PROMOTING:
            return "is being promoted"
        case Phase.BAKING:
            return (
                f"is promoted and takes {state.percent:g} % of the traffic; version {state.champion} stays warm until"
                f" {state.since + state.policy.bake:%Y-%m-%d %H:%M} UTC"
            )
        case Phase.ROLLING_BACK:
            return "is being rolled back"
        case Phase.ENDED:
            return "has ended"
        case _:
            assert_never(state.phase)
