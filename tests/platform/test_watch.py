"""What runs and does not do its work is started again; what works, or has no time to, is left alone."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from pipelines.core.errors import ServingError
from pipelines.platform import control, health
from pipelines.platform.control import PlatformError, up
from pipelines.platform.parts import Part, parts, predictor
from pipelines.platform.status import status
from pipelines.platform.watchdog import STEADY_SECONDS, Watch
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.supervisor import Process, Supervisor, wait_until
from resources.settings import HOST, Settings
from tests.support.memory_systems import settings_at, write_model
from tests.support.own_home import own_home
from tests.support.ports import free_base

SERVER = "import http.server as h; h.ThreadingHTTPServer(('{host}', {port}), h.SimpleHTTPRequestHandler).serve_forever()"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with own_home() as settings:
        yield settings


@pytest.fixture(scope="module")
def toy(settings: Settings) -> Part:
    """A web server of its own, up."""
    port = free_base(1)
    program = SERVER.format(host=HOST, port=port)
    toy = Part(
        name="toy",
        command=f'{sys.executable} -c "{program}"',
        url="",
        trouble=lambda: no_answer(port),
    )
    up(settings, [toy], say=lambda _: None)
    return toy


def no_answer(port: int) -> str | None:
    """As `health.no_answer`, in a hurry."""
    try:
        httpx.get(f"http://{HOST}:{port}/README.md", trust_env=False, timeout=0.5)
    except httpx.HTTPError:
        return "it does not answer"
    return None


@pytest.fixture
def supervisor(settings: Settings, toy: Part) -> Supervisor:
    supervisor = Supervisor(Layout(settings.home).socket)
    assert wait_until(lambda: supervisor.processes()["toy"].state == "RUNNING", seconds=30)
    return supervisor


def pid(supervisor: Supervisor) -> int:
    return supervisor.processes()["toy"].pid


def test_a_frozen_part_is_told_and_started_again_though_nobody_wakes_it(
    settings: Settings, toy: Part, supervisor: Supervisor
) -> None:
    impatient = replace(toy, patience_seconds=0.3)
    watch = Watch(supervisor=supervisor, every=0.3)
    assert watch.look([impatient]) == []
    frozen = pid(supervisor)
    os.kill(frozen, signal.SIGSTOP)
    [row] = status(settings, [toy])
    assert (row.state, "does not answer" in row.trouble) == ("running", True)
    said: list[str] = []
    assert wait_until(lambda: bool(said.extend(watch.look([impatient])) or said), seconds=30)
    assert said[0].startswith("toy has not worked for ")
    assert "does not answer" in said[0]
    assert wait_until(lambda: toy.trouble() is None, seconds=30)
    assert pid(supervisor) != frozen
    assert watch.look([impatient]) == []


def test_up_starts_a_frozen_part_again_and_says_so(
    settings: Settings, toy: Part, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_OLD_SECONDS", 0.0)
    monkeypatch.setattr(control, "_MEND_SECONDS", 0.5)
    frozen = pid(supervisor)
    os.kill(frozen, signal.SIGSTOP)
    said: list[str] = []
    up(settings, [toy], say=said.append)
    assert "was started again" in said[0]
    assert pid(supervisor) not in (0, frozen)


def test_a_supervisord_that_stands_still_is_named_in_words_and_nobody_waits_for_ever(
    settings: Settings, toy: Part, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.serving.embedded.supervisor._TIMEOUT", 0.3)
    frozen = supervisor.pid()
    os.kill(frozen, signal.SIGSTOP)
    try:
        with pytest.raises(PlatformError, match=f"kill -CONT {frozen}"):
            up(settings, [toy], say=lambda _: None)
        with pytest.raises(ServingError, match="does not answer"):
            supervisor.processes()
    finally:
        os.kill(frozen, signal.SIGCONT)
    up(settings, [toy], say=lambda _: None)


@dataclass
class Recorder:
    """A supervisord of one process, which starts anew as soon as it is killed."""

    process: Process = field(
        default_factory=lambda: Process(
            name="p", state="RUNNING", pid=1, log=Path("/dev/null"), description="", age=1000.0
        )
    )
    kills: int = 0

    def processes(self) -> dict[str, Process]:
        return {"p": self.process}

    def kill(self, name: str) -> None:
        assert name == "p"
        self.kills += 1
        self.process = replace(self.process, pid=self.process.pid + 1)


@dataclass
class Scene:
    """A part that works or not, as the test says, and a clock that only the test moves."""

    working: bool = True
    now: float = 0.0
    supervised: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.watch = Watch(supervisor=self.supervised, clock=lambda: self.now)  # pyright: ignore[reportArgumentType]
        self.part = Part(name="p", command="", url="", trouble=lambda: None if self.working else "silent")

    def until_killed(self, every: float = 10.0, most: float = 20_000.0) -> float:
        """Seconds from now until the next kill."""
        began, kills = self.now, self.supervised.kills
        while self.supervised.kills == kills and self.now - began < most:
            self.watch.look([self.part])
            self.now += every
        return self.now - every - began


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.watch.look([scene.part])
    scene.working = False
    return scene


def test_what_has_worked_is_given_its_patience_and_what_has_not_its_start(scene: Scene) -> None:
    assert scene.until_killed() == 30
    fresh = Scene(working=False)
    assert fresh.until_killed() == 180


def test_restarts_in_a_row_come_less_and_less_often_but_never_stop(scene: Scene) -> None:
    assert [round(scene.until_killed()) for _ in range(8)] == [30, 360, 720, 1440, 2880, 5760, 5760, 5760]


def test_a_part_that_was_steady_since_its_restart_is_given_no_more_than_its_patience(scene: Scene) -> None:
    scene.until_killed()
    scene.working = True
    scene.watch.look([scene.part])
    scene.now += STEADY_SECONDS + 1
    scene.watch.look([scene.part])
    scene.working = False
    assert scene.until_killed() == 30


def test_time_in_which_nobody_looked_does_not_count(scene: Scene) -> None:
    scene.watch.look([scene.part])
    scene.now += 3600
    scene.watch.look([scene.part])
    assert scene.supervised.kills == 0, "a machine that was suspended for an hour"
    scene.working = True
    scene.watch.look([scene.part])
    scene.working = False
    assert scene.until_killed() == 30


@pytest.mark.parametrize("state", ["STARTING", "BACKOFF", "STOPPING", "STOPPED", "EXITED", "FATAL"])
def test_what_does_not_run_is_the_supervisors_business(scene: Scene, state: str) -> None:
    scene.supervised.process = replace(scene.supervised.process, state=state)
    scene.until_killed(most=2000)
    assert scene.supervised.kills == 0


def test_a_part_that_imports_may_fall_silent_while_it_is_young(scene: Scene) -> None:
    scene.part = replace(scene.part, settle_seconds=300)
    scene.supervised.process = replace(scene.supervised.process, age=100)
    assert scene.until_killed() == 180


def test_another_parts_trouble_is_no_reason_to_start_this_one_again(scene: Scene) -> None:
    scene.part = replace(scene.part, own_trouble=lambda: None)
    scene.until_killed(most=2000)
    assert scene.supervised.kills == 0


def test_a_predictor_that_never_worked_is_left_to_whoever_deploys_it() -> None:
    found = predictor("model-00001.9100")
    assert found is not None
    assert predictor("gateway") is None
    scene = Scene(working=False)
    scene.part = replace(found, name="p", trouble=scene.part.trouble)
    scene.until_killed()
    assert scene.supervised.kills == 0
    scene.working = True
    scene.watch.look([scene.part])
    scene.working = False
    assert scene.until_killed() == 60


QUESTIONS: dict[str, Callable[[str], str | None]] = {
    "code": lambda _: health.no_code(1),
    "runs": lambda _: health.no_runs(Path("/nowhere/runs.sock")),
    "gateway": lambda url: health.no_gateway(Path("/nowhere/admin"), url),
    "watch": lambda _: health.stale(Path("/nowhere/watch.beat"), 1.0),
    **dict.fromkeys(("mlflow", "reports", "dagster", "evidently"), health.no_answer),
}


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_each_parts_question_finds_that_nobody_is_there(name: str) -> None:
    assert QUESTIONS[name]("http://127.0.0.1:1")


def test_every_part_has_a_question(settings: Settings) -> None:
    assert {part.name for part in parts(settings)} == QUESTIONS.keys() | {"daemon"}


def test_a_webserver_that_cannot_say_is_no_reason_to_start_the_daemon_again() -> None:
    assert health.no_heartbeat("http://127.0.0.1:1") is None
    assert health.daemons("http://127.0.0.1:1")


def test_a_beat_that_is_old_is_trouble(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    beat.touch()
    assert health.stale(beat, 60) is None
    os.utime(beat, times=(time.time() - 100, time.time() - 100))
    assert "100 s ago" in str(health.stale(beat, 60))


def test_what_loads_all_definitions_is_given_more_time_the_more_models_there_are(tmp_path: Path) -> None:
    """Started again while it still loads, it would begin anew for ever."""
    settings = settings_at(tmp_path)
    for number in range(30):
        write_model(settings.manifests, f"model-{number}")
    allowed = {part.name: part.start_seconds for part in parts(settings)}
    waiting = {name for name, seconds in allowed.items() if seconds == 180 + 30}
    assert waiting == {"code", "dagster", "daemon"}
    assert {seconds for name, seconds in allowed.items() if name not in waiting} == {180}
