"""A real MLflow server and real serving (Envoy, predictors) that are made to disagree, by hand, as people do it."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import dagster as dg
import pytest

from pipelines.core.rollout.events import DecisionKind, End
from pipelines.core.rollout.policy import Policy
from pipelines.platform.systems import Systems
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.guardrails import GuardrailWatch
from resources.registry.client import RegistryApi
from resources.registry.registry import Registry
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lifecycle import pinned_path
from resources.settings import Settings
from sensors.challenger import challenger_sensor
from tests.conformance.arena import EmbeddedArena, establish, gateway_alone
from tests.support.memory_systems import given, settings_at, write_model
from tests.support.rollouts import good, manifest

SENT = 60

_names = itertools.count(1)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Settings]:
    with gateway_alone() as settings:
        yield settings


@dataclass(frozen=True)
class RealSides(Systems):
    """A ledger of its own; MLflow and the embedded serving side are the real ones."""

    arena: EmbeddedArena
    mlflow_uri: str

    @cached_property
    def backend(self):
        return self.arena.backend

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.mlflow_uri, self.settings.home / "cache")

    @property
    def name(self) -> str:
        return self.arena.service

    def call(self, method: str, path: str, **values: str) -> None:
        """What a person's script asks of MLflow."""
        RegistryApi(self.mlflow_uri).call(method, path, **values)

    def delete(self, version: str) -> None:
        self.call("DELETE", "model-versions/delete", name=self.name, version=version)

    def open(self, champion: str | None = "1", version: str = "2") -> str:
        """Version 2 fails every answer; it has half of the traffic beside the champion."""
        wanted = manifest(model=self.name, steps=[50, 100])
        artefact = self.arena.artefact(version, status=500 if version == "2" else 200)
        policy = replace(Policy.of(wanted), validate=False)
        rollout = self.controller.start(wanted, version, champion, artefact, policy=policy)
        self.controller.drive(rollout)
        return rollout


@pytest.fixture
def sides(gateway: Settings, mlflow_uri: str, tmp_path: Path) -> Iterator[RealSides]:
    """Version 1 is served and has the alias `champion`; versions 2 and 3 are registered."""
    arena = EmbeddedArena(gateway, service=f"sides-{next(_names)}", replicas=1)
    write_model(tmp_path / "manifests", arena.service)
    systems = RealSides(settings_at(tmp_path), arena, mlflow_uri)
    systems.call("POST", "registered-models/create", name=arena.service)
    for _ in range(3):
        systems.call("POST", "model-versions/create", name=arena.service, source="s3://light/model")
    establish(arena, "1")
    systems.registry.set_alias(arena.service, "champion", "1")
    yield systems
    systems.ledger.close()
    arena.retire()


def alias_deleted(sides: RealSides) -> None:
    sides.registry.remove_alias(sides.name, "champion")


def champion_deleted(sides: RealSides) -> None:
    sides.delete("1")


def recreated_as_Champion(sides: RealSides) -> None:
    sides.registry.remove_alias(sides.name, "champion")
    sides.registry.set_alias(sides.name, "Champion", "1")


def moved_to_a_version_that_is_not_served(sides: RealSides) -> None:
    sides.registry.set_alias(sides.name, "champion", "3")


KINDS = (alias_deleted, champion_deleted, recreated_as_Champion, moved_to_a_version_that_is_not_served)

Kind = Callable[[RealSides], None]


def test_before_a_rollout_what_is_served_decides_and_a_disagreement_starts_nothing(sides: RealSides) -> None:
    """All kinds, one after the other, on one service: the version deleted comes last."""
    systems = sides
    systems.registry.set_alias(systems.name, "challenger", "2")
    model = systems.catalogue.model(systems.name)
    with dg.DagsterInstance.ephemeral() as instance:
        sensor = challenger_sensor([model], tick=timedelta(0))

        def tick():
            return sensor(dg.build_sensor_context(instance=instance, resources=given(systems)))

        assert isinstance(tick(), dg.SensorResult)
        for kind in (alias_deleted, recreated_as_Champion, moved_to_a_version_that_is_not_served):
            kind(systems)
            for _ in range(2):
                said = str(tick().skip_message)
                assert "version 1 is served, but" in said, kind
            systems.registry.set_alias(systems.name, "champion", "1")
            assert isinstance(tick(), dg.SensorResult), "once they agree"
        champion_deleted(systems)
        said = str(tick().skip_message)
        assert "version 1 is not in the registry any more" in said
        assert "against: 1" in said
    # Deleting an alias, and deleting it to write it otherwise, are two disagreements with different ways out.
    assert len(systems.ledger.outbox.all()) == 4
    assert "rampgate.status" not in systems.registry.tags(systems.name, "2")


@pytest.mark.parametrize("kind", KINDS)
def test_during_a_rollout_a_disagreement_never_promotes_and_a_canary_that_fails_everything_is_taken_back(
    sides: RealSides, kind: Kind
) -> None:
    rollout = sides.open()
    state = sides.controller.state(rollout)
    watch = GuardrailWatch(
        store=sides.ledger.counters,
        manifest=manifest(model=sides.name),
        state=state,
        save_every=timedelta(seconds=2),
    )
    watch.observe(sides.backend.counters(sides.name))
    kind(sides)
    for number in range(SENT):
        sides.arena.send(unit=f"u{number}")
    watch.observe(sides.backend.counters(sides.name))
    (harm,) = watch.evidence(datetime.now(UTC))
    assert harm.values["champion_trials"], "the other side is what is served"
    decision = sides.controller.drive(rollout, good(datetime.now(UTC)))
    if kind is champion_deleted:
        assert decision.rule == "vanished"
        assert sides.controller.state(rollout).end is End.ABORTED
    else:
        assert (decision.kind, decision.rule) == (DecisionKind.HOLD, "disagreement")
        assert "version 1 is served, but" in decision.reason
        (harm,) = watch.evidence(datetime.now(UTC))
        assert sides.controller.roll_back_now(rollout, "harm", [harm]).kind is DecisionKind.ROLL_BACK
    assert {sides.arena.send(unit=f"u{number}").version for number in range(10)} == {"1"}
    sides.controller.drive(rollout)
    assert sides.controller.state(rollout).end is not None


@pytest.mark.parametrize("what", ["the version", "the registered model", "renamed"])
def test_a_version_that_vanishes_while_its_rollout_is_open_ends_it_and_the_next_one_starts(
    sides: RealSides, what: str
) -> None:
    rollout = sides.open()
    if what == "the version":
        sides.delete("2")
    elif what == "the registered model":
        sides.call("DELETE", "registered-models/delete", name=sides.name)
    else:
        sides.call("POST", "registered-models/rename", name=sides.name, new_name=f"{sides.name}-renamed")
    sides.controller.drive(rollout, good(datetime.now(UTC)))
    state = sides.controller.state(rollout)
    assert state.end is End.ABORTED
    assert "version 2 (the challenger) is not in the registry any more" in state.end_reason
    assert any("could not be written into the registry" in a.title for a in sides.ledger.outbox.all())
    assert {sides.arena.send(unit=f"u{number}").version for number in range(10)} == {"1"}
    if what == "the version":
        sides.open(version="3")
        assert sides.backend.status(sides.name).canary.version == "3"


def test_an_archived_challenger_is_withdrawn(sides: RealSides) -> None:
    rollout = sides.open()
    sides.call(
        "POST", "model-versions/transition-stage", name=sides.name, version="2", stage="Archived",
    )  # fmt: skip
    sides.controller.drive(rollout, good(datetime.now(UTC)))
    state = sides.controller.state(rollout)
    assert state.end is End.ABORTED
    assert "is archived in the registry" in state.end_reason
    assert sides.registry.tags(sides.name, "2")["rampgate.status"] == "aborted"


def test_a_promotion_whose_version_is_deleted_before_it_is_registered_ends_all_the_same(
    sides: RealSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = sides.open()
    promote = sides.backend.promote

    def then_deleted(service: str, version: str, *, replacing: str | None = None):
        status = promote(service, version, replacing=replacing)
        sides.delete(version)
        return status

    monkeypatch.setattr(sides.backend, "promote", then_deleted)
    sides.controller.drive(rollout, good(datetime.now(UTC)))
    assert sides.controller.state(rollout).end is End.PROMOTED
    (alert,) = [a for a in sides.ledger.outbox.all() if "could not be written" in a.title]
    assert "RESOURCE_DOES_NOT_EXIST" in alert.body


def test_a_served_version_answers_on_when_it_is_deleted_and_when_its_artefact_is_gone_from_the_store(
    sides: RealSides,
) -> None:
    """The serving side has a copy of its own, pinned by digest, which its predictors are started from."""
    pinned = pinned_path(
        Layout(sides.arena.settings.home).models,
        model=sides.name,
        version="1",
        digest=sides.arena.artefact("1").digest,
    )
    sides.delete("1")
    shutil.rmtree(sides.arena.settings.home / "registry" / sides.name / "1")
    assert pinned.is_dir()
    another = Controller(
        sides.ledger, sides.arena.another_backend(), sides.registry, home=sides.settings.home
    )
    assert another.sides(sides.name, "2").served == "1"
    assert sides.arena.send(unit="u").version == "1"
