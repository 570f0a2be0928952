"""What others' default rules would have done on the same counters, as a section of the report."""

from pipelines.peers.compare import Judged, Judgement
from resources.reports.html import Markup, badge, table, tag
from resources.reports.story import Story, judged_peers

_COLOUR = {
    Judgement.RIGHT: "good",
    Judgement.FALSE_ALARM: "bad",
    Judgement.TOO_SLOW: "bad",
    Judgement.UNDECIDED: "plain",
}
_HEAD = ("Tool", "Would have acted", "", "Why", "Its default rule")


def peers_section(story: Story) -> Markup:
    """A table with one row per tool; ours first."""
    judged = judged_peers(story)
    rows = [_ours(story), *(_row(item) for item in judged)] if judged else []
    note = (
        f"The evidence says of the version: {story.truth}. The rules are the documented defaults, applied to the"
        " counters above while they last; with settings made for this service they would do better."
    )
    return tag(
        "section",
        tag("h2", "What others' default rules would have done on the same counters"),
        table(_HEAD, rows, empty="Nothing was counted yet."),
        tag("p", note, class_="quiet small") if judged else "",
    )


def _ours(story: Story) -> tuple[object, ...]:
    back = story.rolled_back
    at = "never" if back is None else f"{back.at:%Y-%m-%d %H:%M:%S}"
    why = "no guardrail crossed its boundary" if back is None else back.decision.reason
    rule = "sequential evidence of harm against the champion, one error budget for all guardrails"
    return ("Rampgate", at, badge("what happened", "plain"), why, rule)


def _row(item: Judged) -> tuple[object, ...]:
    action = item.action
    at = "not while these counters last" if action.at is None else f"{action.at:%Y-%m-%d %H:%M:%S}"
    why = f"{action.reason}; {item.words}"
    return (
        action.peer,
        at,
        badge(item.judgement, _COLOUR[item.judgement]),
        why,
        f"{action.rule} ({action.source})",
    )
