"""Starting, crashing, repeating: the embedded backend's processes and files."""

import multiprocessing
import re
import shutil
import threading
import time
from pathlib import Path

import pytest

from pipelines.core.errors import ServingError
from resources.registry.digest import digest_of
from resources.serving.contract import ModelArtefact
from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lifecycle import pinned_path
from resources.serving.embedded.restore import restore
from resources.serving.embedded.state import Deployed, ServiceState, StateStore
from resources.serving.embedded.supervisor import Supervisor
from resources.settings import Settings
from tests.conformance.arena import EmbeddedArena, light_command


def programs(arena: EmbeddedArena) -> set[str]:
    names = Supervisor(Layout(arena.settings.home).socket).processes()
    return {name for name in names if name.startswith(f"{arena.service}-")}


def test_a_predictor_that_dies_is_reported_with_its_last_words(arena: EmbeddedArena) -> None:
    broken = arena.artefact("2", die="no such column: tailwind")
    with pytest.raises(ServingError, match=r"00002.*died while starting.*\n.*no such column: tailwind"):
        arena.backend.deploy_canary(arena.service, broken, percent=50, salt="s")
    assert {arena.send(f"u{n}").version for n in range(20)} == {"1"}
    canary = arena.backend.status(arena.service).canary
    assert canary is not None
    assert not canary.ready
    assert canary.percent == 0
    arena.backend.roll_back(arena.service, "2")
    assert len(programs(arena)) == 1


def test_a_predictor_that_is_never_ready_is_given_up(arena: EmbeddedArena) -> None:
    arena.start_seconds = 1.5
    backend = arena.another_backend()
    with pytest.raises(ServingError, match=r"not ready within 1.5 s"):
        backend.deploy_canary(arena.service, arena.artefact("2", start_delay=60), percent=50, salt="s")
    assert arena.send("u").version == "1"


def test_changed_files_are_refused_before_anything_starts(arena: EmbeddedArena) -> None:
    good = arena.artefact("2")
    (Path(good.uri.removeprefix("file://")) / "behaviour.json").write_text('{"status": 418}')
    with pytest.raises(ServingError, match="digest"):
        arena.backend.deploy_canary(arena.service, good, percent=50, salt="s")
    assert arena.backend.status(arena.service).canary is None


@pytest.mark.parametrize("uri", ["s3://bucket/model", "/nowhere/at/all"])
def test_an_artefact_that_cannot_be_had_is_named(arena: EmbeddedArena, uri: str) -> None:
    artefact = ModelArtefact(model=arena.service, version="2", uri=uri, digest="0" * 64)
    with pytest.raises(ServingError, match=uri):
        arena.backend.deploy_canary(arena.service, artefact, percent=0, salt="s")


@pytest.mark.parametrize("version", ["../2", ".hidden", ""])
def test_a_version_never_leaves_the_models_directory(
    arena: EmbeddedArena, tmp_path: Path, version: str
) -> None:
    (tmp_path / "behaviour.json").write_text("{}")
    artefact = ModelArtefact(
        model=arena.service, version=version, uri=str(tmp_path), digest=digest_of(tmp_path)
    )
    with pytest.raises(ServingError, match="folder"):
        arena.backend.deploy_canary(arena.service, artefact, percent=0, salt="s")


def test_an_unknown_service_is_refused(arena: EmbeddedArena) -> None:
    with pytest.raises(ServingError, match=f"'nothing'.*{arena.service}"):
        arena.backend.capabilities("nothing")


def test_what_is_retired_is_gone(arena: EmbeddedArena) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    arena.backend.promote(arena.service, "2")
    assert {name.rpartition(".")[0] for name in programs(arena)} == {f"{arena.service}-00002"}
    pinned = {path.name[:2] for path in (Layout(arena.settings.home).models / arena.service).iterdir()}
    assert pinned == {"2-"}


def test_a_canary_runs_as_many_processes_as_the_stable_side_whatever_its_share(arena: EmbeddedArena) -> None:
    arena.models[arena.service]["spec"]["predictor"]["minReplicas"] = 3
    counts: list[int] = []
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=10, salt="s")
    for percent in (10, 50, 100):
        arena.backend.set_canary_percent(arena.service, "2", percent)
        counts.append(len(programs(arena)) - 1)
    assert counts == [3, 3, 3]


def test_each_service_logs_as_durably_as_its_manifest_asks(arena: EmbeddedArena) -> None:
    backend = EmbeddedBackend(
        arena.settings,
        arena.models,
        predictor_command=light_command,
        durability={arena.service: "power", "another": "process"},
    )
    assert _asked_durability(arena, backend, "2") == {"power"}
    backend.roll_back(arena.service, "2")
    assert _asked_durability(arena, arena.backend, "3") == {"process"}, "the default"


def _asked_durability(arena: EmbeddedArena, backend: EmbeddedBackend, version: str) -> set[str]:
    canary = backend.deploy_canary(arena.service, arena.artefact(version), percent=10, salt="s").canary
    assert canary is not None
    files = list(Layout(arena.settings.home).programs.glob(f"{canary.name}*.conf"))
    return {re.findall(r"--durability (\w+)", file.read_text())[0] for file in files}


def test_a_predictor_is_told_what_it_may_load_and_nothing_more_unless_the_manifest_allows_it(
    arena: EmbeddedArena,
) -> None:
    allowing = EmbeddedBackend(
        arena.settings,
        arena.models,
        predictor_command=light_command,
        allow={arena.service: ("pickle", "custom_code"), "another": ("cloudpickle",)},
    )
    digest = arena.artefact("2").digest
    told = f"--digest {digest} --allow pickle --allow custom_code\n"
    assert told in _program(arena, allowing, "2")
    allowing.roll_back(arena.service, "2")
    assert f"--digest {arena.artefact('3').digest}\n" in _program(arena, arena.backend, "3")


def _program(arena: EmbeddedArena, backend: EmbeddedBackend, version: str) -> str:
    canary = backend.deploy_canary(arena.service, arena.artefact(version), percent=10, salt="s").canary
    assert canary is not None
    [file] = Layout(arena.settings.home).programs.glob(f"{canary.name}*.conf")
    return file.read_text()


def test_a_predictor_from_before_digests_were_verified_is_told_at_the_next_start_of_the_platform(
    tmp_path: Path,
) -> None:
    settings = Settings.from_environment({"RAMPGATE_HOME": str(tmp_path)})
    layout = Layout(settings.home)
    layout.create()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.py").write_text("x = 1\n")
    digest = digest_of(tmp_path / "source")
    stable = Deployed(name="m-00001", model="m", version="1", digest=digest, ports=(7000,))
    StateStore(layout.states).write(ServiceState(service="m", stable=stable))
    place = pinned_path(layout.models, model="m", version="1", digest=digest)
    shutil.copytree(tmp_path / "source", place)
    (place / "__pycache__").mkdir()
    (place / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"left by an earlier predictor")
    program = layout.programs / "m-00001.7000.conf"
    program.write_text("[program:m-00001.7000]\ncommand=python -m predictor --port 7000\nautostart=true\n")
    for _ in range(2):
        restore(settings, {"m": ("cloudpickle",)})
        told = (
            f" predictor -- python -m predictor --port 7000 --digest {digest} --allow cloudpickle\nautostart"
        )
        assert told in program.read_text()
    assert digest_of(place) == digest


def test_clients_notice_nothing_of_a_whole_rollout(arena: EmbeddedArena) -> None:
    answers, stop = [], threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers.append(arena.send(f"u{len(answers)}").status)

    client = threading.Thread(target=load)
    client.start()
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=10, salt="s")
    arena.backend.set_canary_percent(arena.service, "2", 50)
    arena.backend.promote(arena.service, "2")
    arena.backend.deploy_canary(arena.service, arena.artefact("3"), percent=50, salt="t")
    arena.backend.roll_back(arena.service, "3")
    stop.set()
    client.join()
    assert len(answers) > 100
    assert set(answers) == {200}


def _controller(arena: EmbeddedArena, step: str) -> None:
    backend = arena.another_backend()
    if step == "deploy":
        backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    elif step == "promote":
        backend.promote(arena.service, "2")
    else:
        backend.roll_back(arena.service, "2")


MOMENTS = (0.03, 0.15, 0.3, 0.45)

SAMPLE = {("deploy", 0.15), ("deploy", 0.45), ("promote", 0.03), ("promote", 0.3), ("roll_back", 0.15)}
"""Each step, and each of the moments."""


@pytest.mark.parametrize(
    ("step", "after"),
    [
        pytest.param(step, after, marks=() if (step, after) in SAMPLE else pytest.mark.faults)
        for step in ("deploy", "promote", "roll_back")
        for after in MOMENTS
    ],
)
def test_a_controller_that_is_killed_is_continued_by_the_next(
    arena: EmbeddedArena, step: str, after: float
) -> None:
    if step != "deploy":
        _controller(arena, "deploy")
    killed = multiprocessing.get_context("fork").Process(target=_controller, args=(arena, step))
    killed.start()
    time.sleep(after)
    killed.kill()
    killed.join()
    _controller(arena, step)
    status = arena.backend.status(arena.service)
    stable = {"deploy": "1", "promote": "2", "roll_back": "1"}[step]
    assert status.stable is not None
    assert (status.stable.version, status.stable.ready) == (stable, True)
    assert (status.canary is not None) == (step == "deploy")
    assert {arena.send(f"u{n}").status for n in range(20)} == {200}
    revisions = {name.rpartition(".")[0] for name in programs(arena)}
    assert len(revisions) == (2 if step == "deploy" else 1)


def test_two_processes_that_deploy_at_once_agree(arena: EmbeddedArena) -> None:
    context = multiprocessing.get_context("fork")
    controllers = [context.Process(target=_controller, args=(arena, "deploy")) for _ in range(3)]
    for each in controllers:
        each.start()
    for each in controllers:
        each.join()
    assert [each.exitcode for each in controllers] == [0, 0, 0]
    assert len(programs(arena)) == 2


def test_a_program_that_is_written_again_is_never_read_half(arena: EmbeddedArena) -> None:
    """Supervisord forgets a program whose file is empty at the moment when it reads all of them."""
    _controller(arena, "deploy")
    place = Layout(arena.settings.home).programs
    whole = {file: file.read_bytes() for file in place.glob("*.conf")}
    again = multiprocessing.get_context("fork").Process(
        target=lambda: [_controller(arena, "deploy") for _ in range(10)]
    )
    again.start()
    seen: set[bytes] = set()
    while again.is_alive():
        seen.update(file.read_bytes() for file in place.glob("*.conf"))
        time.sleep(0.0005)
    again.join()
    assert again.exitcode == 0
    assert seen == set(whole.values())


def test_the_gateway_keeps_few_statistics_for_each_revision(arena: EmbeddedArena) -> None:
    """Each question about counters searches through all that there are, of every model."""
    admin = arena.backend._gateway.admin
    before = len(admin._ask("GET", "/stats").splitlines())
    _controller(arena, "deploy")
    assert 0 < len(admin._ask("GET", "/stats").splitlines()) - before < 100
