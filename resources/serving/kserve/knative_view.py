"""What is in force for a service in Knative mode, read from the InferenceService and its revisions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resources.serving.backend import RevisionStatus, ServiceStatus
from resources.serving.kserve.failures import failed_condition, joined, load_failure, pod_failure
from resources.serving.kserve.identity import (
    MANAGED,
    NOBODY,
    Identity,
    Restore,
    identity_of,
    read_identity,
    read_restore,
    timeout_ms,
    was_restored,
)


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One Knative revision."""

    name: str
    identity: Identity
    ready: bool
    created_at: str
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class KnativeView:
    """One observation. `created`, `ready`, `rolledout`, `previous` are KServe's revision names, or empty."""

    service: str
    exists: bool = False
    managed: bool = False
    spec: Identity = NOBODY
    restore: Restore | None = None
    restored: bool = False
    """Whether a rollback put the spec's version there."""
    percent: int | None = None
    timeout_ms: int = 60_000
    """How long one request may take."""
    created: str = ""
    ready: str = ""
    rolledout: str = ""
    previous: str = ""
    traffic: Mapping[str, int] = field(default_factory=dict[str, int])
    """Revision -> percent of weighted traffic."""
    hosts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Revision -> URL of its traffic tag."""
    revisions: Mapping[str, Revision] = field(default_factory=dict[str, Revision])

    @property
    def taken(self) -> bool:
        """Whether the newest revision is the spec's: the controller has seen the last patch."""
        newest = self.revisions.get(self.created)
        return newest is not None and newest.identity.key == self.spec.key

    @property
    def carries_stable(self) -> bool:
        """Whether the spec is (again) the version that is rolled out."""
        return bool(self.rolledout) and self.identity(self.rolledout).key == self.spec.key

    @property
    def unpromoted(self) -> bool:
        """At 100 % by an explicit percent: rolled out in KServe's eyes, not yet promoted in ours."""
        return self.percent == 100 and self.carries_stable and self.created == self.rolledout

    @property
    def restoring(self) -> bool:
        """Between the two halves of a rollback: the stable version is in the spec, the weight still held at 0."""
        return self.percent == 0 and self.restored

    @property
    def canary_live(self) -> bool:
        """Whether the canary can be given weight: newest, ready, and not the stable one."""
        return self.taken and self.created == self.ready and self.created != self.rolledout

    @property
    def failure(self) -> str:
        """Why the newest revision is not ready."""
        newest = self.revisions.get(self.created)
        return newest.failure if newest is not None and self.taken else ""

    def identity(self, revision: str) -> Identity:
        """The version of a revision; nobody where the revision is gone."""
        found = self.revisions.get(revision)
        return found.identity if found else NOBODY

    def share(self, version: str) -> int:
        """Percent of weighted traffic that reaches any revision of a version."""
        return sum(p for name, p in self.traffic.items() if self.identity(name).version == version)


def read(
    service: str,
    isvc: Mapping[str, Any] | None,
    revisions: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
) -> KnativeView:
    """The observation that these objects add up to."""
    if isvc is None:
        return KnativeView(service=service)
    predictor = isvc["spec"]["predictor"]
    component = ((isvc.get("status") or {}).get("components") or {}).get("predictor") or {}
    entries = component.get("traffic") or []
    return KnativeView(
        service=service,
        exists=True,
        managed=(isvc["metadata"].get("annotations") or {}).get(MANAGED) == "true",
        spec=read_identity(predictor),
        restore=read_restore(predictor),
        restored=was_restored(predictor),
        percent=predictor.get("canaryTrafficPercent"),
        timeout_ms=timeout_ms(predictor),
        created=component.get("latestCreatedRevision", ""),
        ready=component.get("latestReadyRevision", ""),
        rolledout=component.get("latestRolledoutRevision", ""),
        previous=component.get("previousRolledoutRevision", ""),
        traffic=_shares(entries),
        hosts={entry["revisionName"]: entry["url"] for entry in entries if entry.get("url")},
        revisions={each.name: each for each in _revisions(isvc, revisions, list(pods))},
    )


def status(view: KnativeView) -> ServiceStatus:
    """The observation in the words of the serving contract."""
    if not view.exists:
        return ServiceStatus(service=view.service, stable=None, canary=None)
    if view.unpromoted:
        held = view.restore.revision if view.restore else ""
        stable = _revision(view, held) if held and held == view.previous else None
        canary: RevisionStatus | None = _revision(view, view.rolledout)
    else:
        stable = _revision(view, view.rolledout) if view.rolledout else None
        canary = None if view.carries_stable else _spec_revision(view)
    salt = view.spec.salt if canary else view.identity(view.rolledout).salt
    return ServiceStatus(service=view.service, stable=stable, canary=canary, salt=salt)


def _spec_revision(view: KnativeView) -> RevisionStatus | None:
    if view.spec.key == NOBODY.key and not view.rolledout:
        return None  # applied by hand, and nothing of it ever served
    if view.taken:
        return _revision(view, view.created)
    message = "the controller has not made a revision of it yet"
    return RevisionStatus(name="", version=view.spec.version, percent=0.0, ready=False, message=message)


def _revision(view: KnativeView, name: str) -> RevisionStatus:
    found = view.revisions.get(name)
    return RevisionStatus(
        name=name,
        version=view.identity(name).version,
        percent=float(view.traffic.get(name, 0)),
        ready=found is not None and found.ready,
        message=found.failure if found else "the revision is gone",
    )


def _shares(entries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    shares: dict[str, int] = {}
    for entry in entries:
        name = str(entry["revisionName"])
        shares[name] = shares.get(name, 0) + int(entry.get("percent") or 0)
    return shares


def _revisions(
    isvc: Mapping[str, Any], revisions: Iterable[Mapping[str, Any]], pods: list[Mapping[str, Any]]
) -> list[Revision]:
    return [_read_revision(isvc, each, pods) for each in revisions]


def _read_revision(
    isvc: Mapping[str, Any], revision: Mapping[str, Any], pods: list[Mapping[str, Any]]
) -> Revision:
    meta = revision["metadata"]
    name = str(meta["name"])
    conditions = (revision.get("status") or {}).get("conditions") or []
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    newest = ((isvc.get("status") or {}).get("components") or {}).get("predictor") or {}
    about = load_failure(isvc, name) if newest.get("latestCreatedRevision") == name else ""
    failure = "" if ready else joined(failed_condition(conditions, "Ready"), about, pod_failure(pods, name))
    return Revision(
        name=name,
        identity=identity_of(meta.get("annotations") or {}),
        ready=ready,
        created_at=str(meta.get("creationTimestamp", "")),
        failure=failure,
    )
