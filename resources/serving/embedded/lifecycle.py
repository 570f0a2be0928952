"""Starting the processes that a revision needs, from a pinned copy of its artefact, and retiring those that
nothing needs any more.
"""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.core.errors import ServingError, VersionFailed
from pipelines.core.manifest.model import PredictionLog
from resources.files import move
from resources.registry.digest import digest_of
from resources.serving.contract import ModelArtefact
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.layout import Layout, allocate
from resources.serving.embedded.predictors import Launch, PredictorCommand, Predictors, last_words
from resources.serving.embedded.state import (
    Deployed,
    DesiredCanary,
    ServiceDefinition,
    ServiceState,
    StateStore,
    with_ports,
    without,
)
from resources.settings import Settings


def pinned_path(models: Path, *, model: str, version: str, digest: str) -> Path:
    """Where the copy of a version lies."""
    return models / model / f"{version}-{digest[:12]}"


def pin(models: Path, artefact: ModelArtefact) -> Path:
    """Copy the artefact below `models` unless it is there, and verify its digest either way."""
    for name in (artefact.model, artefact.version):
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ServingError(f"{name!r} of {artefact.model!r} cannot be the name of a folder")
    target = pinned_path(models, model=artefact.model, version=artefact.version, digest=artefact.digest)
    if not target.exists():
        _copy(_source(artefact), target, artefact)
    _verify(target, artefact)
    return target


def drop_bytecode(place: Path, digest: str) -> None:
    """Remove what Python compiled into a pinned copy, where the files are no longer those that were pinned."""
    if place.is_dir() and digest_of(place) != digest:
        for folder in list(place.rglob("__pycache__")):
            shutil.rmtree(folder)


def _copy(source: Path, target: Path, artefact: ModelArtefact) -> None:
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, draft)
    try:
        _verify(draft, artefact)
        if not target.exists():
            move(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _source(artefact: ModelArtefact) -> Path:
    parts = urlsplit(artefact.uri)
    if parts.scheme not in ("", "file"):
        raise ServingError(
            f"{artefact.model} version {artefact.version}: cannot load {artefact.uri!r};"
            " embedded serving takes a local directory or a file:// address"
        )
    path = Path(unquote(parts.path) if parts.scheme else artefact.uri)
    if not path.is_dir():
        raise ServingError(f"{artefact.model} version {artefact.version}: {path} is not a directory")
    return path


def _verify(directory: Path, artefact: ModelArtefact) -> None:
    found = digest_of(directory)
    if found != artefact.digest:
        raise ServingError(
            f"{artefact.model} version {artefact.version}: the files in {directory} have digest {found[:12]},"
            f" pinned was {artefact.digest[:12]}"
        )


# Starting the processes that a revision needs, and retiring those that nothing needs any more.


PROCESS = "process"
"""A prediction log that survives the death of a process, where the manifest asks for no more."""

_POLL_SECONDS = 0.1


class Lifecycle:
    """No lock is held while it waits; every wait looks again at what is wanted."""

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        gateway: EmbeddedGateway,
        predictors: Predictors,
        *,
        command: PredictorCommand,
        durability: Mapping[str, str],
        allow: Mapping[str, tuple[str, ...]],
        limits: Mapping[str, PredictionLog],
        start_seconds: float,
        drain_seconds: float,
    ) -> None:
        self._settings = settings
        self._layout = Layout(settings.home)
        self._store = store
        self._gateway = gateway
        self._predictors = predictors
        self._command = command
        self._durability = durability
        self._allow = allow
        self._limits = limits
        self._start_seconds = start_seconds
        self._drain_seconds = drain_seconds

    def strengthen(self, service: str, version: str, definition: ServiceDefinition) -> int:
        """Run the canary with all of its processes ready.

        Returns the number of the command that was in force at the start. Raises `VersionFailed` if a process
        dies or is not ready in time, and `ServingError` if the canary is taken away meanwhile.
        """
        with self._store.changing(service) as state:
            canary = self._with_replicas(state, version, definition.replicas)
        self._start(service, canary.revision, definition)
        # Clusters before routes: a route to a cluster that is not there answers 503.
        self._gateway.publish("clusters")
        self._gateway.confirm("clusters")
        self._wait_ready(service, canary.revision)
        return canary.command

    def retire(self, service: str) -> None:
        """Drain and stop the revisions that the routes no longer name, then forget them."""
        for revision in self._store.read(service).retiring:
            self._drain(revision)
            self._predictors.stop(revision)
            with self._store.changing(service) as state:
                self._store.write(without(state, revision.name))
            self._gateway.publish("clusters")
            self._discard_artefact(revision)
        self._gateway.confirm("clusters")

    def _with_replicas(self, state: ServiceState, version: str, replicas: int) -> DesiredCanary:
        canary = state.canary_of(version)
        missing = replicas - len(canary.revision.ports)
        if missing <= 0:
            return canary
        with self._store.everything():
            used = [port for each in self._store.read_all() for one in each.deployed() for port in one.ports]
            reserved = vars(self._settings.ports) | {"predictors": 0}
            ports = allocate(self._settings.ports.predictors, missing, taken=[*used, *reserved.values()])
            grown = with_ports(state, version, canary.revision.ports + ports)
            self._store.write(grown)
        return grown.canary_of(version)

    def _start(self, service: str, revision: Deployed, definition: ServiceDefinition) -> None:
        commands = {port: self._command(self._launch(service, revision, port)) for port in revision.ports}
        self._predictors.start(revision, commands, definition.environment)

    def _launch(self, service: str, revision: Deployed, port: int) -> Launch:
        return Launch(
            model_dir=self._artefact(revision),
            digest=revision.digest,
            allow=self._allow.get(service, ()),
            service=service,
            version=revision.version,
            revision=revision.name,
            port=port,
            log_dir=self._settings.prediction_log / revision.model,
            durability=self._durability.get(service, PROCESS),
            limits=self._limits.get(service, PredictionLog()),
        )

    def _wait_ready(self, service: str, revision: Deployed) -> None:
        pids: dict[str, int] = {}
        deadline = time.monotonic() + self._start_seconds
        while self._gateway.healthy_ports(revision) != set(revision.ports):
            self._require_wanted(service, revision)
            self._predictors.require_alive(revision, pids)
            if time.monotonic() >= deadline:
                raise VersionFailed(self._too_late(revision))
            time.sleep(_POLL_SECONDS)
        self._require_wanted(service, revision)

    def _require_wanted(self, service: str, revision: Deployed) -> None:
        canary = self._store.read(service).canary
        if canary is None or canary.revision.name != revision.name:
            raise ServingError(
                f"{revision.name} (version {revision.version}) was rolled back while it started"
            )

    def _too_late(self, revision: Deployed) -> str:
        healthy = self._gateway.healthy_ports(revision)
        silent = [
            process
            for process in self._predictors.processes(revision)
            if not any(process.name.endswith(f".{port}") for port in healthy)
        ]
        words = "\n".join(f"{each.name} ({each.state}):\n{last_words(each.log)}" for each in silent)
        return f"{revision.name} was not ready within {self._start_seconds:g} s\n{words}"

    def _drain(self, revision: Deployed) -> None:
        """Wait until its replicas are idle, twice in a row; SIGTERM lets the rest finish after the deadline."""
        deadline = time.monotonic() + self._drain_seconds
        idle = 0
        while idle < 2 and time.monotonic() < deadline:
            idle = idle + 1 if self._gateway.active_requests(revision) == 0 else 0
            time.sleep(_POLL_SECONDS)

    def _discard_artefact(self, revision: Deployed) -> None:
        place = self._artefact(revision)
        with self._store.everything():
            deployed = [each for state in self._store.read_all() for each in state.deployed()]
            if place not in map(self._artefact, deployed):
                shutil.rmtree(place, ignore_errors=True)

    def _artefact(self, revision: Deployed) -> Path:
        return pinned_path(
            self._layout.models, model=revision.model, version=revision.version, digest=revision.digest
        )
