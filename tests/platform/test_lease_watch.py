"""The watch takes away what nobody watches, tells people without Dagster, and says when it does not look."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.platform import leases as leases_module
from pipelines.platform.control import up
from pipelines.platform.leases import LeaseWatch, Teller
from pipelines.platform.parts import leases_beat, parts
from pipelines.platform.status import status
from pipelines.rollouts.controller import utc_now
from resources import notifier as notifier_module
from resources.ledger.ledger import Ledger
from resources.notifier import Notifier
from resources.serving.contract import LEASE
from resources.serving.embedded.lease import TakenAway
from resources.serving.embedded.supervisor import Supervisor, wait_until
from resources.settings import Settings
from tests.conformance.arena import EmbeddedArena, establish
from tests.support.memory_systems import settings_at, write_model
from tests.support.own_home import own_home

DONE = TakenAway(
    service="m", version="2", revision="m-00002", command=3, words="nobody has watched it for 10 s"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_at(tmp_path)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(settings.ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture
def teller(settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Teller:
    monkeypatch.setattr(leases_module, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(notifier_module, "TURN", timedelta(seconds=0.1))
    return Teller(settings, Notifier(ledger, settings, clock=utc_now))


def told(settings: Settings) -> list[dict[str, Any]]:
    path = settings.home / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_lapse_is_told_at_once_with_what_to_do_and_is_in_the_ledgers_outbox_as_delivered(
    settings: Settings, ledger: Ledger, teller: Teller
) -> None:
    teller.tell(DONE)
    teller.work(seconds=1)
    (alert,) = told(settings)
    assert (alert["severity"], alert["model"], alert["version"]) == ("critical", "m", "2")
    assert alert["title"] == "m version 2: nobody watched its share, so it was taken away"
    assert "nobody has watched it for 10 s. `make status` says" in alert["body"]
    assert [each.title for each in ledger.outbox.all()] == [alert["title"]]
    assert ledger.outbox.waiting() == ()
    for _ in range(3):
        teller.work(seconds=0)
    assert len(told(settings)) == 1


@pytest.mark.parametrize("how", ["the ledger is away", "whoever delivers is frozen"])
def test_a_lapse_is_told_past_a_ledger_that_is_away_and_past_whoever_has_the_turn_and_no_channel_is_told_twice(
    settings: Settings, ledger: Ledger, teller: Teller, how: str
) -> None:
    teller.tell(DONE)
    if how == "the ledger is away":
        (settings.home / "ledger.db").mkdir(parents=True)
        teller.work(seconds=1)
        assert len(told(settings)) == 1
        teller.work(seconds=0)
        (settings.home / "ledger.db").rmdir()
    else:
        with ledger.exclusive("notifier", wait=timedelta(0)):
            teller.work(seconds=1)
            assert len(told(settings)) == 1
    for _ in range(3):
        teller.work(seconds=0)
    assert len(told(settings)) == 1
    assert ([each.key for each in ledger.outbox.all()], ledger.outbox.waiting()) == (
        ["lapsed:m:m-00002:3"],
        (),
    )


def test_what_could_not_be_done_is_told_and_told_again_when_it_is_done(
    settings: Settings, teller: Teller
) -> None:
    for trouble in ("the gateway does not answer", ""):
        teller.tell(TakenAway(**{**vars(DONE), "trouble": trouble}))
        teller.work(seconds=1)
    first, second = told(settings)
    assert "NOT known to be done, tried again: the gateway does not answer" in first["body"]
    assert "NOT" not in second["body"]


def test_a_channel_that_failed_is_tried_again_from_here(
    settings: Settings, ledger: Ledger, teller: Teller
) -> None:
    """The manifest's own for what is critical: its variable is empty."""
    write_model(settings.manifests, "m", "alerts: {critical: [RAMPGATE_ALERTS_TEAM]}\n")
    teller.tell(DONE)
    teller.work(seconds=1)
    assert len(told(settings)) == 1
    teller.work(seconds=0)
    assert ledger.outbox.deliveries("lapsed:m:m-00002:3")["RAMPGATE_ALERTS_TEAM"].attempts > 0
    assert [each.key for each in ledger.outbox.waiting()] == ["lapsed:m:m-00002:3"]
    assert len(told(settings)) == 1


@dataclass
class Looking:
    """A guard whose looks go as the test says."""

    broken: Exception | None = None
    found: list[TakenAway] = field(default_factory=list[TakenAway])
    looks: int = 0

    def look(self) -> list[TakenAway]:
        self.looks += 1
        if self.broken is not None:
            raise self.broken
        return [self.found.pop()] if self.found else []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("nobody foresaw it")])
def test_no_error_ends_the_watch_over_leases_and_the_status_says_that_none_is_kept(
    settings: Settings,
    teller: Teller,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    monkeypatch.setattr(leases_module, "BEAT_SECONDS", 0.0)
    beat = leases_beat(settings)
    beat.parent.mkdir(parents=True)
    guard = Looking(broken=error)
    watch = LeaseWatch(guard=guard, teller=teller, beat=beat, every=0.01)  # type: ignore[arg-type]
    watch.start()
    try:
        assert wait_until(lambda: guard.looks > 5, seconds=30)
        assert not beat.exists()
        (part,) = [part for part in parts(settings) if part.name == "watch"]
        beat.with_name("watch.beat").touch()
        assert "no lease of a canary is kept" in (part.trouble() or "")
        guard.broken, guard.found = None, [DONE]
        assert wait_until(lambda: part.trouble() is None and bool(told(settings)), seconds=30)
        assert watch.alive
    finally:
        watch.stop()
    assert [record.levelname for record in caplog.records if "cannot be looked at" in record.message] == [
        "ERROR"
    ]
    assert not watch.alive


@pytest.mark.faults
def test_the_platforms_own_watch_takes_an_unwatched_share_away_and_a_renewed_one_stays() -> None:
    with own_home() as settings:
        up(settings, [part for part in parts(settings) if part.name in ("gateway", "watch")], seconds=90)
        arena = EmbeddedArena(settings, service="m", replicas=1)
        establish(arena, "1")
        arena.backend.deploy_canary("m", arena.artefact("2"), percent=50, salt="s")
        until = time.monotonic() + 1.5 * LEASE.total_seconds()
        while time.monotonic() < until:
            assert arena.backend.renew("m", "2") is None
            time.sleep(1)
        silent = time.monotonic()
        assert wait_until(lambda: arena.backend.status("m").lapse is not None, seconds=60)
        took = time.monotonic() - silent
        assert {arena.send(f"u{number}").version for number in range(20)} == {"1"}
        assert took < LEASE.total_seconds() + 2
        assert wait_until(lambda: bool(told(settings)), seconds=30)
        arena.retire()
        frozen_watch_is_named(settings)


def frozen_watch_is_named(settings: Settings) -> None:
    watch = [part for part in parts(settings) if part.name == "watch"]
    pid = Supervisor(settings.home / "supervisor.sock").processes()["watch"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert wait_until(
            lambda: "no lease of a canary is kept" in status(settings, watch)[0].trouble, seconds=60
        )
    finally:
        os.kill(pid, signal.SIGCONT)
