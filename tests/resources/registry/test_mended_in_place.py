"""Versions that change after they were registered, on a real MLflow server: from the alias to the opened rollout."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient

from assets.rollout import start_job
from pipelines.core.errors import CommandRefused, VersionRefused, Withdrawn
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import End
from pipelines.rollouts.actions import CHALLENGER, STATUS_TAG
from pipelines.rollouts.naming import VERSION_TAG
from pipelines.rollouts.start import start
from resources.registry.client import Registration
from resources.registry.registry import Registry
from sensors.challenger import challenger_sensor
from tests.support.memory_backend import World
from tests.support.memory_systems import MemorySystems, given, settings_at, write_model

Publish = Callable[..., str]


class Registered(MemorySystems):
    """A model of its own in a real MLflow; nothing is served."""

    @cached_property
    def world(self) -> World:
        return World()

    @cached_property
    def registry(self) -> Registry:  # type: ignore[override]
        return Registry(self.settings.mlflow_uri, cache=self.settings.home / "models-cache")

    @property
    def model(self) -> Model:
        return self.catalogue.models[0]


@pytest.fixture
def on_mlflow(mlflow_uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Registered]:
    write_model(tmp_path / "manifests", f"m-{abs(hash(request.node.name)) % 10**9}", flights=False)
    systems = Registered(settings_at(tmp_path, MLFLOW_TRACKING_URI=mlflow_uri))
    yield systems
    systems.ledger.close()


def tick(systems: Registered, instance: dg.DagsterInstance) -> dg.SensorResult | str:
    sensor = challenger_sensor([systems.model], tick=timedelta(0))
    result = sensor(dg.build_sensor_context(instance=instance, resources=given(systems)))
    return result if isinstance(result, dg.SensorResult) else str(result.skip_message)


def test_a_version_mended_where_it_lies_is_read_anew_when_it_is_started_again(
    on_mlflow: Registered, publish: Publish, instance: dg.DagsterInstance
) -> None:
    name, registry = on_mlflow.model.name, on_mlflow.registry
    version = publish(name, more=("wind",))
    registry.set_alias(name, CHALLENGER, version)
    with pytest.raises(VersionRefused, match="has no signature"):
        start(on_mlflow, on_mlflow.model, version)
    assert "= refused; clear the tag" in tick(on_mlflow, instance)
    before = registry.artefact(name, version)
    publish(name, mend=version, more=("wind",))
    MlflowClient(on_mlflow.settings.mlflow_uri).delete_model_version_tag(name, version, STATUS_TAG)
    registry.set_alias(name, CHALLENGER, version)
    assert isinstance(tick(on_mlflow, instance), dg.SensorResult)
    state = start(on_mlflow, on_mlflow.model, version)
    assert state.artefact.digest != before.digest
    assert Path(before.uri).is_dir(), "an open rollout could still need what it pinned"
    assert state.artefact.uri == registry.artefact(name, version).uri


def test_a_copy_is_taken_for_a_new_version_although_mlflow_copies_the_tag(
    on_mlflow: Registered, publish: Publish, instance: dg.DagsterInstance
) -> None:
    name, registry = on_mlflow.model.name, on_mlflow.registry
    version = publish(name, described=True)
    on_mlflow.controller.refuse(name, version, "rolled back in spring")
    copy = publish(name, copy=version)
    assert registry.tags(name, copy)[STATUS_TAG] == "refused", "MLflow does copy it"
    registry.set_alias(name, CHALLENGER, copy)
    assert isinstance(tick(on_mlflow, instance), dg.SensorResult)
    assert start(on_mlflow, on_mlflow.model, copy).version == copy
    registry.set_alias(name, CHALLENGER, version)
    assert "does not start after it" in tick(on_mlflow, instance)


@pytest.mark.parametrize("status", [Registration.PENDING, Registration.FAILED])
def test_a_version_that_is_not_registered_yet_is_waited_for_and_one_that_failed_is_refused(
    on_mlflow: Registered,
    publish: Publish,
    mlflow_home: Path,
    instance: dg.DagsterInstance,
    status: Registration,
) -> None:
    name = on_mlflow.model.name
    version = publish(name, described=True)
    on_mlflow.registry.set_alias(name, CHALLENGER, version)
    with sqlite3.connect(mlflow_home / "mlflow.db") as database:
        database.execute("UPDATE model_versions SET status = ? WHERE name = ?", (str(status), name))
    if status is Registration.FAILED:
        assert isinstance(tick(on_mlflow, instance), dg.SensorResult)
        with pytest.raises(VersionRefused, match="registration failed in MLflow"):
            start(on_mlflow, on_mlflow.model, version)
        assert [row.end for row in on_mlflow.ledger.rollouts(name)] == [End.REFUSED]
        assert on_mlflow.registry.tags(name, version)[STATUS_TAG] == "refused"
        return
    assert "is not READY in MLflow yet" in tick(on_mlflow, instance)
    with pytest.raises(CommandRefused, match="expected READY"):
        start(on_mlflow, on_mlflow.model, version)
    assert on_mlflow.ledger.rollouts(name) == ()
    with sqlite3.connect(mlflow_home / "mlflow.db") as database:
        database.execute("UPDATE model_versions SET status = 'READY' WHERE name = ?", (name,))
    assert isinstance(tick(on_mlflow, instance), dg.SensorResult)


def test_a_version_that_lost_its_alias_before_its_run_began_is_not_started(
    on_mlflow: Registered, publish: Publish
) -> None:
    name = on_mlflow.model.name
    version = publish(name, described=True)
    result = start_job(on_mlflow.model, {}).execute_in_process(
        run_config={"ops": {"start": {"config": {"version": version}}}},
        resources=given(on_mlflow),
        tags={VERSION_TAG: version},
    )
    [event] = result.get_asset_observation_events()
    said = event.asset_observation_data.asset_observation.metadata["status"].value
    assert said == f"not started: version {version} has the alias `challenger` no more"
    assert on_mlflow.ledger.rollouts(name) == ()
    on_mlflow.registry.set_alias(name, CHALLENGER, version)
    assert start(on_mlflow, on_mlflow.model, version, by_alias=True).version == version


def test_the_champion_is_refused_as_its_own_challenger(on_mlflow: Registered, publish: Publish) -> None:
    name = on_mlflow.model.name
    served, other = publish(name, described=True), publish(name, described=True)
    on_mlflow.world.serving(name, served)
    with pytest.raises(CommandRefused, match="is the champion already: it is what is served"):
        start(on_mlflow, on_mlflow.model, served)
    on_mlflow.registry.set_alias(name, "champion", other)
    with pytest.raises(
        CommandRefused, match=f"version {served} is served, but version {other} has the alias"
    ):
        start(on_mlflow, on_mlflow.model, other)
    with pytest.raises(Withdrawn):
        start(on_mlflow, on_mlflow.model, other, by_alias=True)
    assert on_mlflow.ledger.rollouts(name) == ()
