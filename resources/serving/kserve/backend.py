"""`ServingBackend` on a real KServe, in Knative or Standard mode."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipelines.core.errors import NotMeasured, RampgateError, ServingError
from resources.prediction_log.sink import tokens
from resources.serving.contract import (
    Capabilities,
    Counters,
    ModelArtefact,
    ServiceStatus,
    one_by_one,
    prediction,
)
from resources.serving.kserve import knative, service, standard
from resources.serving.kserve.client import Cluster, NotThere
from resources.serving.kserve.commit_back import CommitBack, commit_quietly
from resources.serving.kserve.driver import PlanDriver, Step, Timing, Wanted
from resources.serving.kserve.identity import Identity, checked_storage_uri, logger
from resources.serving.kserve.knative import KnativeView
from resources.serving.kserve.observe import Deployment, Observers, Promotion, Share
from resources.serving.kserve.prometheus import Measured, Prometheus
from resources.serving.kserve.service import (
    DeploymentMode,
    Installation,
    check_split,
    detect,
    read_installation,
)
from resources.serving.kserve.standard import StandardView
from resources.settings import certificates


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Sends probes. With an `ingress`, requests go there under the host name that it routes by."""

    ingress: str = ""
    """Base URL of the ingress gateway; empty: host names resolve, as they do inside the cluster."""
    timeout: float = 10.0

    def send(self, url: str, model: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """POST /v2/models/<model>/infer. Raises as `ServingBackend.predict` does."""
        host = urlsplit(url).netloc
        target = f"{(self.ingress or url).rstrip('/')}/v2/models/{model}/infer"
        headers = {"x-assignment": "pinned"}
        if self.ingress:
            headers["host"] = host
        try:
            answer = httpx.post(
                target, json=dict(request), headers=headers, timeout=self.timeout, verify=certificates()
            )
        except httpx.HTTPError as error:
            raise ServingError(f"{target} ({host}): {error}") from error
        return prediction(f"{target} ({host})", answer)


# `ServingBackend` on a real KServe, in Knative or Standard mode.


@dataclass(frozen=True, kw_only=True, eq=False)
class KServeBackend:
    """Rollouts in one namespace of a cluster."""

    cluster: Cluster
    manifests: service.Manifests
    """Where a first rollout gets the InferenceService from."""
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Service -> what may run code when its model is loaded; nothing where it is not named."""
    prometheus: Prometheus | None = None
    """Where counters come from; without it they are not measured."""
    probe: Probe = Probe()
    logger_url: str = ""
    """The prediction log's sink; where set, KServe's payload logger is switched on with every version, and sends the
    model's own token in place of the password in it."""
    installation: Installation | None = None
    """In place of reading KServe's config map, where that may not be read."""
    kserve_namespace: str = "kserve"
    commit_back: CommitBack | None = None
    """Where promoted versions are written down for GitOps."""
    timing: Timing = Timing()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = field(default=time.sleep)

    def capabilities(self, service: str) -> Capabilities:
        """Whole percents: KServe's own split is per request, and it cannot mirror. See `sticky` for more."""
        return Capabilities(sticky=False, mirror=False, percent_step=1.0)

    def status(self, service: str) -> ServiceStatus:
        """What is in force now."""
        return status_of(self.observe(service))

    def deploy_canary(
        self, service: str, artefact: ModelArtefact, *, percent: float, salt: str, mirror: bool = False
    ) -> ServiceStatus:
        """Start the version at 0 %, wait until it is ready, then give it `percent`."""
        if mirror:
            raise ServingError(
                f"{service}: KServe cannot mirror traffic; that takes the sticky gateway (docs/kubernetes.md)"
            )
        uri = checked_storage_uri(artefact.uri)
        share = _whole(service, percent)
        allow = ",".join(self.allow.get(service, ()))
        identity = Identity(version=artefact.version, digest=artefact.digest, salt=salt, uri=uri, allow=allow)
        extra = {"logger": logger(tokens.url_for(self.logger_url, service))} if self.logger_url else {}
        deployment = Deployment(Wanted(extra, artefact.version, artefact.digest, salt, uri, share, allow))
        return self._run(
            service,
            deployment.on_knative,
            deployment.on_standard,
            create=lambda: self._create(service, identity, extra),
        )

    def set_canary_percent(
        self,
        service: str,
        version: str,
        percent: float,
        *,
        expected: float | None = None,
        leased: bool = True,
    ) -> ServiceStatus:
        """Give the canary this share; 0 is patched whatever state its model is in. Nothing of KServe takes it away."""
        share = Share(version, _whole(service, percent), expected)
        return self._run(service, share.on_knative, share.on_standard)

    def renew(self, service: str, version: str) -> None:
        """Nothing lapses: KServe's own split is looked at by nobody but the rollout. See `sticky` for leases."""

    def hold(self, service: str, version: str, percent: float) -> ServiceStatus:
        """Make the canary fit for a share that a gateway gives it; KServe's own split stays neutral."""
        return self._run(
            service,
            lambda view: knative.hold(view, version),
            lambda view: standard.hold(view, version, percent),
        )

    def promote(self, service: str, version: str, *, replacing: str | None = None) -> ServiceStatus:
        """Make the version the stable one, and leave a spec that carries no trace of a canary."""
        promotion = Promotion(version, replacing)
        status = self._run(service, promotion.on_knative, promotion.on_standard)
        if self.commit_back is not None:
            commit_quietly(self.commit_back, service, self.cluster.read(service))
        return status

    def roll_back(self, service: str, version: str) -> ServiceStatus:
        """Traffic first, then the spec; no-op where the version is gone."""
        return self._run(
            service,
            lambda view: knative.roll_back(view, version),
            lambda view: standard.roll_back(view, version),
        )

    def counters(self, service: str) -> Counters:
        """Cumulative counts of the stable and the canary revision since the canary's revision began."""
        if self.prometheus is None:
            raise NotMeasured(f"{service}: no Prometheus is configured (RAMPGATE_PROMETHEUS_URL)")
        view = self.observe(service)
        if not view.exists:
            raise NotMeasured(f"{service}: there is no such InferenceService")
        mode = DeploymentMode.KNATIVE if isinstance(view, KnativeView) else DeploymentMode.STANDARD
        now = self.status(service)
        revisions = {each.name: each.version for each in (now.stable, now.canary) if each and each.name}
        since = self._observers(service).since(view, now.canary or now.stable)
        return self.prometheus.counters(
            Measured(service, self.cluster.namespace, mode, revisions, since=since)
        )

    def all_counters(self, services: Iterable[str]) -> Mapping[str, Counters | RampgateError]:
        """Of each service by itself."""
        return one_by_one(self.counters, services)

    def predict(self, service: str, version: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send one request to that version: by its traffic tag, or by its own Service."""
        now = self.status(service)
        known = [each for each in (now.canary, now.stable) if each and each.name and each.version == version]
        if not known:
            raise ServingError(f"{service}: no revision serves version {version}")
        view = self.observe(service)
        host = f"http://{known[0].name}.{self.cluster.namespace}.svc.cluster.local"
        hosts = view.hosts if isinstance(view, KnativeView) else {}
        return self.probe.send(hosts.get(known[0].name, host), service, request)

    def _run(
        self,
        name: str,
        on_knative: Callable[[KnativeView], Step],
        on_standard: Callable[[StandardView], Step],
        *,
        create: Callable[[], None] | None = None,
    ) -> ServiceStatus:
        def plan(view: KnativeView | StandardView) -> Step:
            return on_knative(view) if isinstance(view, KnativeView) else on_standard(view)

        def nothing() -> None:
            raise ServingError(f"{name}: there is no such InferenceService")

        driver = PlanDriver(
            self.cluster, name, create or nothing, self.timing, clock=self.clock, sleep=self.sleep
        )
        observers = self._observers(name)
        view = driver.run(lambda: observers.observe(splitting=True), plan)
        return status_of(view)

    def observe(self, service: str) -> KnativeView | StandardView:
        """One observation of everything that the cluster says about a service."""
        return self._observers(service).observe()[0]

    def _observers(self, name: str) -> Observers:
        return Observers(self.cluster, name, self._installed)

    def _create(self, name: str, identity: Identity, extra: Mapping[str, Any]) -> None:
        manifest = self.manifests(name)
        installed = self._installed()
        mode = detect({**manifest, "status": {}}, installed)
        check_split(name, mode, installed)
        self.cluster.create(service.build(manifest, name, self.cluster.namespace, mode, identity, extra))

    def _installed(self) -> Installation:
        if self.installation is not None:
            return self.installation
        try:
            found = self.cluster.config_map(self.kserve_namespace, "inferenceservice-config")
        except NotThere as missing:
            raise ServingError(
                f"KServe is not installed in namespace {self.kserve_namespace}: {missing}"
            ) from missing
        return read_installation(found)


def status_of(view: KnativeView | StandardView) -> ServiceStatus:
    """An observation in the words of the serving contract."""
    return knative.status(view) if isinstance(view, KnativeView) else standard.status(view)


def _whole(service: str, percent: float) -> int:
    if percent != int(percent) or not 0 <= percent <= 100:
        raise ServingError(
            f"{service}: percent {percent} cannot be set; allowed: whole numbers from 0 to 100"
        )
    return int(percent)
