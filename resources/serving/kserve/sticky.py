"""`ServingBackend` with the sticky gateway in front of KServe.

The gateway splits; KServe's own split stays neutral: a canary keeps 0 % there until it is promoted. A share is an
assignment (`assignment`), which the gateway's sidecars follow, and a call returns when every pod does what it says.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pipelines.core.errors import NotMeasured, RampgateError, ServingError
from resources.serving.contract import (
    Capabilities,
    Counters,
    Lapse,
    ModelArtefact,
    RevisionStatus,
    ServiceStatus,
    lapsed_meanwhile,
    not_replaced,
    one_by_one,
    overtaken,
    version_of,
)
from resources.serving.envoy.description import TOTAL_WEIGHT
from resources.serving.kserve.assignment import Assignment, Assignments
from resources.serving.kserve.backend import KServeBackend, status_of
from resources.serving.kserve.gateways import Gateways, Report
from resources.serving.kserve.identity import Identity
from resources.serving.kserve.knative import KnativeView
from resources.serving.kserve.split import Split, canary_identity, deployment, split
from resources.serving.kserve.standard import StandardView

_LOG = logging.getLogger(__name__)


class _Look(NamedTuple):
    """What the cluster says of a service."""

    view: KnativeView | StandardView
    there: Assignment | None
    wanted: Split | None


@dataclass(frozen=True, kw_only=True, eq=False)
class StickyBackend:
    """Rollouts in one namespace, behind one gateway."""

    kserve: KServeBackend
    assignments: Assignments
    gateways: Gateways
    patience: float = 30.0
    """Seconds for the gateway to do what it should."""
    poll: float = 0.02

    def capabilities(self, service: str) -> Capabilities:
        """Everything, if every pod of the gateway answers now; else no more than KServe alone."""
        reports = self.gateways.reports()
        there = bool(reports) and not any(report.error for report in reports)
        leases = there and all(report.lapsed is not None for report in reports)
        return Capabilities(sticky=there, mirror=there, percent_step=0.01 if there else 1.0, lease=leases)

    def status(self, service: str) -> ServiceStatus:
        """What KServe runs, with the shares that the gateway gives: the largest that any pod gives a canary.

        A lapse is told as soon as one pod has taken the share away; where another one has not, that one's is the largest.
        """
        return self._status(self._look(service), self.gateways.reports())

    def deploy_canary(
        self, service: str, artefact: ModelArtefact, *, percent: float, salt: str, mirror: bool = False
    ) -> ServiceStatus:
        """Start the version at 0 %, wait until it is ready, then give it its share."""
        _check(service, percent)
        identity = self._identity(service, artefact, salt)
        if self._occupied(service, identity):  # KServe says by what, before anything of ours is changed
            self.kserve.deploy_canary(service, artefact, percent=0, salt=identity.salt)
        begun = self.assignments.change(service, lambda there: _begun(service, identity, salt, there))
        self.kserve.deploy_canary(service, artefact, percent=0, salt=identity.salt)
        if percent > 0 and self._is_canary(service, artefact.version):
            self.kserve.hold(service, artefact.version, percent)

        def give(there: Assignment | None) -> Assignment | None:
            share = {"percent": float(percent), "mirror": mirror, "salt": salt}
            given = None if there is None else replace(there, leased=True, **share)
            if there is None or given is None or begun is None or not _may_give(begun, there, given):
                raise ServingError(
                    f"{service}: version {artefact.version} was rolled back while it was deployed"
                )
            # A command of its own begins the lease of what is given, and ends a lapse.
            return replace(given, command=there.command + 1) if given.lapses else given

        self.assignments.change(service, give)
        return self._given(service) if percent > 0 or mirror else self._confirmed(service)

    def renew(self, service: str, version: str) -> Lapse | None:
        """Asks the gateway's pods alone, all at the same time. Where one of them has taken the share away, it has lapsed."""
        return self.gateways.renew(service, version)

    def set_canary_percent(
        self,
        service: str,
        version: str,
        percent: float,
        *,
        expected: float | None = None,
        leased: bool = True,
    ) -> ServiceStatus:
        """Give the canary this share; mirroring ends. 0 changes the gateway first and asks nobody before."""
        _check(service, percent)
        if percent > 0:
            self.kserve.hold(service, version, percent)
        reports = self.gateways.reports() if percent > 0 and expected is not None else []

        def give(there: Assignment | None) -> Assignment | None:
            if there is not None and there.version == version:
                share = 0.0 if _lapse(reports, service, there) else there.percent
                if problem := overtaken(service, version, share=share, expected=expected, percent=percent):
                    raise ServingError(problem)
            return _commanded(there, version, percent, leased=leased)

        there = self.assignments.change(service, give)
        if there is None or there.version != version:
            self._unassigned(service, version, percent, leased=leased)
        status = self._given(service) if percent > 0 else self._confirmed(service)
        if percent == 0 and status.stable is not None and status.stable.version == version:
            raise ServingError(f"{service}: version {version} is the stable revision, not the canary")
        return status

    def promote(self, service: str, version: str, *, replacing: str | None = None) -> ServiceStatus:
        """Everything to the version at the gateway, then at KServe, which retires the previous one."""
        stable = version_of(self.kserve.status(service).stable)
        if problem := not_replaced(service, version, stable=stable, replacing=replacing):
            raise ServingError(problem)
        if self._is_canary(service, version):
            self.kserve.hold(service, version, 100)
            reports = self.gateways.reports()

            def everything(there: Assignment | None) -> Assignment | None:
                if lapse := _lapse(reports, service, there):
                    raise ServingError(lapsed_meanwhile(service, lapse))
                # What bakes has no lease, and gets none before the previous one has gone.
                leased = there is None or there.leased
                return _commanded(there, version, 100, leased=leased)

            self.assignments.change(service, everything)
            self._given(service)
        self.kserve.promote(service, version, replacing=replacing)
        return self._confirmed(service)

    def roll_back(self, service: str, version: str) -> ServiceStatus:
        """Traffic away at the gateway, then KServe restores the spec; no-op where the version is gone."""
        there = self.assignments.change(service, lambda there: _commanded(there, version, 0))
        if there is not None and there.version == version:
            self._try_to_confirm(service)
        self.kserve.roll_back(service, version)
        return self._confirmed(service)

    def counters(self, service: str) -> Counters:
        """What each of the gateway's pods counted. Raises NotMeasured where not one of them answers."""
        if not self.kserve.observe(service).exists:
            raise NotMeasured(f"{service}: there is no such InferenceService")
        return self.gateways.counters(service)

    def all_counters(self, services: Iterable[str]) -> Mapping[str, Counters | RampgateError]:
        """Of each service by itself."""
        return one_by_one(self.counters, services)

    def predict(self, service: str, version: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send one request to that version, past the weights."""
        wanted = self._look(service).wanted
        parts = [part for part in (wanted.parts if wanted else ()) if part.version == version]
        if wanted is None or not parts:
            raise ServingError(f"{service}: no revision serves version {version}")
        return self.gateways.probe(service, parts[-1].name, request, timeout_ms=wanted.timeout_ms)

    def _look(self, service: str) -> _Look:
        view, there = self.kserve.observe(service), self.assignments.read(service)
        return _Look(view, there, split(view, there))

    def _status(self, look: _Look, reports: Sequence[Report]) -> ServiceStatus:
        found, wanted, service = status_of(look.view), look.wanted, look.view.service
        if wanted is None:
            return found
        weights = [wanted.weight]
        reported = [report.splits.get(service) for report in reports]
        lapse = _lapse(reports, service, look.there)
        weights = [each.weight if each.canary else 0 for each in reported if each] or weights
        share = max(weights) / TOTAL_WEIGHT * 100
        return replace(
            found,
            stable=_with(found.stable, 100 - share if wanted.canary else 100),
            canary=_with(found.canary, share if wanted.canary else 0),
            salt=wanted.salt or found.salt,
            mirror=wanted.mirror and lapse is None,
            lapse=lapse,
        )

    def _confirmed(self, service: str) -> ServiceStatus:
        """Wait until every pod does what the cluster says now. Raises ServingError naming the one that does not."""
        deadline, pause = time.monotonic() + self.patience, self.poll
        while True:
            look, reports = self._look(service), self.gateways.reports()
            behind = [why for each in reports if (why := each.behind(service, look.wanted, look.there))]
            if not behind:
                return self._status(look, reports)
            if time.monotonic() > deadline:
                raise ServingError(f"{service}: {behind[0]} (after {self.patience:g} s)")
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)

    def _given(self, service: str) -> ServiceStatus:
        """Confirmed, and not taken away again meanwhile: whoever waited for a slow pod longer than the lease is told."""
        status = self._confirmed(service)
        if status.lapse is not None:
            raise ServingError(lapsed_meanwhile(service, status.lapse))
        return status

    def _try_to_confirm(self, service: str) -> None:
        """A pod of the gateway that does not listen must not keep KServe from removing the version: without its
        replicas that pod falls over to the stable revision. The last confirmation of the call still fails.
        """
        try:
            self._confirmed(service)
        except ServingError as error:
            _LOG.warning("%s; rolling back all the same", error)

    def _unassigned(self, service: str, version: str, percent: float, *, leased: bool) -> None:
        """A canary from before there was a gateway, or one that KServe itself is giving traffic to."""
        if percent == 0:
            self.kserve.set_canary_percent(service, version, 0)
            return
        view = self.kserve.observe(service)
        made = _new(service, canary_identity(view), canary_identity(view).salt)
        self.assignments.change(service, lambda there: replace(made, percent=float(percent), leased=leased))

    def _is_canary(self, service: str, version: str) -> bool:
        canary = status_of(self.kserve.observe(service)).canary
        return canary is not None and canary.version == version

    def _occupied(self, service: str, identity: Identity) -> bool:
        view = self.kserve.observe(service)
        return status_of(view).canary is not None and canary_identity(view).key != identity.key

    def _identity(self, service: str, artefact: ModelArtefact, salt: str) -> Identity:
        """The running deployment of this artefact, whatever its salt, or the one that is to be made."""
        there = canary_identity(self.kserve.observe(service))
        if (there.version, there.digest) == (artefact.version, artefact.digest):
            return there
        return Identity(version=artefact.version, digest=artefact.digest, salt=salt, uri=artefact.uri)


def _begun(service: str, identity: Identity, salt: str, there: Assignment | None) -> Assignment:
    if there is not None and there.revision == deployment(service, identity):
        return there
    return _new(service, identity, salt)


def _new(service: str, identity: Identity, salt: str) -> Assignment:
    return Assignment(
        revision=deployment(service, identity), version=identity.version, percent=0.0, salt=salt
    )


def _commanded(
    there: Assignment | None, version: str, percent: float, *, leased: bool = True
) -> Assignment | None:
    if there is None or there.version != version:
        return None
    command = there.command + 1
    return replace(there, percent=float(percent), mirror=False, command=command, leased=leased)


def _may_give(begun: Assignment, there: Assignment, given: Assignment) -> bool:
    """Whether nobody else has commanded meanwhile, or has given just this: a second controller that deploys."""
    if there.revision != begun.revision:
        return False
    return there.command == begun.command or (given.lapses and there == given)


def _lapse(reports: Iterable[Report], service: str, there: Assignment | None) -> Lapse | None:
    """What a pod has taken away of this assignment."""
    return next((lapse for each in reports if (lapse := each.lapse(service, there))), None)


def _with(revision: RevisionStatus | None, percent: float) -> RevisionStatus | None:
    return replace(revision, percent=round(percent, 2)) if revision else None


def _check(service: str, percent: float) -> None:
    if not 0 <= percent <= 100 or percent * 100 != round(percent * 100):
        raise ServingError(f"{service}: percent {percent} cannot be set; allowed: 0 to 100 in steps of 0.01")
