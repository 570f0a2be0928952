"""What happened, in sentences for somebody who was not there."""

from typing import NamedTuple

from pipelines.rollout.decision import Decision, DecisionKind, End
from pipelines.rollout.standing import words as duration
from pipelines.rollout.state import Phase
from resources.reports.story import Story


class Headline(NamedTuple):
    """The verdict: how it stands, and why."""

    kind: str
    """good, bad, wait or plain: the colour."""
    title: str
    why: str


_ENDS = {
    End.PROMOTED: ("good", "was promoted and serves all traffic"),
    End.ROLLED_BACK: ("bad", "was rolled back; the champion serves all traffic"),
    End.REFUSED: ("bad", "was refused before any traffic"),
    End.ABORTED: ("wait", "was stopped; the champion serves all traffic"),
}
_MOVES = {
    DecisionKind.CONTINUE: "Went on waiting",
    DecisionKind.HOLD: "Held",
    DecisionKind.PROMOTE: "Decided to promote",
    DecisionKind.ROLL_BACK: "Decided to roll back",
}


def headline(story: Story) -> Headline:
    """One sentence on how the rollout stands or ended, one on why."""
    state = story.state
    name = f"{state.model} version {state.version}"
    if state.phase is Phase.ENDED and state.end is not None:
        kind, what = _ENDS[state.end]
        if state.policy.dry_run:
            kind, what = "plain", "went through a dry run; no traffic was changed"
        return Headline(kind, f"{name} {what}", state.end_reason)
    last = "" if state.last is None else in_words(state.last.decision)
    return Headline("wait", f"{name} {_stands(story)}", last)


def in_words(decision: Decision) -> str:
    """The decision as a sentence, its reason included."""
    if decision.kind is DecisionKind.ADVANCE:
        move = f"Advanced to {decision.percent:g} % of the traffic" if decision.percent else "Began to shadow"
    else:
        move = _MOVES[decision.kind]
    return f"{move} ({decision.rule.replace('_', ' ')}): {decision.reason}"


def reaction(story: Story) -> str | None:
    """How fast a rollback took the traffic away; None where there was none to take."""
    back, gone = story.rolled_back, story.traffic_gone_at
    if back is None or gone is None:
        return None
    seconds = max(0.0, (gone - back.at).total_seconds())
    return f"{seconds:.2f} s from the decision to no traffic at the version"


def exposure(story: Story) -> str:
    """How much of the traffic the version had at most, and for how long it had any."""
    weights = story.state.weights
    most = max((w.percent for w in weights if w.percent < 100), default=0.0)
    lasted = [w.at for w in weights]
    if not most:
        return "no share of live traffic before the end"
    until = next((w.at for w in weights if w.percent in (0.0, 100.0)), story.ended)
    return f"up to {most:g} % of the traffic for {duration(until - lasted[0])}"


def _stands(story: Story) -> str:
    state = story.state
    phrases = {
        Phase.STARTING: "is being started",
        Phase.VALIDATING: "is running without traffic, to be validated",
        Phase.SHADOW: "answers a copy of the traffic that nobody sees",
        Phase.STEPPING: f"takes {state.percent:g} % of the traffic",
        Phase.PROMOTING: "is being promoted",
        Phase.ROLLING_BACK: "is being rolled back",
    }
    paused = ", paused" if state.paused is not None and not state.winding_up else ""
    return phrases.get(state.phase, str(state.phase)) + paused
