"""The page: sections from a rollout's story. Text from people, versions and checks goes through `html`, escaped."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pipelines.core.rollout.events import DecisionKind
from pipelines.core.statistics.binomial import Counts
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.reports.charts import Chart, Limit, Mark, Markup, Point, badge, figure, join, link, table, tag
from pipelines.reports.story import Story, evidence_path, total
from pipelines.reports.style import STYLE
from pipelines.reports.words import exposure, headline, in_words, peers_section, reaction
from resources.checks.pages import NO_SCRIPT

MOST_DECISIONS = 200
"""Of more decisions, the last of so many are listed, and every one that moved something."""

MOST_CHARTS = 20

_TIME = "%Y-%m-%d %H:%M:%S"

_VERDICT = {Verdict.PASS: "good", Verdict.FAIL: "bad", Verdict.UNKNOWN: "wait"}

_MOVE = {DecisionKind.ADVANCE: "good", DecisionKind.PROMOTE: "good", DecisionKind.ROLL_BACK: "bad"}


class Link(NamedTuple):
    """Where to read on."""

    label: str
    url: str


def page(story: Story, links: Sequence[Link], *, written: datetime) -> str:
    """The whole document; it needs no network and no script."""
    title = headline(story).title
    head = tag(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
        Markup(NO_SCRIPT),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    sections = (
        _header(story, links),
        _traffic(story),
        _guardrails(story),
        _primary(story),
        _evidence(story),
        _decisions(story),
        _commands(story),
        peers_section(story),
        tag("p", f"Written {written:{_TIME}} UTC from the ledger. All times are UTC.", class_="quiet small"),
    )
    body = tag("body", tag("main", *sections))
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def _header(story: Story, links: Sequence[Link]) -> Markup:
    verdict, state = headline(story), story.state
    facts = {
        "Version": state.version,
        "Champion": state.champion or "none: the first version",
        "Started": f"{state.started_at:{_TIME}}",
        "Last event": f"{story.events[-1].at:{_TIME}}",
        "Exposure": exposure(story),
        "Reaction": reaction(story),
        "Rollout": state.rollout_id,
        "Artefact": state.artefact.digest[:19],
    }
    listed = [join((tag("dt", name), tag("dd", value))) for name, value in facts.items() if value]
    return tag(
        "header",
        tag("h1", verdict.title),
        tag("p", verdict.why) if verdict.why else "",
        tag("dl", *(tag("div", fact) for fact in listed)),
        tag("p", join((link(item.label, item.url) for item in links), between=" · "), class_="small"),
        class_=verdict.kind,
    )


def _traffic(story: Story) -> Markup:
    points = [Point(story.begun, 0.0), *(Point(w.at, w.percent) for w in story.state.weights)]
    points.append(Point(story.ended, points[-1].value))
    what = Chart(
        title="Share of live traffic at the new version over time, in percent",
        begun=story.begun,
        ended=story.ended,
        points=points,
        steps=True,
        unit=" %",
        fixed=(0.0, 100.0),
        marks=_marks(story),
    )
    return _section("Share of traffic", figure(what, "Dotted lines: decisions that moved something."))


def _guardrails(story: Story) -> Markup:
    if not story.counted:
        return _section("Guardrails on live counters", tag("p", "Nothing was counted yet.", class_="quiet"))
    charts = [_guardrail(story, name) for name in list(story.counted)[:MOST_CHARTS]]
    note = "Evidence that the new version is worse (logarithm of the e-value). At the red line it is rolled back."
    refused = tag("p", _refused(story.request_faults), class_="quiet")
    return _section("Guardrails on live counters", tag("p", note, class_="quiet"), *charts, refused)


def _refused(counts: Counts) -> str:
    return (
        f"Left out as the requests' own fault, for neither side answered them: {counts.canary_events:,.0f} of"
        f" {counts.canary_trials:,.0f} requests to the new version, {counts.champion_events:,.0f} of"
        f" {counts.champion_trials:,.0f} to the champion."
    )


def _guardrail(story: Story, name: str) -> Markup:
    buckets = story.counted[name]
    points = evidence_path(buckets) + _live(story, name)
    limit = None
    if story.boundary is not None:
        limit = Limit(story.boundary, f"roll back: e-value {math.exp(story.boundary):.3g}")
    what = Chart(
        title=f"{name}: evidence of harm over time against the boundary",
        begun=story.begun,
        ended=story.ended,
        points=sorted(points),
        limit=limit,
        zero=True,
        marks=_marks(story),
    )
    return figure(what, _rates(total(buckets)), heading=name)


def _live(story: Story, name: str) -> list[Point]:
    """What the watch itself had reached when it spoke up: it looks more often than it stores."""
    found: list[Point] = []
    for event in story.decided:
        for item in event.evidence:
            reached = item.values.get("log_e") if item.name == name and item.source == "serving" else None
            if isinstance(reached, int | float):
                found.append(Point(item.at, float(reached)))
    return found


def _rates(counts: Counts) -> str:
    def side(events: float, trials: float) -> str:
        share = f" ({100 * events / trials:.3g} %)" if trials else ""
        return f"{events:,.0f} of {trials:,.0f}{share}"

    new = side(counts.canary_events, counts.canary_trials)
    old = side(counts.champion_events, counts.champion_trials)
    return f"{new} at the new version, {old} at the champion"


def _primary(story: Story) -> Markup:
    looks = story.looked
    sentences = tag("ul", *(tag("li", sentence) for sentence in looks.sentences)) if looks.sentences else ""
    if not looks.points:
        words = "No look has an interval yet." if looks.taken else "No look was taken."
        return _section("The metric it is for", tag("p", words, class_="quiet"), sentences)
    margin = looks.unit_margin
    what = Chart(
        title=f"{looks.primary}: new version minus champion with its interval over time",
        begun=story.begun,
        ended=story.ended,
        points=looks.points,
        limit=None if margin is None else Limit(margin, f"margin {margin:+.3g}"),
        zero=True,
        marks=_marks(story),
    )
    caption = (
        f"{looks.primary}: new version minus champion. The band holds the true difference at all {looks.taken}"
        " looks together."
    )
    return _section("The metric it is for", figure(what, caption), sentences)


def _evidence(story: Story) -> Markup:
    items = sorted(story.state.evidence.values(), key=lambda item: item.name)
    head = ("Check", "Verdict", "If it fails", "At", "In words")
    rows = [
        (
            e.name,
            badge(_status(e), _VERDICT[e.verdict]),
            e.on_fail.replace("_", " "),
            _moment(e.at),
            e.reason,
        )
        for e in items
    ]
    return _section("Evidence and checks, the latest of each", table(head, rows, empty="There is none."))


def _status(item: Evidence) -> str:
    return "needs data" if item.pending and item.verdict is Verdict.UNKNOWN else str(item.verdict)


def _decisions(story: Story) -> Markup:
    decided = story.decided
    kept = [
        d for k, d in enumerate(decided) if d.decision.kind in _MOVE or k >= len(decided) - MOST_DECISIONS
    ]
    rows = [
        (
            _moment(d.at),
            badge(d.decision.kind.replace("_", " "), _colour(d.decision.kind)),
            in_words(d.decision),
            d.by,
        )
        for d in kept
    ]
    left = len(decided) - len(kept)
    note = (
        tag("p", f"{left} earlier decisions that moved nothing are left out.", class_="quiet") if left else ""
    )
    return _section("Decisions", table(("At", "", "In words", "By"), rows, empty="None yet."), note)


def _moment(at: datetime) -> Markup:
    return tag("span", f"{at:{_TIME}}", class_="nobr")


def _colour(kind: DecisionKind) -> str:
    return _MOVE.get(kind, "wait" if kind is DecisionKind.HOLD else "plain")


def _commands(story: Story) -> Markup:
    rows = [(_moment(c.at), c.order.replace("_", " "), c.reason, c.by) for c in story.commands]
    return _section(
        "Orders by people", table(("At", "Order", "Reason", "By"), rows, empty="Nobody gave any.")
    )


def _marks(story: Story) -> list[Mark]:
    moved = [d for d in story.decided if d.decision.kind in _MOVE]
    return [Mark(d.at, f"{d.at:%H:%M:%S} {d.decision.kind.replace('_', ' ')}") for d in moved]


def _section(title: str, *children: object) -> Markup:
    return tag("section", tag("h2", title), *children)
