"""A version that gets the alias `challenger` is started, once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from pipelines.core.errors import RegistryError, ServingError, VersionRefused
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import End
from pipelines.core.rollout.policy import Policy
from pipelines.rollouts.actions import ROLLOUT_TAG
from pipelines.rollouts.naming import MISFIT_TAG
from pipelines.rollouts.open_rollout import open_rollout
from pipelines.rollouts.start import Mode, carry_on, start
from pipelines.rollouts.undo import undo_policy
from resources.registry.client import Registration
from sensors.challenger import Challengers, challenger_sensor
from tests.support import by_hand
from tests.support.memory_backend import World
from tests.support.memory_systems import MemorySystems, given, memory_systems, start_rollout
from tests.support.rollouts import MODEL

JOB = "flight_delay_start"


@pytest.fixture
def tick(systems: MemorySystems, instance: dg.DagsterInstance):
    """One evaluation of the sensor: a run request, or the reason why there is none."""
    return lambda: ticked(systems, instance)


def ticked(
    systems: MemorySystems, instance: dg.DagsterInstance, model: Model | None = None
) -> dg.RunRequest | str:
    """One evaluation, of one look; `model` is the manifest, if not the template."""
    sensor = challenger_sensor([model or systems.model], tick=timedelta(0))
    result = sensor(dg.build_sensor_context(instance=instance, resources=given(systems)))
    if isinstance(result, dg.SkipReason):
        return str(result.skip_message)
    (request,) = result.run_requests or ()
    assert request.job_name == JOB
    return request


def begun(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
    """The run that the daemon would have made of the request."""
    number = len(instance.get_run_ids())
    instance.add_run(
        dg.DagsterRun(job_name=JOB, run_id=f"run-{number}", status=status, tags=dict(request.tags))
    )


def test_a_challenger_is_started_with_its_version(systems: MemorySystems, tick) -> None:
    systems.challenge("2")
    request = tick()
    assert request.run_config == {"ops": {"start": {"config": {"version": "2"}}}}


def test_asking_again_while_the_run_has_not_come_asks_for_the_same_run(systems: MemorySystems, tick) -> None:
    systems.challenge()
    assert tick().run_key == tick().run_key


def test_nothing_is_asked_for_without_a_challenger(tick) -> None:
    assert "no version has the alias" in tick()


def test_one_start_at_a_time(systems: MemorySystems, instance: dg.DagsterInstance, tick) -> None:
    systems.challenge()
    begun(instance, tick(), dg.DagsterRunStatus.STARTED)
    assert tick() == f"{MODEL} version 2 is being started"


def test_the_version_that_is_rolled_out_is_no_news(systems: MemorySystems, tick) -> None:
    start_rollout(systems)
    assert systems.registry.aliased("challenger") == {MODEL: "2"}
    assert tick() == "no version has the alias `challenger`"


@pytest.mark.parametrize("status", ["rolled_back", "refused", "aborted"])
def test_a_version_that_failed_is_left_alone_until_its_tag_is_cleared(
    systems: MemorySystems, tick, status: str
) -> None:
    systems.challenge()
    systems.registry.tag(MODEL, "2", "rampgate.status", status)
    assert f"= {status}; clear the tag" in tick()
    del systems.world.tags[MODEL, "2", "rampgate.status"]
    assert isinstance(tick(), dg.RunRequest)


def test_the_champion_is_no_challenger(systems: MemorySystems, tick) -> None:
    systems.challenge("1")
    for _ in range(2):
        assert "version 1 is the champion already: it is what is served" in tick()
    assert systems.titles() == [f"{MODEL} version 1: not started for now"]


def test_what_is_served_is_no_challenger_whatever_the_aliases_say(systems: MemorySystems, tick) -> None:
    systems.challenge("1")
    del systems.world.aliases[MODEL, "champion"]
    assert "version 1 is served, but no version has the alias `champion`" in tick()
    systems.world.aliases[MODEL, "champion"] = "2"
    systems.challenge("2")
    assert "version 1 is served, but version 2 has the alias `champion`" in tick()


def test_a_champion_that_nothing_serves_may_be_started_again(systems: MemorySystems, tick) -> None:
    systems.world.status.clear()
    systems.challenge("1")
    assert isinstance(tick(), dg.RunRequest)


def test_what_is_served_cannot_be_told_so_nothing_is_started(
    systems: MemorySystems, tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise ServingError("the gateway does not answer")

    systems.challenge()
    monkeypatch.setattr(systems.backend, "status", away)
    assert tick() == f"{MODEL}: cannot tell: the gateway does not answer"


def test_failed_starts_are_tried_again_with_a_new_key_and_growing_pauses_for_ever(
    systems: MemorySystems, instance: dg.DagsterInstance, tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems.challenge()
    now = datetime.now(UTC).timestamp()
    monkeypatch.setattr("sensors.challenger.time.time", lambda: now)
    keys: list[str | None] = []
    for pause in (10, 20, 40, 80, 160, 300, 300, 300, 300, 300):
        request = tick()
        keys.append(request.run_key)
        begun(instance, request, dg.DagsterRunStatus.FAILURE)
        now = datetime.now(UTC).timestamp() + pause - 2
        assert "could not be started yet; tried again in" in tick()
        now = datetime.now(UTC).timestamp() + pause + 1
    assert len(set(keys)) == 10


@pytest.mark.parametrize("status", Registration)
def test_only_a_version_that_is_registered_is_started_or_refused(
    systems: MemorySystems, tick, status: Registration
) -> None:
    systems.challenge()
    systems.registry.status = status
    wanted = status in (Registration.READY, Registration.FAILED)
    assert isinstance(tick(), dg.RunRequest) is wanted
    if not wanted:
        assert tick() == f"{MODEL}: version 2 is not READY in MLflow yet: {status}"


def test_a_verdict_that_came_along_with_a_copy_is_not_the_copys(systems: MemorySystems, tick) -> None:
    systems.challenge()
    systems.registry.tag(MODEL, "2", "rampgate.status", "rolled_back")
    for another in (f"{MODEL}-v1-0123abcd", "other-model-v2-0123abcd"):
        systems.registry.tag(MODEL, "2", ROLLOUT_TAG, another)
        assert isinstance(tick(), dg.RunRequest)
    for own in (f"{MODEL}-v2-0123abcd", "written by hand"):
        systems.registry.tag(MODEL, "2", ROLLOUT_TAG, own)
        assert "= rolled_back; clear the tag" in tick()


def test_a_challenger_beside_an_open_rollout_waits_and_somebody_is_told_once(
    systems: MemorySystems, tick
) -> None:
    rollout = start_rollout(systems)
    systems.registry.known.add("3")
    systems.challenge("3")
    told = len(systems.titles())
    for _ in range(2):
        assert f"{MODEL} version 3 is a challenger" in tick()
    assert len(systems.titles()) == told + 1
    newest = systems.ledger.outbox.all()[0]
    assert newest.title == f"{MODEL} version 3 has the alias `challenger`, and is not started now"
    assert "the rollout of version 2" in newest.body
    assert systems.controller.state(rollout).ordered is None


@pytest.fixture
def replacing(tmp_path_factory: pytest.TempPathFactory):
    more = "on_new_challenger: replace\nab_test: {share: 50, duration: 7d}\n"
    yield from memory_systems(tmp_path_factory.mktemp("replacing"), more)


def test_an_open_rollout_gives_way_to_a_new_challenger_where_the_manifest_says_so(
    replacing: MemorySystems, instance: dg.DagsterInstance
) -> None:
    rollout = start_rollout(replacing)
    replacing.registry.known.add("3")
    replacing.challenge("3")
    for _ in range(2):
        assert isinstance(ticked(replacing, instance), str)
    carry_on(replacing, replacing.model, rollout)
    ended = replacing.controller.state(rollout)
    assert (ended.end, replacing.share) == (End.ABORTED, 0)
    assert "version 3 has the alias `challenger`" in ended.end_reason
    request = ticked(replacing, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["rampgate/version"] == "3"


def test_an_open_rollout_does_not_give_way_to_the_version_that_it_runs_against(
    replacing: MemorySystems, instance: dg.DagsterInstance
) -> None:
    """Somebody swapped the two aliases, or gave the wrong one to what is served."""
    start_rollout(replacing)
    replacing.world.aliases[MODEL, "champion"] = "2"
    replacing.challenge("1")
    assert "version 1 does not start after it" in str(ticked(replacing, instance))
    state = open_rollout(replacing.ledger, MODEL)
    assert state is not None
    assert state.ordered is None


def test_a_refusal_that_the_registry_does_not_take_is_one_and_its_runs_pause(
    systems: MemorySystems, instance: dg.DagsterInstance, tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its tag the version is asked for again; MLflow can be read, and not written."""
    systems.challenge()
    systems.registry.unsigned.add("2")

    def read_only(*_: str) -> None:
        raise RegistryError("MLflow refused POST model-versions/set-tag (403 PERMISSION_DENIED)")

    with monkeypatch.context() as patched:
        patched.setattr(type(systems.registry), "tag", read_only)
        for _ in range(2):
            begun(instance, tick(), dg.DagsterRunStatus.FAILURE)
            with pytest.raises(RegistryError):
                start(systems, systems.model, "2")
        assert "could not be started yet" in tick()
    assert systems.titles() == [f"{MODEL} version 2: refused before any traffic"]
    for _ in range(2):
        with pytest.raises(VersionRefused):
            start(systems, systems.model, "2")
    assert "= refused; clear the tag" in tick()
    assert len(systems.ledger.rollouts(MODEL)) == 2, "told now; what is refused anew has a record of its own"


def test_an_ab_test_never_gives_way(replacing: MemorySystems, instance: dg.DagsterInstance) -> None:
    start(replacing, replacing.model, "2", mode=Mode.ab_test)
    replacing.registry.known.add("3")
    replacing.challenge("3")
    ticked(replacing, instance)
    state = open_rollout(replacing.ledger, MODEL)
    assert state is not None
    assert state.ordered is None


def test_an_undo_does_not_give_way(replacing: MemorySystems, instance: dg.DagsterInstance) -> None:
    """The bad version is still served."""
    undoes = undo_policy(Policy.of(replacing.model.rollout), "m-v1-00000000")
    brought_back = replacing.registry.artefact(MODEL, "2")
    replacing.controller.start(replacing.model.rollout, "2", "1", brought_back, policy=undoes, despite="undo")
    replacing.registry.known.add("3")
    replacing.challenge("3")
    assert "comes first" in str(ticked(replacing, instance))
    state = open_rollout(replacing.ledger, MODEL)
    assert state is not None
    assert state.ordered is None


def test_a_manifest_that_does_not_fit_is_tried_once_and_again_when_it_has_changed(
    systems: MemorySystems, instance: dg.DagsterInstance, tick
) -> None:
    systems.challenge()
    request = tick()
    begun(instance, request, dg.DagsterRunStatus.FAILURE)
    (run,) = instance.get_runs()
    instance.add_run_tags(run.run_id, {MISFIT_TAG: "true"})
    assert tick() == (
        f"rollout.yaml does not fit {MODEL} version 2, see the failed run; tried again when it has changed"
    )
    again = ticked(systems, instance, replace(systems.model, digest="another"))
    assert isinstance(again, dg.RunRequest)
    assert again.run_key != request.run_key


def test_a_registry_that_is_down_is_said_and_asked_again(systems: MemorySystems, tick) -> None:
    systems.challenge()
    systems.registry.down = True
    assert tick() == "cannot tell: MLflow does not answer"
    systems.registry.down = False
    assert isinstance(tick(), dg.RunRequest)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (by_hand.alias_deleted, "version 1 is served, but no version has the alias `champion`"),
        (by_hand.champion_deleted, "version 1 is served, but no version has the alias `champion`"),
        (by_hand.alias_recreated, "give version 1 the alias `champion` (it has `Champion`)"),
        (by_hand.alias_moved, "version 1 is served, but version 3 has the alias `champion`"),
    ],
)
def test_while_registry_and_serving_side_disagree_nothing_is_started_and_one_alert_names_both_facts(
    systems: MemorySystems, tick, change: Callable[[World], None], facts: str
) -> None:
    systems.registry.known.add("3")
    systems.challenge()
    change(systems.world)
    for _ in range(3):
        assert facts in tick()
    (alert,) = systems.ledger.outbox.all()
    assert alert.title == f"{MODEL} version 2: not started for now"
    assert facts in alert.body
    assert "rampgate.status" not in [key for _, _, key in systems.world.tags], "no verdict on the version"
    systems.world.deleted.clear()
    by_hand.alias_mended(systems.world)
    assert isinstance(tick(), dg.RunRequest), "it starts by itself once they agree"


def test_a_second_disagreement_is_alerted_as_well(systems: MemorySystems, tick) -> None:
    systems.registry.known.add("3")
    systems.challenge()
    by_hand.alias_deleted(systems.world)
    tick()
    by_hand.alias_moved(systems.world)
    tick()
    assert len(systems.ledger.outbox.all()) == 2


def test_a_serving_side_that_cannot_be_asked_starts_nothing(
    systems: MemorySystems, tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_service: str) -> None:
        raise ServingError("no answer")

    systems.challenge()
    monkeypatch.setattr(systems.backend, "status", silent)
    assert tick() == f"{MODEL}: cannot tell: no answer"


def test_a_champion_that_is_not_served_any_more_may_be_started_and_nothing_else(
    systems: MemorySystems, tick
) -> None:
    systems.world.status.clear()
    systems.challenge("2")
    assert "nothing is served, but version 1 has the alias `champion`; give version 1 the alias" in tick()
    systems.challenge("1")
    assert isinstance(tick(), dg.RunRequest)


def test_many_idle_models_cost_one_call_of_mlflow_and_one_query_of_the_ledger(
    systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [replace(systems.model, name=f"idle-{number}") for number in range(100)]
    asked: list[str] = []
    monkeypatch.setattr(systems.registry, "_answer", asked.append)
    counted(monkeypatch, systems, asked)
    sensor = challenger_sensor([*models, systems.model], tick=timedelta(0))
    sensor(dg.build_sensor_context(instance=instance, resources=given(systems)))
    assert asked == ["aliased", "rollouts"]


def counted(monkeypatch: pytest.MonkeyPatch, systems: MemorySystems, asked: list[str]) -> None:
    """Writes down every query of the ledger."""
    for name in ("rollouts", "events"):
        call = getattr(systems.ledger, name)

        def given(
            *args: object, call: Callable[..., object] = call, name: str = name, **more: object
        ) -> object:
            asked.append(name)
            return call(*args, **more)

        monkeypatch.setattr(systems.ledger, name, given)


def test_within_a_tick_a_challenger_that_is_no_news_is_not_asked_about_again(
    systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems.challenge()
    systems.registry.tag(MODEL, "2", "rampgate.status", "refused")
    context = dg.build_sensor_context(instance=instance)
    challengers = Challengers(
        context, systems.ledger, systems.registry, given(systems)["controller"], [systems.model]
    )
    asked: list[str] = []
    monkeypatch.setattr(systems.registry, "_answer", asked.append)
    for _ in range(5):
        assert "= refused; clear the tag" in challengers.look().said[0]
    assert asked.count("aliased") == 5
    assert asked.count("version") == 1
    systems.registry.known.add("3")
    systems.challenge("3")
    (request,) = challengers.look().requests
    assert request.tags["rampgate/version"] == "3", "another version is news at once"
