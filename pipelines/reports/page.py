"""The page: what `templates/rollout.html` shows, computed from a rollout's story."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pipelines.core.rollout.events import Decided, DecisionKind
from pipelines.core.statistics.binomial import Counts
from pipelines.core.vocabulary import Verdict
from pipelines.reports.charts import Chart, Limit, Mark, Point
from pipelines.reports.story import Story, evidence_path, total
from pipelines.reports.words import exposure, headline, in_words, reaction
from resources.checks.pages import STYLED, render
from resources.lake.examples import Example

MOST_DECISIONS = 200
"""Of more decisions, the last of so many are listed, and every one that moved something."""

MOST_CHARTS = 20

_SHOWN = 400
"""Characters of what was asked, and of what was answered."""

_TIME = "%Y-%m-%d %H:%M:%S"

_VERDICT = {Verdict.PASS: "good", Verdict.FAIL: "bad", Verdict.UNKNOWN: "wait"}

_MOVE = {DecisionKind.ADVANCE: "good", DecisionKind.PROMOTE: "good", DecisionKind.ROLL_BACK: "bad"}

_DECISION = {DecisionKind.CONTINUE: "plain", DecisionKind.HOLD: "wait", **_MOVE}


class Link(NamedTuple):
    """Where to read on."""

    label: str
    url: str


class GuardrailChart(NamedTuple):
    """One guardrail's chart and what it counted, in words."""

    name: str
    chart: Chart
    rates: str


def page(story: Story, links: Sequence[Link], *, written: datetime) -> str:
    """The whole document; it needs no network and no script."""
    decisions = _listed(story.decided)
    return render(
        "pipelines.reports",
        "rollout.html",
        policy=STYLED,
        headline=headline(story),
        facts=_facts(story),
        links=links,
        traffic=_traffic(story),
        guardrails=[_guardrail(story, name) for name in list(story.counted)[:MOST_CHARTS]],
        refused=_refused(story.request_faults),
        looked=story.looked,
        primary=_primary(story),
        slices=story.slices,
        examples=[_shortened(each) for each in story.examples.found],
        no_examples=story.examples.problem,
        evidence=sorted(story.state.evidence.values(), key=lambda item: item.name),
        decisions=decisions,
        left_out=len(story.decided) - len(decisions),
        in_words=in_words,
        colours=_VERDICT | _DECISION,
        commands=story.commands,
        written=written,
    )


def _facts(story: Story) -> dict[str, str | None]:
    state = story.state
    return {
        "Version": state.version,
        "Champion": state.champion or "none: the first version",
        "Started": f"{state.started_at:{_TIME}}",
        "Last event": f"{story.events[-1].at:{_TIME}}",
        "Exposure": exposure(story),
        "Reaction": reaction(story),
        "Rollout": state.rollout_id,
        "Artefact": state.artefact.digest[:19],
    }


def _traffic(story: Story) -> Chart:
    points = [Point(story.begun, 0.0), *(Point(w.at, w.percent) for w in story.state.weights)]
    points.append(Point(story.ended, points[-1].value))
    return Chart(
        title="Share of live traffic at the new version over time, in percent",
        begun=story.begun,
        ended=story.ended,
        points=points,
        steps=True,
        unit=" %",
        fixed=(0.0, 100.0),
        marks=_marks(story),
    )


def _refused(counts: Counts) -> str:
    return (
        f"Left out as the requests' own fault, for neither side answered them: {counts.canary_events:,.0f} of"
        f" {counts.canary_trials:,.0f} requests to the new version, {counts.champion_events:,.0f} of"
        f" {counts.champion_trials:,.0f} to the champion."
    )


def _guardrail(story: Story, name: str) -> GuardrailChart:
    buckets, limit = story.counted[name], None
    if story.boundary is not None:
        limit = Limit(story.boundary, f"roll back: e-value {math.exp(story.boundary):.3g}")
    path = evidence_path(
        buckets, begun=story.begun, bake=story.state.bake_exposure, test=story.tests.get(name)
    )
    chart = Chart(
        title=f"{name}: evidence of harm over time against the boundary",
        begun=story.begun,
        ended=story.ended,
        points=sorted(path + _live(story, name)),
        limit=limit,
        zero=True,
        marks=_marks(story),
    )
    return GuardrailChart(name, chart, _rates(total(buckets)))


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


def _primary(story: Story) -> Chart:
    looks, margin = story.looked, story.looked.unit_margin
    return Chart(
        title=f"{looks.primary}: new version minus champion with its interval over time",
        begun=story.begun,
        ended=story.ended,
        points=looks.points,
        limit=None if margin is None else Limit(margin, f"margin {margin:+.3g}"),
        zero=True,
        marks=_marks(story),
    )


def _shortened(example: Example) -> Example:
    """A request may have thousands of columns."""
    features, outputs = (
        text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
        for text in (example.features, example.outputs)
    )
    return example._replace(features=features, outputs=outputs)


def _listed(decided: Sequence[Decided]) -> list[Decided]:
    newest = len(decided) - MOST_DECISIONS
    return [d for k, d in enumerate(decided) if d.decision.kind in _MOVE or k >= newest]


def _marks(story: Story) -> list[Mark]:
    moved = [d for d in story.decided if d.decision.kind in _MOVE]
    return [Mark(d.at, f"{d.at:%H:%M:%S} {d.decision.kind.replace('_', ' ')}") for d in moved]
