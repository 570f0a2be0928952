"""Alerts reach their channels at least once, and a failing channel holds nothing up."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.core.rollout.events import Order
from resources.ledger.ledger import Ledger
from resources.notifier import Notifier
from resources.settings import Settings
from tests.support.rollouts import MODEL, Rig, good, harmful

# apprise looks for a module of the standard library that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Receiver:
    """An HTTP endpoint that apprise posts JSON to."""

    def __init__(self) -> None:
        self.status, self.posts = 200, list[dict[str, str]]()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if receiver.status == 200:
                    receiver.posts.append(body)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/?secret=hunter2"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def notifier(rig: Rig, **environment: str) -> Notifier:
    settings = Settings.from_environment({"RAMPGATE_HOME": str(rig.folder)} | environment)
    return Notifier(rig.ledger, settings, clock=rig.clock, environment=environment)


def lines(rig: Rig) -> list[dict[str, str]]:
    return [json.loads(line) for line in (rig.folder / "alerts.jsonl").read_text().splitlines()]


def rolled_back(rig: Rig, **changes: object) -> str:
    rollout = rig.start(**changes)
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    rig.clock.tick()
    controller.drive(rollout, harmful(rig.clock.now))
    return rollout


def test_a_rollback_tells_model_version_decision_reason_and_link(rig: Rig) -> None:
    rollout = rolled_back(rig)
    first = notifier(rig).deliver()
    assert (first.failed, first.waiting) == (0, 0)
    critical = [line for line in lines(rig) if line["severity"] == "critical"]
    assert len(critical) == 1
    assert critical[0]["title"] == f"{MODEL} version 2: rolling back"
    assert critical[0]["body"] == "errors: errors is fail"
    assert critical[0]["link"].endswith(f"/{rollout}.html")
    assert notifier(rig).deliver().sent == 0, "nothing is sent twice"


@pytest.mark.parametrize("later", [timedelta(seconds=11), timedelta(hours=-2)], ids=["its pause", "set back"])
def test_a_failing_channel_is_tried_again_later_and_holds_up_nothing(
    rig: Rig, receiver: Receiver, later: timedelta
) -> None:
    """After its pause, or at once by a clock that was set back: it would wait for as long."""
    rolled_back(rig)
    receiver.status = 500
    urls = {"RAMPGATE_ALERT_URLS": receiver.url}
    first = notifier(rig, **urls).deliver()
    alerts = len(lines(rig))
    assert (first.sent, first.failed, first.waiting) == (alerts, 1, alerts)
    receiver.status = 200
    assert notifier(rig, **urls).deliver().sent == alerts - 1, "the one that failed waits for its pause"
    rig.clock.tick(later)
    assert notifier(rig, **urls).deliver().sent == 1
    assert len(receiver.posts) == alerts
    assert len(lines(rig)) == alerts


def test_severities_go_to_the_manifests_channels_and_no_secret_is_kept(rig: Rig, receiver: Receiver) -> None:
    rolled_back(rig, alerts={"critical": ["ON_CALL"]})
    notifier(rig, ON_CALL=receiver.url).deliver()
    assert [post["title"] for post in receiver.posts] == [f"{MODEL} version 2: rolling back"]
    kept = b"".join(path.read_bytes() for path in rig.folder.glob("ledger.db*") if path.is_file())
    assert b"hunter2" not in kept


def test_a_channel_that_is_not_configured_is_logged_and_the_others_deliver(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rolled_back(rig, alerts={"critical": ["ON_CALL"]})
    outcome = notifier(rig).deliver()
    assert (outcome.failed, outcome.waiting) == (1, 1)
    assert "channel ON_CALL: the environment variable is empty" in caplog.text
    assert any(line["severity"] == "critical" for line in lines(rig))


def test_an_alert_exists_if_and_only_if_its_event_does(rig: Rig) -> None:
    rollout = rig.start()
    rig.controller().command(rollout, Order.PAUSE, by="ada", reason="looking")
    keys = {alert.key for alert in rig.ledger.outbox.all()}
    assert keys == {f"{rollout}:started", f"{rollout}:command:2"}


def test_two_notifiers_at_once_do_not_send_twice(rig: Rig) -> None:
    rolled_back(rig)
    ledger = Ledger(f"sqlite:///{rig.folder / 'ledger.db'}")
    with ledger.exclusive("notifier", wait=timedelta(0)) as held:
        assert held
        assert notifier(rig).deliver().sent == 0
    assert notifier(rig).deliver().sent > 0


def test_a_channel_that_never_works_is_given_up_on(rig: Rig) -> None:
    rolled_back(rig, alerts={"critical": ["ON_CALL"]})
    assert notifier(rig).deliver().waiting == 1
    rig.clock.tick(timedelta(days=1))
    notifier(rig).deliver()
    assert rig.ledger.outbox.waiting() == ()
