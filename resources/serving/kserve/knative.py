"""Knative mode: what is in force for a service, and what to do next to it. Pure: an observation in, one
step out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resources.serving.contract import RevisionStatus, ServiceStatus
from resources.serving.kserve.driver import (
    Create,
    Delete,
    Patch,
    Patience,
    Reached,
    Refuse,
    Step,
    Wait,
    Wanted,
)
from resources.serving.kserve.identity import (
    MANAGED,
    NOBODY,
    Identity,
    Restore,
    failed_condition,
    identity_of,
    joined,
    load_failure,
    owned,
    pod_failure,
    read_identity,
    read_restore,
    timeout_ms,
    was_restored,
)


@dataclass(frozen=True, kw_only=True)
class KnativeRevision:
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
    revisions: Mapping[str, KnativeRevision] = field(default_factory=dict[str, KnativeRevision])

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
) -> list[KnativeRevision]:
    return [_read_revision(isvc, each, pods) for each in revisions]


def _read_revision(
    isvc: Mapping[str, Any], revision: Mapping[str, Any], pods: list[Mapping[str, Any]]
) -> KnativeRevision:
    meta = revision["metadata"]
    name = str(meta["name"])
    conditions = (revision.get("status") or {}).get("conditions") or []
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    newest = ((isvc.get("status") or {}).get("components") or {}).get("predictor") or {}
    about = load_failure(isvc, name) if newest.get("latestCreatedRevision") == name else ""
    failure = "" if ready else joined(failed_condition(conditions, "Ready"), about, pod_failure(pods, name))
    return KnativeRevision(
        name=name,
        identity=identity_of(meta.get("annotations") or {}),
        ready=ready,
        created_at=str(meta.get("creationTimestamp", "")),
        failure=failure,
    )


# What to do next to a service in Knative mode. Pure: an observation in, one step out.
#
# A step depends on nothing but what is observed, so a sequence can be resumed after a crash at any point, by
# anybody. The order of the patches is what keeps traffic off a version: a canary is started at an explicit 0 %
# (KServe would otherwise give it its share whenever it becomes ready, with nobody watching any more), and a
# rollback first moves the weight, then restores the spec with the weight still held at 0 %, and drops the percent only
# when the restored revision is the ready one.


def deploy(view: KnativeView, wanted: Wanted) -> Step:
    """Towards: the version is the canary, ready, at the wanted percent."""
    if not view.exists:
        return Create()
    if view.spec.version == wanted.version:
        return _resume(view, wanted)
    if view.restoring:
        return _finish(view)
    return _unsettled(view) or _start(view, wanted)


def set_percent(view: KnativeView, version: str, percent: int) -> Step:
    """Towards: the canary has this share. 0 is patched whatever state the model is in."""
    if view.spec.version != version:
        if percent == 0 and view.share(version) == 0:
            return Reached()
        return Refuse(f"{view.service}: version {version} is not the canary (that is {_named(view.spec)})")
    if view.unpromoted and not view.previous:
        return (
            Reached() if percent == 100 else Refuse(f"{view.service}: nothing else than {version} can serve")
        )
    if view.carries_stable and view.percent is None:
        return Refuse(f"{view.service}: version {version} is promoted; roll it back instead")
    if percent > 0 and not view.unpromoted:
        obstacle = _not_live(view)
        if obstacle is not None:
            return obstacle
    return _weigh(view, version, percent)


def hold(view: KnativeView, version: str) -> Step:
    """Towards: the canary can take a share from a gateway. KServe's own weights stay as they are."""
    if view.spec.version != version:
        return Refuse(f"{view.service}: version {version} is not the canary (that is {_named(view.spec)})")
    if view.unpromoted:
        return Reached()
    if view.carries_stable:
        return Refuse(f"{view.service}: version {version} is promoted; roll it back instead")
    return _not_live(view) or Reached()


def promote(view: KnativeView, version: str) -> Step:
    """Towards: the version is the stable one, and the spec carries no percent."""
    if not view.exists or view.spec.version != version:
        return Refuse(f"{view.service}: version {version} is not the canary (that is {_named(view.spec)})")
    if not view.carries_stable:
        obstacle = _not_live(view)
        if obstacle is not None:
            return obstacle
    return _finish(view)


def roll_back(view: KnativeView, version: str) -> Step:
    """Towards: no traffic on the version, then the version before it in the spec again."""
    if not view.exists:
        return Reached()
    if view.spec.version != version:
        return _rolled_back(view, version)
    if not view.rolledout or (view.unpromoted and not view.previous):
        return _remove(view, version)
    if view.restore is None:
        return Refuse(f"{view.service}: no version before {version} is recorded")
    if view.carries_stable:
        return _unroll(view, view.restore)
    if view.percent != 0 and (view.share(version) > 0 or view.canary_live):
        return Patch(spec=_percent(0), why=f"take traffic from {version}")
    if view.share(version) > 0:
        return Wait(patience=Patience.TRAFFIC, reason=f"traffic still reaches {version}")
    restored = owned(view.service, view.restore.identity, restored_after=version)
    return Patch(spec=_template(restored, percent=0), why=f"restore {_named(view.restore.identity)}")


def _resume(view: KnativeView, wanted: Wanted) -> Step:
    if not view.rolledout:
        return Wait(patience=Patience.MODEL, reason=f"{wanted.version} is starting", failure=view.failure)
    if view.restoring:
        return _finish(view)
    if view.unpromoted and view.previous:
        return _weigh(view, wanted.version, wanted.percent)
    if view.carries_stable:
        return Reached()
    if view.spec.salt != wanted.salt:
        return Refuse(f"{view.service}: version {wanted.version} is the canary of another rollout")
    if not view.canary_live and view.percent != 0:
        return Patch(spec=_percent(0), why=f"no weight for {wanted.version} before it is ready")
    return _not_live(view) or _weigh(view, wanted.version, wanted.percent)


def _unsettled(view: KnativeView) -> Step | None:
    """Why no canary can be started now; None if one can."""
    if not view.rolledout and view.spec.version:
        return Refuse(f"{view.service}: {_named(view.spec)} is still being started; roll it back first")
    if not view.rolledout:
        return None
    if not view.carries_stable or view.unpromoted:
        return Refuse(f"{view.service}: {_named(view.spec)} is the canary; promote it or roll it back first")
    if view.percent is not None:
        return _finish(view)
    if view.created != view.rolledout:
        reason = f"{view.created} is not rolled out"
        return Wait(patience=Patience.MODEL, reason=reason, failure=view.failure)
    return None


def _start(view: KnativeView, wanted: Wanted) -> Step:
    identity = wanted.identity
    first = not view.rolledout
    restore = None if first else Restore(identity=view.spec, revision=view.rolledout)
    predictor = {**owned(view.service, identity, restore=restore), **wanted.predictor}
    return Patch(spec=_template(predictor, percent=100 if first else 0), why=f"start {wanted.version}")


def _not_live(view: KnativeView) -> Step | None:
    """Why the canary cannot be given weight; None if it can."""
    if view.restore is not None and view.rolledout != view.restore.revision:
        return Refuse(
            f"{view.service}: the stable revision changed from {view.restore.revision} to "
            f"{view.rolledout} under the canary; roll {view.spec.version} back"
        )
    if view.canary_live:
        return None
    reason = f"{view.spec.version} is not ready"
    return Wait(patience=Patience.MODEL, reason=reason, failure=view.failure)


def _weigh(view: KnativeView, version: str, percent: int) -> Step:
    if view.percent != percent:
        return Patch(spec=_percent(percent), why=f"give {version} {percent} %")
    if view.share(version) != percent or (percent == 100 and view.rolledout != view.created):
        reason = f"{version} has {view.share(version)} % instead of {percent} %"
        return Wait(patience=Patience.TRAFFIC, reason=reason)
    return Reached()


def _finish(view: KnativeView) -> Step:
    """Towards: what the spec carries is rolled out at 100 %, and the spec carries no percent."""
    if not view.taken or view.created != view.ready:
        reason = f"{_named(view.spec)} is not ready"
        return Wait(patience=Patience.MODEL, reason=reason, failure=view.failure)
    if view.percent is not None:
        return Patch(spec=_percent(None), why=f"roll out {_named(view.spec)}")
    if view.rolledout != view.created or view.traffic.get(view.created, 0) != 100:
        return Wait(patience=Patience.TRAFFIC, reason=f"{view.created} is not at 100 %")
    return Reached()


def _rolled_back(view: KnativeView, version: str) -> Step:
    """The spec is no longer the version's: finish what is left of its rollback."""
    if view.restoring:
        return _finish(view)
    if view.identity(view.rolledout).version != version:
        return Reached()
    if view.percent is None:
        return _finish(view)
    return Refuse(f"{view.service}: {_named(view.spec)} is the canary of {version}; roll that back first")


def _unroll(view: KnativeView, restore: Restore) -> Step:
    """Take a version back that is rolled out. KServe remembers one revision before it, and only that one."""
    if view.percent == 0:
        return Wait(patience=Patience.TRAFFIC, reason=f"traffic still reaches {view.rolledout}")
    if view.previous == restore.revision and view.previous in view.revisions:
        return Patch(spec=_percent(0), why=f"send traffic back to {restore.revision}")
    restored = owned(view.service, restore.identity, restored_after=view.spec.version)
    return Patch(spec=_template(restored, percent=None), why=f"roll out {_named(restore.identity)} again")


def _remove(view: KnativeView, version: str) -> Step:
    if view.managed:
        return Delete()
    return Refuse(
        f"{view.service}: version {version} is the first one, and the service is not ours to delete"
    )


def _template(predictor: dict[str, Any], *, percent: int | None) -> dict[str, Any]:
    return {"predictor": {**predictor, "canaryTrafficPercent": percent}}


def _percent(percent: int | None) -> dict[str, Any]:
    return {"predictor": {"canaryTrafficPercent": percent}}


def _named(identity: Identity) -> str:
    if identity.key == NOBODY.key:
        return identity.uri or "nothing"
    return f"version {identity.version}"
