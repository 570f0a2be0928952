"""A shadow step: copies in a real lake, live counters, and a rollout that goes on because of them."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.manifest.load import Model
from pipelines.core.manifest.model import Validation
from pipelines.core.rollout.events import End
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Verdict
from pipelines.experiments.shadow import judged, shadow_evidence
from pipelines.rollouts.guardrails import GuardrailWatch
from resources.lake.agreement import Agreement, ColumnAgreement, agreement
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.schema import ensure_tables
from resources.registry.signature import Column, ModelSchema
from resources.serving.contract import Counters, RevisionCounters
from tests.resources.lake.segments_by_hand import Log, lake_below, prediction
from tests.support.memory_systems import counted_by
from tests.support.rollouts import MINUTE, MODEL, START, Rig, good, manifest

SECOND = timedelta(seconds=1)

SCHEMA = ModelSchema(
    (Column("distance", "double"), Column("origin", "string")),
    (Column("probability", "double"), Column("label", "string")),
)

SHADOW: dict[str, Any] = {"steps": ["shadow", 10, 100], "validation": {"agreement_rows": 100}}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = lake_below(tmp_path)
    with lake.connect() as connection:
        ensure_tables(lake, connection, MODEL, SCHEMA)
    return lake


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "log" / MODEL, tmp_path / "outcomes" / MODEL)
    log.predictions.mkdir(parents=True)
    return log


def mirrored(
    lake: Lake,
    log: Log,
    count: int,
    *,
    at: datetime,
    shift: float = 0.0,
    relabelled: int = 0,
    failed: int = 0,
) -> None:
    """Requests that the champion answered with 0.0 to 0.9, and their copies: `shift` added, some failed."""
    lines: list[str] = []
    for k in range(count):
        answer = (k % 10) / 10
        common: dict[str, Any] = {"at": at + k * timedelta(milliseconds=10)}
        old = {"probability": [answer], "label": ["late" if answer > 0.5 else "on time"]}
        lines += prediction(f"r{k}", version="1", outputs=old, latency_ms=4.0, **common)
        new = {"probability": [answer + shift], "label": ["odd"] if k < relabelled else old["label"]}
        lines += prediction(
            f"r{k}",
            version="2",
            revision=f"{MODEL}-00002",
            assignment="shadow",
            outputs=new,
            latency_ms=6.0,
            status=500 if k < failed else 200,
            **common,
        )
    log.segment("1", *lines)
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)


def compared(lake: Lake, **changes: Any) -> Agreement:
    window: dict[str, Any] = {"start": START, "end": START + 60 * MINUTE, "tolerance": 0.5}
    return agreement(lake, MODEL, champion="1", challenger="2", **(window | changes))


def test_the_same_answers_agree_wholly(lake: Lake, log: Log) -> None:
    mirrored(lake, log, 100, at=START)
    found = compared(lake)
    assert (found.pairs, found.failed, found.champion_ms, found.challenger_ms) == (100, 0, 4.0, 6.0)
    number, label = found.columns
    assert (number.share, label.share) == (1.0, 1.0)
    assert number.correlation == pytest.approx(1.0)
    assert number.distance == pytest.approx(0.0)
    assert label.correlation is None


def test_numbers_agree_within_the_tolerance_and_labels_when_equal(lake: Lake, log: Log) -> None:
    mirrored(
        lake, log, 100, at=START, shift=0.2, relabelled=30
    )  # 0.2 is 0.70 of the champion's deviation, 0.287
    far, label = compared(lake).columns
    assert far.share == 0.0
    assert far.distance == pytest.approx(0.2 / 0.2872, rel=1e-3)
    assert label.share == pytest.approx(0.7)
    assert compared(lake, tolerance=0.75).columns[0].share == 1.0


def test_a_copy_that_failed_disagrees_and_nothing_else_is_paired(lake: Lake, log: Log) -> None:
    mirrored(lake, log, 100, at=START, failed=25)
    found = compared(lake)
    assert found.failed == 25
    assert found.columns[0].share == pytest.approx(0.75)
    assert compared(lake, start=START + timedelta(seconds=10)).pairs == 0
    assert compared(lake, end=START + timedelta(milliseconds=500)).pairs == 50


@pytest.mark.parametrize(
    ("pairs", "share", "verdict", "pending"),
    [
        (99, 1.0, Verdict.UNKNOWN, True),
        (100, 0.9, Verdict.PASS, False),
        (100, 0.75, Verdict.UNKNOWN, True),
        (100, 0.5, Verdict.FAIL, False),
    ],
)
def test_agreement_has_three_values(pairs: int, share: float, verdict: Verdict, pending: bool) -> None:
    found = Agreement(pairs, 0, 4.0, 5.0, (ColumnAgreement("p", share, None, None),))
    assert judged(found, Validation(agreement_rows=100))[:2] == (verdict, pending)


class Shadowed:
    """A rollout in its shadow step, with the watch of its counters."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.rollout_id = self.rig.start(**SHADOW)
        self.rig.controller().drive(self.rollout_id, good(START)[2:])
        self.model = Model(name=MODEL, folder=folder, rollout=manifest(**SHADOW), service={}, digest="")

    @property
    def state(self) -> RolloutState:
        return self.rig.controller().state(self.rollout_id)

    def count(self, *, requests: int, failed: int) -> None:
        """The watch sees the champion answer and the copies succeed or fail."""
        watch = GuardrailWatch(
            store=self.rig.ledger.counters,
            manifest=self.model.rollout,
            state=self.state,
            save_every=timedelta(0),
        )
        for n in range(0, requests + 1, 50):
            watch.observe(self._counters(n, failed * n // requests))
        watch.save()

    def _counters(self, n: int, failed: int) -> Counters:
        sides = (("1", 0), ("2", failed))
        shown = (
            RevisionCounters(revision=f"r{version}", version=version, requests=n, errors=errors)
            for version, errors in sides
        )
        return counted_by(*shown, at=START + SECOND + n * timedelta(milliseconds=1))

    def look(self, lake: Lake) -> Phase:
        """What the look job does, then what the step job does."""
        self.rig.clock.now = START + 5 * MINUTE
        found = shadow_evidence(lake, self.rig.ledger, self.model, self.state, now=self.rig.clock.now)
        self.rig.controller().record(self.rollout_id, found)
        self.rig.controller().drive(self.rollout_id)
        return self.state.phase


def test_a_shadow_step_with_good_copies_gives_way_to_the_first_percent(
    lake: Lake, log: Log, tmp_path: Path
) -> None:
    shadowed = Shadowed(tmp_path)
    assert shadowed.state.phase is Phase.SHADOW
    assert shadowed.look(lake) is Phase.SHADOW  # nothing compared, nothing counted: pending, not unknown
    assert shadowed.state.unknown_since == {}
    shadowed = Shadowed(tmp_path / "again")
    mirrored(lake, log, 200, at=START + SECOND)
    shadowed.count(requests=200, failed=0)
    assert shadowed.look(lake) is Phase.STEPPING
    assert shadowed.state.percent == 10


def test_copies_that_fail_roll_the_version_back_before_anybody_saw_it(
    lake: Lake, log: Log, tmp_path: Path
) -> None:
    shadowed = Shadowed(tmp_path)
    mirrored(lake, log, 200, at=START + SECOND, failed=40)
    shadowed.count(requests=200, failed=40)
    shadowed.look(lake)
    assert shadowed.state.end is End.ROLLED_BACK
    assert "errors" in shadowed.state.end_reason
    assert not shadowed.state.exposed


def test_answers_that_differ_hold_the_shadow_step(lake: Lake, log: Log, tmp_path: Path) -> None:
    shadowed = Shadowed(tmp_path)
    mirrored(lake, log, 200, at=START + SECOND, shift=0.5)
    shadowed.count(requests=200, failed=0)
    assert shadowed.look(lake) is Phase.SHADOW
    last = shadowed.state.last
    assert last is not None
    assert last.decision.rule == "failed_check"
    assert "probability: 0.0% of 200 answers agree" in last.decision.reason
