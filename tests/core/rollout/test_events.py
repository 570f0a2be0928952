"""Events survive the ledger byte for byte, and what is damaged or newer says so."""

import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import CorruptLedger
from pipelines.core.rollout.events import (
    Action,
    Artefact,
    Command,
    Decided,
    Decision,
    DecisionKind,
    Done,
    End,
    Ended,
    Event,
    EvidenceRecorded,
    Failed,
    Intent,
    Order,
    Refused,
    Started,
    dump,
    load,
)
from pipelines.core.rollout.policy import CHAMPION_HEALTH, FreezeWindow, Policy
from pipelines.core.vocabulary import Evidence, NeededFor, OnFail, Verdict

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

_TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))

_SPANS = st.timedeltas(timedelta(0), timedelta(days=400))

_TEXT = st.text(max_size=20)

_VALUES = st.one_of(st.none(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), _TEXT)

_EVIDENCE = st.builds(
    Evidence,
    name=_TEXT,
    source=_TEXT,
    verdict=st.sampled_from(Verdict),
    reason=_TEXT,
    at=_TIMES,
    on_fail=st.sampled_from(OnFail),
    needed_for=st.sampled_from(NeededFor),
    pending=st.booleans(),
    valid_for=_SPANS,
    values=st.dictionaries(_TEXT, _VALUES, max_size=4),
)

_POLICIES = st.builds(
    Policy,
    steps=st.lists(st.one_of(st.just("shadow"), st.floats(0.01, 100)), max_size=4).map(tuple),
    min_duration=_SPANS,
    max_unknown=_SPANS,
    freeze=st.just((FreezeWindow(cron="0 18 * * fri", duration=timedelta(hours=3)),)),
    required=st.tuples(_TEXT),
    alerts=st.just({"critical": ("ON_CALL",)}),
)

_DECISIONS = st.builds(
    Decision,
    kind=st.sampled_from(DecisionKind),
    rule=_TEXT,
    reason=_TEXT,
    step=st.one_of(st.none(), st.integers(0, 9)),
    percent=st.one_of(st.none(), st.floats(0, 100)),
    end=st.one_of(st.none(), st.sampled_from(End)),
    evidence=st.tuples(_TEXT),
    unknown=st.tuples(_TEXT),
    severity=st.sampled_from(["info", "warning", "critical"]),
)

_STAMP = {"rollout_id": st.just("m-v1-00000000"), "seq": st.just(7), "at": _TIMES, "by": _TEXT}

_EVENTS = st.one_of(
    st.builds(
        Started,
        **_STAMP,
        model=_TEXT,
        version=_TEXT,
        champion=st.one_of(st.none(), _TEXT),
        artefact=st.builds(Artefact, uri=_TEXT, digest=_TEXT),
        salt=_TEXT,
        policy=_POLICIES,
        manifest_digest=_TEXT,
    ),
    st.builds(Refused, **_STAMP, model=_TEXT, version=_TEXT, reason=_TEXT),
    st.builds(EvidenceRecorded, **_STAMP, evidence=st.lists(_EVIDENCE, max_size=3).map(tuple)),
    st.builds(Intent, **_STAMP, action_id=_TEXT, action=st.sampled_from(Action), percent=st.floats(0, 100)),
    st.builds(Done, **_STAMP, action_id=_TEXT, message=_TEXT, landed=st.booleans()),
    st.builds(Failed, **_STAMP, action_id=_TEXT, message=_TEXT, final=st.booleans()),
    st.builds(Decided, **_STAMP, decision=_DECISIONS, evidence=st.lists(_EVIDENCE, max_size=3).map(tuple)),
    st.builds(Command, **_STAMP, order=st.sampled_from(Order), reason=st.text(min_size=1)),
    st.builds(Ended, **_STAMP, end=st.sampled_from(End), reason=_TEXT, dry=st.booleans()),
)


def stored(text: str) -> Event:
    return load(text, rollout_id="m-v1-00000000", seq=7)


@given(_EVENTS)
def test_an_event_survives_the_ledger_byte_for_byte(event: Event) -> None:
    text = dump(event)
    again = stored(text)
    assert again == event
    assert dump(again) == text


@pytest.mark.parametrize(("healthy", "verdict"), [(True, Verdict.PASS), (False, Verdict.FAIL)])
def test_what_an_earlier_release_wrote_of_the_stable_sides_health_is_read_as_evidence(
    healthy: bool, verdict: Verdict
) -> None:
    old = {
        "v": 1, "rollout_id": "m-v1-00000000", "seq": 7, "at": "2026-03-02T09:00:00Z", "by": "guardrail_sensor",
        "kind": "champion_health", "healthy": healthy, "reason": "it was asked", "valid_for": "PT10M",
    }  # fmt: skip
    event = stored(json.dumps(old))
    assert isinstance(event, EvidenceRecorded)
    (health,) = event.evidence
    assert (health.name, health.verdict, health.reason) == (CHAMPION_HEALTH, verdict, "it was asked")
    assert (health.at, health.valid_for, health.on_fail) == (event.at, timedelta(minutes=10), OnFail.HOLD)
    assert stored(dump(event)) == event
    with pytest.raises(CorruptLedger, match="seq 8"):
        load(json.dumps(old), rollout_id="m-v1-00000000", seq=8)


def test_times_are_kept_in_utc_and_numpy_numbers_as_plain_ones() -> None:
    local = AT.astimezone(timezone(timedelta(hours=2)))
    item = Evidence(
        name="errors",
        source="serving",
        verdict=Verdict.FAIL,
        reason="",
        at=local,
        values={"n": np.int64(3), "p": np.float64(0.5), "inf": np.inf, "ok": np.bool_(True)},  # type: ignore[dict-item]
    )
    event = EvidenceRecorded(rollout_id="m-v1-00000000", seq=7, at=local, by="x", evidence=(item,))
    again = stored(dump(event))
    assert json.loads(dump(event))["at"] == "2026-03-02T09:00:00Z"
    assert isinstance(again, EvidenceRecorded)
    assert again.evidence[0].values == {"n": 3, "p": 0.5, "inf": float("inf"), "ok": 1.0}


def paused(**changes: object) -> str:
    fields = json.loads(
        dump(Command(rollout_id="m-v1-00000000", seq=7, at=AT, by="ada", order=Order.PAUSE, reason="looking"))
    )
    return json.dumps(fields | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "m-v1-00000000 seq 7: Invalid JSON"),
        (paused(v=2), "schema version 2, this program reads 1"),
        (paused(kind="teleported"), "m-v1-00000000 seq 7: .*teleported"),
        (paused(order="explode"), "seq 7: .*at command.order"),
        (paused(surprise=1), "surprise"),
        (paused(seq=8), "holds the event of m-v1-00000000 seq 8"),
    ],
)
def test_damage_names_rollout_seq_and_what(text: str, message: str) -> None:
    with pytest.raises(CorruptLedger, match=message):
        stored(text)
