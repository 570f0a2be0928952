"""The serving backend of one machine: supervisord, Envoy and KServe model servers.

Every call changes the desired state under a lock held for milliseconds, then brings the processes and the
gateway there without holding it. Whoever repeats a call after a crash continues where the files say it was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipelines.core.errors import NotMeasured, RampgateError, ServingError
from pipelines.core.manifest.model import PredictionLog
from resources.serving.contract import (
    Capabilities,
    Counters,
    GatewayCounters,
    Lapse,
    ModelArtefact,
    ServiceStatus,
    lapsed_meanwhile,
    not_replaced,
    one_by_one,
    overtaken,
)
from resources.serving.embedded.brake import Brake
from resources.serving.embedded.counting import EVERY_STATISTIC, Reading, count, read, stats_pattern
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lease import Leases
from resources.serving.embedded.lifecycle import Lifecycle, pin
from resources.serving.embedded.predictors import PredictorCommand, Predictors, model_server
from resources.serving.embedded.restore import report
from resources.serving.embedded.state import (
    DamagedState,
    Deployed,
    DesiredCanary,
    ServiceDefinition,
    ServiceState,
    StateStore,
    begin_canary,
    promoted,
    rolled_back,
    with_share,
)
from resources.serving.embedded.supervisor import Supervisor
from resources.settings import Settings


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What a command wants for the canary."""

    percent: float
    mirror: bool = False
    salt: str | None = None
    leased: bool = True
    expected: float | None = None
    """The share that the canary is thought to have."""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ServingError(f"percent == {self.percent}, must be 0 to 100")

    @property
    def lapses(self) -> bool:
        """Whether it is taken away where nobody watches it."""
        return self.leased and (self.percent > 0 or self.mirror)

    def given(self, state: ServiceState, version: str) -> ServiceState:
        """The state once the canary has it."""
        return with_share(
            state,
            version,
            percent=self.percent,
            mirror=self.mirror,
            salt=self.salt,
            leased=self.leased,
        )

    def holds_for(self, canary: DesiredCanary) -> bool:
        """Whether the canary already has this share."""
        salt = canary.salt if self.salt is None else self.salt
        wanted = (self.percent, self.mirror, salt, self.leased)
        return (canary.percent, canary.mirror, canary.salt, canary.leased) == wanted


class EmbeddedBackend:
    """`ServingBackend` for the InferenceServices in `models` (name -> the YAML as a mapping).

    A canary runs as many processes as the stable revision, whatever its share: with fewer, a comparison of
    latencies would measure the processes instead of the model. `durability` is each service's own: `process` (the
    default) or `power`; so is `allow`, what may run code when the model is loaded (default: nothing), and
    `limits`, what one request may hold.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, Mapping[str, Any]],
        *,
        predictor_command: PredictorCommand = model_server,
        durability: Mapping[str, str] | None = None,
        allow: Mapping[str, tuple[str, ...]] | None = None,
        limits: Mapping[str, PredictionLog] | None = None,
        start_seconds: float = 180.0,
        drain_seconds: float = 30.0,
    ) -> None:
        layout = Layout(settings.home)
        layout.create()
        self._models = models
        self._layout = layout
        self._store = StateStore(layout.states)
        self._gateway = EmbeddedGateway(settings, self._store)
        self._leases = Leases(layout.leases)
        self._way_out = Brake(self._store, self._gateway)
        self._predictors = Predictors(layout, Supervisor(layout.socket))
        self._lifecycle = Lifecycle(
            settings,
            self._store,
            self._gateway,
            self._predictors,
            command=predictor_command,
            durability=durability or {},
            allow=allow or {},
            limits=limits or {},
            start_seconds=start_seconds,
            drain_seconds=drain_seconds,
        )

    def capabilities(self, service: str) -> Capabilities:
        """Everything: the gateway hashes units and mirrors requests; the platform's watch keeps the leases."""
        self._definition(service)
        return Capabilities(sticky=True, mirror=True, percent_step=0.01, lease=True)

    def status(self, service: str) -> ServiceStatus:
        """The desired state, with the readiness that supervisord and the gateway report."""
        return report(self._store.read(service), self._gateway, self._predictors)

    def deploy_canary(
        self, service: str, artefact: ModelArtefact, *, percent: float, salt: str, mirror: bool = False
    ) -> ServiceStatus:
        """Pin the artefact, start it, wait for it, give it its share."""
        definition = self._definition(service)
        share = _Share(percent=percent, mirror=mirror, salt=salt)
        pin(self._layout.models, artefact)
        with self._store.changing(service) as state:
            begun = begin_canary(state, artefact, salt=salt)
            self._store.write(replace(begun, timeout_ms=definition.timeout_ms))
        return self._give(service, artefact.version, share)

    def set_canary_percent(
        self,
        service: str,
        version: str,
        percent: float,
        *,
        expected: float | None = None,
        leased: bool = True,
    ) -> ServiceStatus:
        """Change the share; mirroring ends. Percent 0 only rewrites the routes.

        Where the service's state is damaged, percent 0 takes the traffic away all the same; the status then knows
        of no revision.
        """
        share = _Share(percent=percent, expected=expected, leased=leased)
        if percent > 0:
            return self._give(service, version, share)
        try:
            return self._brake(service, version)
        except DamagedState:
            self._way_out.release(service)
            self._gateway.confirm("routes")
            return ServiceStatus(service=service, stable=None, canary=None)

    def _brake(self, service: str, version: str) -> ServiceStatus:
        def nothing(state: ServiceState) -> ServiceState:
            return with_share(state, version, percent=0.0) if _refuse_if_stable(state, version) else state

        problem = self._way_out.pull(service, nothing)
        self._gateway.confirm("routes")
        if problem is not None:
            raise problem
        return self.status(service)

    def renew(self, service: str, version: str) -> Lapse | None:
        """Marks the time in a file of the service's own, which takes no room on the disk and waits for no lock."""
        state = self._store.read(service)
        if state.canary is None or state.canary.revision.version != version:
            return None
        if state.leased is not None:
            self._leases.renew(service)
        return state.canary.lapse

    def promote(self, service: str, version: str, *, replacing: str | None = None) -> ServiceStatus:
        """Switch the routes, drain and stop the previous revision."""
        definition = self._definition(service)
        if not _is_stable(self._store.read(service), version):
            command = self._lifecycle.strengthen(service, version, definition)
            with self._store.changing(service) as state:
                _require_current(state, version, command)
                stable = state.stable.version if state.stable else None
                if problem := not_replaced(service, version, stable=stable, replacing=replacing):
                    raise ServingError(problem)
                if lapse := state.canary_of(version).lapse:
                    raise ServingError(lapsed_meanwhile(service, lapse))
                self._store.write(promoted(state, version))
        self._gateway.publish("routes")
        return self._settle(service)

    def roll_back(self, service: str, version: str) -> ServiceStatus:
        """Routes first, then the processes."""
        problem = self._way_out.pull(service, lambda state: rolled_back(state, version))
        if problem is not None:
            raise problem
        return self._settle(service)

    def counters(self, service: str) -> Counters:
        """From the gateway's statistics; see `counting` for what counts as an error."""
        state, at = self._store.read(service), datetime.now(UTC)
        try:
            reading = read(self._gateway.admin, stats_pattern(state))
        except ServingError as error:
            raise NotMeasured(f"counters of {service}: {error}") from error
        return _counters(state, reading, at)

    def all_counters(self, services: Iterable[str]) -> Mapping[str, Counters | RampgateError]:
        """One reading for all: each costs the gateway a search through the statistics of all services."""
        at = datetime.now(UTC)
        try:
            reading = read(self._gateway.admin, EVERY_STATISTIC)
        except ServingError as error:
            return {service: NotMeasured(f"counters of {service}: {error}") for service in services}
        return one_by_one(lambda service: _counters(self._store.read(service), reading, at), services)

    def predict(self, service: str, version: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """One pinned request through the gateway, in no revision's counters."""
        state = self._store.read(service)
        return self._gateway.probe(state, _running(state, version), request)

    def _give(self, service: str, version: str, share: _Share) -> ServiceStatus:
        """Start what the share needs, then give it, unless somebody decided otherwise meanwhile."""
        definition = self._definition(service)
        command = self._lifecycle.strengthen(service, version, definition)
        with self._store.changing(service) as state:
            canary = state.canary_of(version)
            held = share.holds_for(canary)
            if not held:
                _require_current(state, version, command)
                _require_expected(service, canary, share)
            self._begin_lease(service, share)
            if not held:
                self._store.write(share.given(state, version))
            self._gateway.publish("routes")
        self._gateway.confirm("routes")
        return self.status(service)

    def _begin_lease(self, service: str, share: _Share) -> None:
        if share.lapses:
            self._leases.renew(service)
        else:
            self._leases.end(service)

    def _settle(self, service: str) -> ServiceStatus:
        self._leases.end(service)
        self._gateway.confirm("routes")
        self._lifecycle.retire(service)
        return self.status(service)

    def _definition(self, service: str) -> ServiceDefinition:
        if service not in self._models:
            known = ", ".join(sorted(self._models)) or "none"
            raise ServingError(f"no InferenceService {service!r}; there are: {known}")
        return ServiceDefinition.of(self._models[service])


def _counters(state: ServiceState, reading: Reading, at: datetime) -> Counters:
    """A service's part of it."""
    start = reading.start
    only = GatewayCounters(
        instance=start.instance,
        at=at,
        started=None if start.age is None else at - start.age,
        revisions=count(state, reading.stats),
    )
    return Counters(at=at, gateways=(only,))


def _is_stable(state: ServiceState, version: str) -> bool:
    return state.stable is not None and state.stable.version == version


def _refuse_if_stable(state: ServiceState, version: str) -> bool:
    """Whether `version` is the canary; taking the stable revision's traffic away is refused."""
    if state.canary is not None and state.canary.revision.version == version:
        return True
    if _is_stable(state, version):
        raise ServingError(f"{state.service}: version {version} is the stable revision, not the canary")
    return False


def _require_current(state: ServiceState, version: str, command: int) -> None:
    canary = state.canary_of(version)
    if canary.command != command:
        raise ServingError(
            f"{state.service}: version {version} was given {canary.percent:g} % by another command meanwhile"
        )


def _require_expected(service: str, canary: DesiredCanary, share: _Share) -> None:
    version = canary.revision.version
    problem = overtaken(
        service, version, share=canary.percent, expected=share.expected, percent=share.percent
    )
    if problem:
        raise ServingError(problem)


def _running(state: ServiceState, version: str) -> Deployed:
    live = [state.canary.revision] if state.canary else []
    live += [state.stable] if state.stable else []
    for revision in live:
        if revision.version == version:
            return revision
    raise ServingError(f"{state.service}: version {version} is not deployed")
