"""What to do next to a service in Knative mode. Pure: an observation in, one step out.

A step depends on nothing but what is observed, so a sequence can be resumed after a crash at any point, by
anybody. The order of the patches is what keeps traffic off a version: a canary is started at an explicit 0 %
(KServe would otherwise give it its share whenever it becomes ready, with nobody watching any more), and a
rollback first moves the weight, then restores the spec with the weight still held at 0 %, and drops the percent only
when the restored revision is the ready one.
"""

from typing import Any

from resources.serving.kserve.identity import NOBODY, Identity, Restore, owned
from resources.serving.kserve.knative_view import KnativeView
from resources.serving.kserve.steps import Create, Delete, Done, Patch, Patience, Refuse, Step, Wait, Wanted


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
            return Done()
        return Refuse(f"{view.service}: version {version} is not the canary (that is {_named(view.spec)})")
    if view.unpromoted and not view.previous:
        return Done() if percent == 100 else Refuse(f"{view.service}: nothing else than {version} can serve")
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
        return Done()
    if view.carries_stable:
        return Refuse(f"{view.service}: version {version} is promoted; roll it back instead")
    return _not_live(view) or Done()


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
        return Done()
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
        return Done()
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
    return Done()


def _finish(view: KnativeView) -> Step:
    """Towards: what the spec carries is rolled out at 100 %, and the spec carries no percent."""
    if not view.taken or view.created != view.ready:
        reason = f"{_named(view.spec)} is not ready"
        return Wait(patience=Patience.MODEL, reason=reason, failure=view.failure)
    if view.percent is not None:
        return Patch(spec=_percent(None), why=f"roll out {_named(view.spec)}")
    if view.rolledout != view.created or view.traffic.get(view.created, 0) != 100:
        return Wait(patience=Patience.TRAFFIC, reason=f"{view.created} is not at 100 %")
    return Done()


def _rolled_back(view: KnativeView, version: str) -> Step:
    """The spec is no longer the version's: finish what is left of its rollback."""
    if view.restoring:
        return _finish(view)
    if view.identity(view.rolledout).version != version:
        return Done()
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
