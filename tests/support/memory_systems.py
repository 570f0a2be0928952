"""All systems for tests of assets and sensors: real ledger, lake and manifests; serving and registry in memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.core.errors import NotMeasured, RegistryError, VersionFailed, VersionRefused
from pipelines.core.manifest.load import Model
from pipelines.platform.systems import Systems
from pipelines.reports.report import Reports
from pipelines.rollouts.controller import Controller, utc_now
from resources.lake.connection import Lake
from resources.notifier import Notifier
from resources.registry.client import Registration, VersionInfo
from resources.registry.signature import ModelSchema
from resources.serving.contract import Answers, Counters, GatewayCounters, ModelArtefact, RevisionCounters
from resources.settings import Settings
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, tensors
from tests.support.memory_backend import MemoryBackend, MemoryRegistry, World

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {name}}}
spec: {{predictor: {{minReplicas: 1, model: {{modelFormat: {{name: mlflow}}}}}}}}
"""

ROLLOUT = """\
model: {name}
steps: [10, 100]
bake: 0s
tier: high
experiment:
  unit: flight
  primary: {{name: cost, type: mean, source: outcomes.cost, mde: 30%, cap: 4}}
  outcome_window: 1s
  look_every: 10s
guardrails:
  - {{name: errors, type: proportion, source: serving.errors, margin: 0.5pp}}
  - {{name: slow, type: proportion, source: serving.over_slo, slo: 250ms, margin: 1pp}}
step: {{min_duration: 0s, min_units: 10}}
data_checks:
  window: 59m
  min_rows: 20
  checks:
    - {{column: features.distance, type: between, min: 0, max: 6000}}
    - {{column: features.origin, type: in_set, values: [EWR, JFK, LGA]}}
drift: {{window: 59m, min_rows: 50, share: 0.3}}
"""

UNCHECKED = "".join(
    line
    for line in ROLLOUT.splitlines(keepends=True)
    if "features." not in line and line.strip() != "checks:"
)


def write_model(manifests: Path, name: str, more: str = "", *, flights: bool = True) -> Path:
    """A model folder from the template; `more` is appended to its rollout.yaml, `flights`: its columns are checked."""
    folder = manifests / name
    folder.mkdir(parents=True)
    (folder / "inferenceservice.yaml").write_text(SERVICE.format(name=name))
    rollout = ROLLOUT.format(name=name) if flights else UNCHECKED.format(name=name)
    (folder / "rollout.yaml").write_text(rollout + more)
    return folder


def settings_at(home: Path, **environment: str) -> Settings:
    """Everything below `home`, manifests included."""
    given = {"RAMPGATE_HOME": str(home), "RAMPGATE_MANIFESTS": str(home / "manifests")}
    return Settings.from_environment(given | environment)


def counters(epoch: str = "a", **versions: tuple[int, int]) -> Counters:
    """Cumulative counts by version of one gateway: `v2=(requests, errors)`, each of another unit."""
    counted = {
        name[1:]: Answers(requests=requests, errors=errors, faults=errors, over_slo={250: 0})
        for name, (requests, errors) in versions.items()
    }
    return counted_by(
        *(
            RevisionCounters(
                revision=f"revision-{version}",
                version=version,
                first=answers,
                distinct=answers,
                **vars(answers),
            )
            for version, answers in counted.items()
        ),
        instance=epoch,
    )


def counted_by(*revisions: RevisionCounters, instance: str = "a", at: datetime | None = None) -> Counters:
    """What one start of one gateway shows, which began long ago."""
    asked, began = at or datetime.now(UTC), datetime(2020, 1, 1, tzinfo=UTC)
    one = GatewayCounters(instance=instance, at=asked, started=began, revisions=tuple(revisions))
    return Counters(at=asked, gateways=(one,))


def asked_at(shown: Counters, at: datetime, *, began: datetime | None = None) -> Counters:
    """The same counters, asked for at another time; `began`: of gateways that say when they started."""
    gateways = tuple(replace(each, at=at, started=began or each.started) for each in shown.gateways)
    return replace(shown, at=at, gateways=gateways)


def each_revision(shown: Counters, change: Callable[[RevisionCounters], RevisionCounters]) -> Counters:
    """The same gateways, with other counts."""
    gateways = (
        replace(each, revisions=tuple(change(revision) for revision in each.revisions))
        for each in shown.gateways
    )
    return replace(shown, gateways=tuple(gateways))


def by_units(shown: Counters, units: Answers) -> Counters:
    """The same answers, of so many units at each version."""
    return each_revision(shown, lambda each: replace(each, first=units, distinct=units))


class ScriptedBackend(MemoryBackend):
    """Counters from a script (the last entry repeats, an exception is raised), predictions from a function."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.predict_with: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _half
        self._script: list[Counters | Exception] = [NotMeasured("nothing was counted yet")]

    def show(self, *script: Counters | Exception) -> None:
        self._script = list(script)

    def counters(self, service: str) -> Counters:
        shown = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(shown, Exception):
            raise shown
        return asked_at(shown, datetime.now(UTC))  # a serving side counts when it is asked

    def predict(self, service: str, version: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.predict_with(request)


def _half(request: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = request["inputs"][0]["shape"][0]
    return {"outputs": tensors({"probability": [0.5] * rows})}


def broken_predictor(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise VersionFailed("HTTP 500: cannot read origin")


@dataclass
class ScriptedRegistry(MemoryRegistry):
    """Registered versions with a signature and an example, unless `unsigned` names them."""

    world: World
    known: set[str] = field(default_factory=lambda: {"1", "2"})
    unsigned: set[str] = field(default_factory=set[str])
    down: bool = False
    status: Registration = Registration.READY

    def __post_init__(self) -> None:
        super().__init__(self.world, self._answer)

    def _answer(self, call: str) -> None:
        if self.down:
            raise RegistryError("MLflow does not answer")

    def version(self, model: str, version: str) -> VersionInfo | None:
        self._answer("version")
        if version not in self.known or (model, version) in self.world.deleted:
            return None
        aliases = (
            alias for (name, alias), held in self.world.aliases.items() if (name, held) == (model, version)
        )
        return VersionInfo(
            model=model,
            version=version,
            run_id="",
            status=self.status,
            source="",
            created=datetime.now(UTC),
            aliases=tuple(sorted(aliases)),
            tags={key: v for (m, held, key), v in self.world.tags.items() if (m, held) == (model, version)},
        )

    def aliased(self, alias: str) -> dict[str, str]:
        self._answer("aliased")
        return {model: version for (model, name), version in self.world.aliases.items() if name == alias}

    def version_with_alias(self, model: str, alias: str) -> VersionInfo | None:
        self._answer("version_with_alias")
        version = self.world.aliases.get((model, alias))
        return None if version is None else self.version(model, version)

    def signature(self, model: str, version: str) -> ModelSchema:
        self._answer("signature")
        if version in self.unsigned:
            raise VersionRefused("the version has no signature")
        return SCHEMA

    def input_example(self, model: str, version: str) -> dict[str, Any]:
        return {"inputs": tensors({"distance": [719.0], "origin": ["JFK"]})}

    def artefact_policy(self, model: str, version: str, allow: tuple[str, ...] = ()) -> tuple[str, ...]:
        return ()

    def artefact(self, model: str, version: str, *, local: bool = True) -> ModelArtefact:
        self._answer("artefact")
        return ModelArtefact(model=model, version=version, uri=f"models/{version}", digest=f"sha-{version}")

    def take_anew(self, model: str, version: str) -> None:
        self._answer("take_anew")


class MemorySystems(Systems):
    """Version 1 of one model is the champion and serves; version 2 is registered."""

    @cached_property
    def world(self) -> World:
        world = World()
        world.serving(MODEL, "1")
        return world

    @cached_property
    def backend(self) -> ScriptedBackend:  # type: ignore[override]
        return ScriptedBackend(self.world)

    @cached_property
    def registry(self) -> ScriptedRegistry:  # type: ignore[override]
        return ScriptedRegistry(self.world)

    @cached_property
    def lake(self) -> Lake:
        """Few rows, and one thread: see `lake_below`."""
        return replace(super().lake, threads=1)

    @property
    def model(self) -> Model:
        return self.catalogue.model(MODEL)

    @property
    def share(self) -> float:
        """The canary's share of traffic, version 2."""
        return self.world.share(MODEL, "2")

    def challenge(self, version: str = "2", *, model: str = MODEL) -> None:
        """Give the version the alias that asks for a rollout."""
        self.world.aliases[model, "challenger"] = version

    def titles(self) -> list[str]:
        """Titles of all alerts so far."""
        return [alert.title for alert in self.ledger.outbox.all()]


@dataclass(frozen=True)
class Given:
    """In place of a Dagster resource: gives what the test has under that name."""

    of: Callable[[], Any]

    def get(self) -> Any:
        return self.of()


def given(systems: Systems) -> dict[str, Any]:
    """These systems as the resources that assets, ops and sensors ask for."""
    return {
        "settings": Given(lambda: systems.settings),
        "ledger": Given(lambda: systems.ledger),
        "lake": Given(lambda: systems.lake),
        "registry": Given(lambda: systems.registry),
        "serving": Given(lambda: systems.backend),
        "controller": Given(lambda: systems.controller),
        "rollouts": Given(lambda: systems),
        "links": Given(lambda: systems.links),
        "notifier": Given(lambda: Notifier(systems.ledger, systems.settings, clock=utc_now)),
        "reports": Given(lambda: reports_of(systems)),
    }


def reports_of(systems: Systems) -> Reports:
    """Where these systems' reports are written."""
    folder = systems.settings.home / "reports"
    return Reports(
        folder=folder,
        ledger=systems.ledger,
        lake=systems.lake,
        links=systems.links,
        catalogue=systems.catalogue,
    )


def memory_systems(home: Path, more: str = "") -> Iterator[MemorySystems]:
    """Systems on an empty home with one model; closes the ledger afterwards."""
    write_model(home / "manifests", MODEL, more)
    systems = MemorySystems(settings_at(home))
    yield systems
    systems.ledger.close()


def start_rollout(systems: MemorySystems, model: Model | None = None) -> str:
    """Version 2 takes ten percent of the traffic beside version 1; `model` is the manifest, if not the template."""
    controller: Controller = systems.controller
    from pipelines.rollouts.start import carry_on, start

    model = model or systems.model
    systems.challenge(model=model.name)
    rollout = start(systems, model, "2").rollout_id
    carry_on(systems, model, rollout)
    assert controller.state(rollout).percent == 10, controller.state(rollout).last
    return rollout
