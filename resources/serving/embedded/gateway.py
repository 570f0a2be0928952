"""The embedded gateway: desired states -> Envoy's files -> confirmed to be in force."""

from collections.abc import Mapping
from typing import Any

import httpx

from pipelines.core.errors import ServingError
from resources.files import move
from resources.serving.contract import prediction
from resources.serving.embedded.layout import Layout, gateway_of
from resources.serving.embedded.state import PATIENCE, Deployed, ServiceState, StateStore
from resources.serving.embedded.supervisor import wait_until
from resources.serving.envoy.admin import Admin
from resources.serving.envoy.clusters import clusters
from resources.serving.envoy.description import (
    CDS,
    RDS,
    TOTAL_WEIGHT,
    Endpoint,
    GatewayRevision,
    Service,
    publish,
    published,
    published_version,
)
from resources.serving.envoy.routes import (
    PIN_HEADER,
    REVISION_HEADER,
    TOKEN_HEADER,
    give_nothing_to_the_canary,
    route_configuration,
    routes_of,
)
from resources.settings import HOST, Settings, certificates

_FILES = {"clusters": CDS, "routes": RDS}

MOST_LOG_BYTES = 64 * 1024 * 1024
"""An access log of this size becomes the former one, in place of the one before."""


class EmbeddedGateway:
    """Publishes from the states of all services, so that whoever publishes last publishes everything."""

    def __init__(self, settings: Settings, store: StateStore, *, apply_seconds: float = 5.0) -> None:
        self._gateway = gateway_of(settings)
        self.admin = Admin(self._gateway.admin)
        self._layout = Layout(settings.home)
        self._store = store
        self._apply_seconds = apply_seconds

    def publish(self, kind: str, *, instead: ServiceState | None = None) -> bool:
        """Write `clusters` or `routes`. Takes the shared lock for as long as the writing takes.

        `instead` is a service's state that takes traffic away and is not on disk yet: it is published even on a
        disk that is full, and where somebody keeps the lock. Returns whether the lock was had: where it was not,
        publish again once the state is on disk, for the other one may have published meanwhile.
        """
        token = self._layout.probe_token()
        with self._store.everything(patience=PATIENCE if instead else None) as held:
            self._write(kind, token, instead)
            return held

    def _write(self, kind: str, token: str, instead: ServiceState | None) -> None:
        """Again, where a brake that went without the lock has changed a state since it was read."""
        while True:
            before = self._store.readable()
            if kind == "clusters":
                resources = clusters([describe(state) for state in self._store.read_all()])
            else:
                resources = [self._routes(token, instead)]
            publish(self._gateway.discovery / _FILES[kind], resources, from_reserve=instead is not None)
            if instead is not None or self._store.readable() == before:
                return

    def take_away(self, service: str) -> None:
        """All that a canary gets by the published routes, where the service's own state is damaged."""
        file = self._gateway.discovery / RDS
        with self._store.everything(patience=PATIENCE):
            resources = published(file)
            for route in routes_of(resources, {service}):
                give_nothing_to_the_canary(route)
            publish(file, resources, from_reserve=True)

    def _routes(self, token: str, instead: ServiceState | None) -> dict[str, Any]:
        """A service whose state is damaged keeps its routes: it must not keep others from theirs."""
        states, damaged = self._store.readable()
        changed = {} if instead is None else {instead.service: instead}
        services = [describe(changed.get(state.service, state)) for state in states]
        configuration = route_configuration(services, probe_token=token)
        kept = routes_of(published(self._gateway.discovery / RDS), damaged)
        configuration["virtual_hosts"][0]["routes"] += kept
        return configuration

    def confirm(self, kind: str) -> None:
        """Wait until what was published last is in force. Raises `ServingError` if the gateway refuses it.

        A later publication by somebody else includes ours, so confirming theirs confirms ours.
        """
        file = self._gateway.discovery / _FILES[kind]

        def in_force() -> bool:
            return self.admin.applied_version(kind) == published_version(file)

        if not wait_until(in_force, seconds=self._apply_seconds, every=0.002):
            raise ServingError(
                f"the gateway did not apply {file} within {self._apply_seconds:g} s:"
                f" it runs version {self.admin.applied_version(kind) or 'none'},"
                f" published is {published_version(file)}; its log says why"
            )

    def active_requests(self, revision: Deployed) -> int:
        """Requests that its replicas are answering now."""
        stats = self.admin.stats(rf"^cluster\..*{revision.name}\.upstream_rq_active$")
        return sum(stats.counters.values())

    def healthy_ports(self, revision: Deployed) -> set[int]:
        """Ports of the replicas that would get traffic."""
        health = self.admin.health().get(revision.name, {})
        return {port for port in revision.ports if health.get(port, False)}

    def probe(self, state: ServiceState, revision: Deployed, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """One pinned v2 request. Raises as `ServingBackend.predict` does."""
        url = f"http://{HOST}:{self._gateway.port}/v2/models/{state.service}/infer"
        headers = {PIN_HEADER: revision.name, TOKEN_HEADER: self._layout.probe_token()}
        try:
            timeout = state.timeout_ms / 1000 + 5
            with httpx.Client(trust_env=False, timeout=timeout, verify=certificates()) as client:
                answer = client.post(url, json=dict(request), headers=headers)
        except httpx.HTTPError as error:
            raise ServingError(f"{revision.name}: no answer through the gateway at {url}: {error}") from error
        return prediction(revision.name, answer, served=answer.headers.get(REVISION_HEADER, ""))


def turn_log_over(settings: Settings) -> None:
    """Move a full access log to `<name>.1` and have the gateway begin another; no line is lost.

    Raises `ServingError` where the gateway could not be told, and OSError; the next call does what is left.
    """
    gateway = gateway_of(settings)
    log = gateway.access_log
    if log.exists() and log.stat().st_size >= MOST_LOG_BYTES:
        move(log, log.with_name(f"{log.name}.1"))
    if not log.exists():
        Admin(gateway.admin).reopen_logs()


def describe(state: ServiceState) -> Service:
    """What the gateway should do for a service."""
    canary = state.canary
    return Service(
        name=state.service,
        stable=_revision(state.stable) if state.stable else None,
        canary=_revision(canary.revision) if canary else None,
        retiring=tuple(_revision(each) for each in state.retiring),
        canary_weight=round(canary.percent * TOTAL_WEIGHT / 100) if canary else 0,
        salt=canary.salt if canary else "",
        mirror=canary.mirror if canary else False,
        timeout_ms=state.timeout_ms,
    )


def _revision(revision: Deployed) -> GatewayRevision:
    endpoints = tuple(Endpoint(host=HOST, port=port) for port in revision.ports)
    return GatewayRevision(name=revision.name, endpoints=endpoints)
