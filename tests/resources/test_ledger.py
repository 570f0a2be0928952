"""The ledger's promises: one writer per seq, all or nothing, several processes, clear errors."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine

from pipelines.core.errors import CorruptLedger, LedgerConflict, LedgerError
from pipelines.core.rollout.alerts import Alert
from pipelines.core.rollout.events import Artefact, Command, End, Ended, Order, Started
from pipelines.core.rollout.policy import Policy
from resources.ledger.counters import CounterBucket, MinuteOfCounts, StoredLook
from resources.ledger.database import Database
from resources.ledger.ledger import Ledger
from tests.support.cluster_services import needs_postgres, postgres

AT = datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as dsn:
        parts = dict(part.split("=") for part in dsn.split())
        yield f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        yield Ledger(f"sqlite:///{tmp_path / 'deep' / 'ledger.db'}")
        return
    server, name = request.getfixturevalue("server"), f"ledger_{uuid4().hex[:12]}"
    execute(f"{server}/postgres", f"CREATE DATABASE {name}")
    ledger = Ledger(f"{server}/{name}")
    yield ledger
    ledger.close()


def execute(url: str, statement: str) -> None:
    """Past the ledger's own code."""
    engine = create_engine(Database(url).url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def url_of(ledger: Ledger) -> str:
    return ledger.database.url.render_as_string(hide_password=False)


def started(rollout: str = "m-v2-00000000", model: str = "m") -> Started:
    return Started(
        rollout_id=rollout,
        seq=1,
        at=AT,
        by="test",
        model=model,
        version="2",
        champion="1",
        artefact=Artefact(uri="u", digest="d"),
        salt="s",
        policy=Policy(steps=(10.0,)),
        manifest_digest="",
    )


def paused(seq: int, rollout: str = "m-v2-00000000") -> Command:
    return Command(rollout_id=rollout, seq=seq, at=AT, by="ada", order=Order.PAUSE, reason="looking")


def ended(seq: int, rollout: str = "m-v2-00000000") -> Ended:
    return Ended(rollout_id=rollout, seq=seq, at=AT, by="test", end=End.PROMOTED, reason="r")


def alert(key: str = "k") -> Alert:
    return Alert(key=key, severity="info", model="m", version="2", rollout_id="x", title="t", body="b", at=AT)


def test_the_loser_of_a_race_writes_nothing_at_all(ledger: Ledger) -> None:
    ledger.append(started())
    ledger.append(paused(2))
    with pytest.raises(LedgerConflict, match="m-v2-00000000 seq 3"):
        ledger.append(paused(3), paused(2), alerts=[alert()])
    assert [event.seq for event in ledger.events("m-v2-00000000")] == [1, 2]
    assert ledger.outbox.waiting() == ()


def test_one_open_rollout_a_model(ledger: Ledger) -> None:
    ledger.append(started())
    with pytest.raises(LedgerConflict):
        ledger.append(started("m-v3-00000000"))
    ledger.append(started("other-v2-00000000", "other"))
    ledger.append(ended(2))
    ledger.append(started("m-v3-00000000"))
    assert [row.rollout_id for row in ledger.rollouts("m")] == ["m-v2-00000000", "m-v3-00000000"]
    assert [row.model for row in ledger.rollouts(open_only=True)] == ["m", "other"]
    latest = ledger.latest("m")
    assert latest is not None
    assert (latest.rollout_id, latest.started_at, latest.end) == ("m-v3-00000000", AT, None)
    assert ledger.rollouts("m")[0].end is End.PROMOTED


def test_a_damaged_event_stops_its_rollout_and_no_other(ledger: Ledger) -> None:
    ledger.append(started())
    ledger.append(started("other-v2-00000000", "other"))
    damage = """UPDATE events SET body = replace(body, '"v":1', '"v":9') WHERE rollout_id = 'm-v2-00000000'"""
    execute(url_of(ledger), damage)
    with pytest.raises(CorruptLedger, match="m-v2-00000000 seq 1: schema version 9"):
        ledger.events("m-v2-00000000")
    assert len(ledger.events("other-v2-00000000")) == 1
    assert len(ledger.rollouts()) == 2


_RACE = """
import sys
from datetime import UTC, datetime
from pipelines.core.errors import LedgerConflict
from pipelines.core.rollout.events import Command, Order
from resources.ledger.ledger import Ledger

ledger, won, lost = Ledger(sys.argv[1]), 0, 0
while won < 15:
    seq = len(ledger.events("m-v2-00000000")) + 1
    event = Command(rollout_id="m-v2-00000000", seq=seq, at=datetime.now(UTC), by=sys.argv[2],
                    order=Order.PAUSE, reason="race")
    try:
        ledger.append(event)
        won += 1
    except LedgerConflict:
        lost += 1
print(won, lost)
"""


def test_processes_that_race_lose_no_event_and_share_the_schema(ledger: Ledger, tmp_path: Path) -> None:
    """The database does not exist yet: all of them create the schema at once."""
    url = url_of(ledger)
    script = tmp_path / "race.py"
    script.write_text(_RACE)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), url, str(number)],
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    events = ledger.events("m-v2-00000000")
    assert [event.seq for event in events] == list(range(1, 46))
    assert {event.by for event in events} == {"0", "1", "2"}


def test_a_lock_is_held_by_one_and_freed_by_the_death_of_its_holder(ledger: Ledger, tmp_path: Path) -> None:
    script = tmp_path / "holder.py"
    script.write_text(
        "import sys, time\nfrom datetime import timedelta\nfrom resources.ledger.ledger import Ledger\n"
        "with Ledger(sys.argv[1]).exclusive('m', wait=timedelta(0)) as held:\n"
        "    print(held, flush=True)\n    time.sleep(60)\n"
    )
    url = url_of(ledger)
    holder = subprocess.Popen(
        [sys.executable, str(script), url],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with ledger.exclusive("m", wait=timedelta(milliseconds=50)) as held:
        assert not held
    with ledger.exclusive("other", wait=timedelta(0)) as held:
        assert held
    holder.kill()
    holder.communicate()
    with ledger.exclusive("m", wait=timedelta(seconds=5)) as held:
        assert held


@needs_postgres
def test_what_was_done_under_a_lock_stands_although_its_session_died(server: str) -> None:
    ledger = Ledger(f"{server}/postgres")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'lake'"
    with ledger.exclusive("m", wait=timedelta(0)) as held:
        assert held
        execute(url_of(ledger), others)
    with ledger.exclusive("m", wait=timedelta(seconds=5)) as held:
        assert held
    ledger.close()


def test_counters_resume_where_the_last_watcher_stopped(ledger: Ledger) -> None:
    def bucket(seconds: int) -> CounterBucket:
        return CounterBucket(
            rollout_id="r",
            epoch="e",
            at=AT + timedelta(seconds=seconds),
            step=0,
            metric="errors",
            canary_trials=10,
            canary_events=1,
            champion_trials=90,
            champion_events=2,
        )

    assert ledger.counters.seen("watch") is None
    first = ledger.counters.append([bucket(1)], key="watch", value="10", after=None)
    second = ledger.counters.append([bucket(2)], key="watch", value="20", after=first)
    with pytest.raises(LedgerConflict, match="another watcher"):
        ledger.counters.append([bucket(3)], key="watch", value="30", after=first)
    with pytest.raises(LedgerConflict):
        ledger.counters.append([bucket(3)], key="watch", value="30", after=None)
    assert ledger.counters.seen("watch") == second == (2, "20")
    assert ledger.counters.buckets("r") == (bucket(1), bucket(2))
    ledger.counters.append([bucket(61)], key="watch", value="30", after=second)
    assert ledger.counters.count_buckets("r") == 3
    minute = AT.replace(second=0, microsecond=0) + timedelta(minutes=1)
    assert ledger.counters.minutes("r") == (
        MinuteOfCounts("errors", minute, 0, 20, 2, 180, 4),
        MinuteOfCounts("errors", minute + timedelta(minutes=1), 0, 10, 1, 90, 2),
    )


def test_a_look_is_kept_for_good(ledger: Ledger) -> None:
    look = StoredLook(1, AT, '{"z": 1.0}')
    ledger.counters.add_look("r", "cost", look)
    with pytest.raises(LedgerConflict):
        ledger.counters.add_look("r", "cost", look._replace(body="{}"))
    assert ledger.counters.looks("r", "cost") == (look,)
    ledger.counters.add_look("r", "cost", second := look._replace(number=2))
    assert ledger.counters.look_numbers("r", "cost") == [1, 2]
    assert ledger.counters.looks("r", "cost", [2]) == (second,)


def test_an_alert_with_a_known_key_is_the_same_alert(ledger: Ledger) -> None:
    ledger.outbox.add(alert(), alert("other"))
    ledger.outbox.add(alert())
    assert [waiting.key for waiting in ledger.outbox.waiting()] == ["k", "other"]
    ledger.outbox.finished("k", AT)
    ledger.outbox.add(alert())
    assert [waiting.key for waiting in ledger.outbox.waiting()] == ["other"]


def test_a_newer_ledger_is_left_alone(ledger: Ledger) -> None:
    ledger.append(started())
    execute(url_of(ledger), "UPDATE ledger_schema SET version = 99")
    ledger.close()
    with pytest.raises(LedgerError, match="schema 99, this program knows up to 1"):
        ledger.rollouts()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root@h/x", "for 'mysql', expected sqlite or postgresql"),
        ("nonsense", "cannot be read"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        Ledger(url)


def test_an_unreachable_ledger_is_one_error_without_the_password(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot read"):
        Ledger(f"sqlite:///{tmp_path}/file/ledger.db").rollouts()
    with pytest.raises(LedgerError) as error:
        Ledger("postgresql+nodriver://u:hunter2@127.0.0.1:1/x").rollouts()
    assert "hunter2" not in str(error.value)


def test_in_a_hurry_nobody_waits_for_a_frozen_writer_nor_asks_again_at_once_and_reads_go_on(
    ledger: Ledger,
) -> None:
    seen = ledger.counters.append([], key="watch", value="a", after=None)
    frozen = create_engine(ledger.database.url)
    with (
        frozen.connect() as writer,
        Ledger.in_a_hurry(patience=timedelta(seconds=0.2), pause=timedelta(seconds=0.5)),
    ):
        if ledger.database.file is not None:
            writer.exec_driver_sql("BEGIN IMMEDIATE")
        writer.exec_driver_sql("UPDATE seen SET value = 'b'")
        begun = time.monotonic()
        with pytest.raises(LedgerError, match="lock"):
            ledger.counters.append([], key="watch", value="c", after=seen)
        waited = time.monotonic() - begun
        with pytest.raises(LedgerError, match=r"cannot write counters watch .* not tried again for 0\.\d s"):
            ledger.counters.append([], key="watch", value="c", after=seen)
        assert waited < 5, "of the ten seconds that others wait"
        assert ledger.counters.seen("watch") == seen
        writer.rollback()
        time.sleep(0.5)
        assert ledger.counters.append([], key="watch", value="c", after=seen).value == "c"
    frozen.dispose()
