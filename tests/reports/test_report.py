"""The page that a rollout leaves behind: what it says, that it is safe to open, that it stays small."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader, UndefinedError, nodes
from pydantic import BaseModel
from sqlalchemy import insert

from pipelines.core.errors import CommandRefused
from pipelines.core.rollout.alerts import Alert
from pipelines.core.rollout.events import Command, Order
from pipelines.core.rollout.policy import WATCHED
from pipelines.core.rollout.state import Phase
from pipelines.core.statistics.slices import Slice
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.platform.systems import Systems
from pipelines.reports.page import Link, page
from pipelines.reports.report import Reports, rollout_story, write_report
from pipelines.reports.story import Examples, Looked, Point, Story, ToldSlice
from pipelines.rollouts.controller import utc_now
from pipelines.rollouts.serving_metrics import REPEATED, REQUEST_FAULTS
from resources.checks.pages import PACKAGE, STYLED, render
from resources.lake.examples import Example
from resources.ledger.counters import CounterBucket
from resources.ledger.database import COUNTER_BUCKETS
from resources.notifier import Notifier
from resources.serving.contract import Lapse
from resources.settings import ROOT, Settings
from tests.support.memory_systems import reports_of
from tests.support.rollouts import MINUTE, MODEL, START, Rig, evidence, good, harmful

EVIL = "<script>alert(1)</script>"


def systems_at(home: Path) -> Systems:
    return Systems(Settings.from_environment({"RAMPGATE_HOME": str(home)}))


def reports_at(home: Path) -> Reports:
    return reports_of(systems_at(home))


def counters(
    rig: Rig,
    rollout_id: str,
    minutes: int,
    *,
    bad: int,
    metrics: int = 1,
    step: int = 0,
    name: str = "errors",
) -> None:
    """One bucket a minute: 100 answers at each side, `bad` errors at the canary and one at the champion."""
    rows = [
        {
            "rollout_id": rollout_id,
            "metric": name if k == 0 else f"metric_{k}",
            "step": step,
            "epoch": "e",
            "at": START + MINUTE * minute,
            "canary_trials": 100.0,
            "canary_events": float(bad),
            "champion_trials": 100.0,
            "champion_events": 1.0,
        }
        for minute in range(1, minutes + 1)
        for k in range(metrics)
    ]
    with rig.ledger.database.writing("buckets") as connection:
        connection.execute(insert(COUNTER_BUCKETS), rows)


def rolled_back(folder: Path) -> tuple[Rig, str]:
    rig = Rig(folder)
    rollout_id = rig.start()
    for give in (good, good):
        rig.controller().drive(rollout_id, give(rig.clock.now))
        rig.clock.tick()
    counters(rig, rollout_id, 8, bad=20)
    rig.controller().drive(rollout_id, harmful(rig.clock.now))
    return rig, rollout_id


class Reader(HTMLParser):
    """Text, tags, and every address that a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            v or "" for k, v in attrs if k == "src" or (k == "href" and tag == "link") or k.startswith("on")
        ]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_a_rollback_is_told_in_words_with_its_evidence(tmp_path: Path) -> None:
    _, rollout_id = rolled_back(tmp_path)
    path = write_report(reports_at(tmp_path), rollout_id)
    assert path == tmp_path / "reports" / f"{rollout_id}.html"
    reader = Reader(path.read_text())
    assert "flight-delay version 2 was rolled back; the champion serves all traffic" in reader.text
    assert "Decided to roll back (harm): errors: errors is fail" in reader.text
    assert "160 of 800 (20 %) at the new version, 8 of 800 (1 %) at the champion" in reader.text
    assert "from the decision to no traffic" in reader.text
    assert {"svg", "table", "style"} <= set(reader.tags)
    assert not reader.loads
    assert "script" not in reader.tags


def test_a_lapse_a_bake_and_a_promotion_that_is_taken_back_are_told_as_what_they_are(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rollout_id, controller, reports = rig.start(bake="1h"), rig.controller(), reports_at(tmp_path)

    def after_a_minute(*items: Evidence) -> str:
        rig.clock.tick()
        controller.drive(rollout_id, items)
        return Reader(write_report(reports, rollout_id).read_text()).text

    after_a_minute(*good(rig.clock.now))
    lapse = Lapse(
        at=rig.clock.now, version="2", percent=10, mirror=False, reason="nobody watched it for 10 s"
    )
    controller.lapsed(rollout_id, lapse)
    told = after_a_minute()
    assert "version 2 gets nothing, because nobody watched it" in told
    assert "the share of 10 % was taken away: nobody watched it for 10 s; it comes back" in told
    again = evidence(WATCHED, Verdict.PASS, rig.clock.now + MINUTE, source="serving")
    assert "version 2 takes 10 % of the traffic" in after_a_minute(again)
    while controller.state(rollout_id).phase is not Phase.BAKING:
        told = after_a_minute(*good(rig.clock.now + MINUTE))
    assert "is promoted and takes 98 % of the traffic; version 1 stays warm until" in told
    assert "up to 50 % of the traffic for 2m" in told
    told = after_a_minute(*harmful(rig.clock.now + MINUTE))
    assert "version 2 was promoted, and rolled back; the previous champion serves all traffic" in told
    assert "up to 50 % of the traffic for 2m" in told


def test_what_neither_side_answered_is_said_and_is_no_guardrail(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rollout_id = rig.start()
    for metric, bad in (("errors", 2), (REQUEST_FAULTS, 20), ("errors" + REPEATED, 30)):
        counters(rig, rollout_id, 5, bad=bad, name=metric)
    text = Reader(write_report(reports_at(tmp_path), rollout_id).read_text()).text
    assert (
        "neither side answered them: 100 of 500 requests to the new version, 5 of 500 to the champion" in text
    )
    assert f"{REQUEST_FAULTS}:" not in text
    assert "150 of 500" not in text


def test_what_people_and_checks_write_stays_text(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rollout_id = rig.start()
    rig.controller().drive(rollout_id, good(rig.clock.now))
    rig.controller().command(rollout_id, Order.PAUSE, by=EVIL, reason=f'"{EVIL}')
    page = write_report(reports_at(tmp_path), rollout_id).read_text()
    assert EVIL not in page
    assert EVIL in Reader(page).text
    assert "paused" in Reader(page).text


@pytest.mark.faults
def test_weeks_with_twenty_guardrails_stay_below_a_megabyte(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rollout_id = rig.start()
    rig.controller().drive(rollout_id, good(rig.clock.now))
    counters(rig, rollout_id, 3000, bad=1, metrics=20)
    path = write_report(reports_at(tmp_path), rollout_id)
    assert path.stat().st_size < 1_000_000
    assert path.read_text().count("<svg") == 21


def test_counts_merged_by_the_minute_lose_nothing(tmp_path: Path) -> None:
    """More buckets than are read one by one: the totals on the page are those of all of them."""
    rig = Rig(tmp_path)
    rollout_id = rig.start()
    rig.controller().drive(rollout_id, good(rig.clock.now))
    buckets = [
        CounterBucket(
            rollout_id=rollout_id,
            epoch="e",
            at=START + timedelta(seconds=second),
            step=0,
            metric="errors",
            canary_trials=3,
            canary_events=1,
            champion_trials=5,
            champion_events=1,
        )
        for second in range(20_001)
    ]
    rig.ledger.counters.append(buckets, key="watch", value="", after=None)
    text = Reader(write_report(reports_at(tmp_path), rollout_id).read_text()).text
    assert "20,001 of 60,003" in text
    assert "20,001 of 100,005" in text


def test_the_alerts_link_opens_the_report(tmp_path: Path) -> None:
    rig, rollout_id = rolled_back(tmp_path)
    systems = systems_at(tmp_path)
    path = write_report(reports_of(systems), rollout_id)
    alert: Alert = rig.ledger.outbox.all()[0]
    link = Notifier(rig.ledger, systems.settings, clock=utc_now).link(alert)
    assert link == systems.links.report(path.name)


def test_no_such_rollout(tmp_path: Path) -> None:
    systems = systems_at(tmp_path)
    with pytest.raises(CommandRefused, match="there is no rollout"):
        write_report(reports_of(systems), f"{MODEL}-v9-00000000")
    with pytest.raises(CommandRefused, match="rollout id is"):
        write_report(reports_of(systems), "../../etc/passwd")


def test_a_report_may_be_written_before_anything_happened(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rollout_id = rig.start()
    text = Reader(write_report(reports_at(tmp_path), rollout_id).read_text()).text
    assert "version 2 is being started" in text
    refused = rig.controller().refuse(MODEL, "7", "no signature")
    text = Reader(write_report(reports_at(tmp_path), refused).read_text()).text
    assert "version 7 was refused before any traffic" in text


def hostile(value: Any, words: str) -> Any:
    """The same value; every text in it that somebody chose, however deep, says `words` too."""
    match value:
        case Enum():
            return value
        case str():
            return f"{value}{words}"
        case BaseModel():
            return value.model_copy(update={k: hostile(v, words) for k, v in value if k != "kind"})
        case _ if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: hostile(getattr(value, f.name), words) for f in fields(value)})
        case Mapping():
            return {hostile(k, words): hostile(v, words) for k, v in value.items()}
        case tuple() | list():
            each = [hostile(entry, words) for entry in value]
            return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
        case _:
            return value


def hostile_page(folder: Path, words: str) -> str:
    """The page of a whole rollout, in which every name, reason, metric and sentence says `words`."""
    _, rollout_id = rolled_back(folder)
    told = rollout_story(reports_at(folder), rollout_id)
    order = Command(rollout_id=rollout_id, seq=99, at=START, order=Order.PAUSE, by="ann", reason="to look")
    points = tuple(Point(START + MINUTE * k, 0.1, -1.0 / k, 1.0 / k) for k in range(1, 9))
    looked = Looked(8, START, "delay", 0.3, points, (), ("It is later.",))
    slices = (ToldSlice("cost", Slice("carrier", "AA"), 5.0, "carrier is AA: it is dear"),)
    example = Example("request 7", START, 1.0, 500, 3.0, "asked", "answered")
    story: Story = replace(
        told,
        events=(*told.events, order),
        looked=looked,
        boundary=6.0,
        slices=slices,
        examples=Examples((example,), "not read"),
    )
    links = [Link("MLflow", "http://m/?a=b&c="), Link("elsewhere", "javascript:")]
    return page(hostile(story, words), hostile(links, words), written=START)


def test_every_value_of_a_rollout_is_text_in_its_page_whoever_wrote_it_and_never_a_tag(
    tmp_path: Path,
) -> None:
    quiet, loud = Reader(hostile_page(tmp_path / "a", "")), hostile_page(tmp_path / "b", f"\"'>{EVIL}")
    found = Reader(loud)
    assert (EVIL in loud, found.loads, found.tags) == (False, [], quiet.tags)
    assert 'href="javascript' not in loud
    told = (
        "version 2",
        "Champion 1",
        "ann",
        "to look",
        "errors",
        "delay",
        "It is later.",
        "MLflow",
        "elsewhere",
        "cost",
        "AA",
        "it is dear",
        "request 7",
        "asked",
        "answered",
    )
    missing = [each for each in told if f"{each}\"'>{EVIL}" not in found.text]
    assert missing == []


def test_every_value_of_a_list_of_windows_is_text_in_it_and_never_a_tag() -> None:
    page = render(PACKAGE, "index.html", policy=STYLED, model=EVIL, windows=())
    assert (EVIL in page, EVIL in Reader(page).text) == (False, True)


def test_a_value_that_is_not_given_is_an_error_and_no_empty_place() -> None:
    with pytest.raises(UndefinedError, match="'model' is undefined"):
        render(PACKAGE, "index.html", policy=STYLED, windows=())


FOLDERS = sorted(path for top in ("pipelines", "resources") for path in (ROOT / top).rglob("templates"))

MADE_BY_HAND = re.compile(r"<(html|body|table|tr|td|th|p|ul|li|dl|h[1-6]|svg|span|section|style)\b[^<]*>")

TRUSTED = re.compile(r"\bMarkup\b|\bmarkupsafe\b|\bEnvironment\(\)")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_no_template_takes_a_value_for_markup(folder: Path) -> None:
    environment = Environment(loader=FileSystemLoader(folder))
    trees = [environment.parse((folder / name).read_text()) for name in environment.list_templates()]
    trusting = [
        f.name for tree in trees for f in tree.find_all(nodes.Filter) if f.name in ("safe", "forceescape")
    ]
    switched = [n for tree in trees for n in tree.find_all((nodes.EvalContextModifier, nodes.MarkSafe))]
    bare = [name for name in environment.list_templates() if "={{" in (folder / name).read_text()]
    assert (len(trees) > 3, trusting, switched, bare) == (True, [], [], [])


def test_templates_are_part_of_the_package_that_draws_them() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packages = {".".join(folder.parent.relative_to(ROOT).parts) for folder in FOLDERS}
    assert declared == {package: ["templates/*"] for package in packages}


def test_no_page_is_made_of_strings_in_python() -> None:
    """What is made so is escaped where somebody thought of it."""
    sources = (
        path for top in ("pipelines", "resources", "assets", "sensors") for path in (ROOT / top).rglob("*.py")
    )
    made = [
        f"{path.relative_to(ROOT)}: {tag[0]}"
        for path in sources
        for tag in (*MADE_BY_HAND.finditer(path.read_text()), *TRUSTED.finditer(path.read_text()))
    ]
    assert made == []
