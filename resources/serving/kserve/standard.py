"""What to do next to a service in Standard mode. Pure: an observation in, one step out.

A canary is a Deployment of its own, started at 0 % with its replicas set (at 0 % KServe would start none), given
replicas before weight, and promoted by taking over its name, so that its pods never restart. After a
promotion the old Deployment is gone: going back means starting the old version as a canary first.
"""

import math
from collections.abc import Mapping
from typing import Any

from resources.serving.kserve.identity import Identity, Restore, owned
from resources.serving.kserve.standard_view import Canary, StandardView
from resources.serving.kserve.steps import Create, Delete, Done, Patch, Patience, Refuse, Step, Wait, Wanted


def deploy(view: StandardView, wanted: Wanted) -> Step:
    """Towards: the version is the canary, ready, at the wanted percent."""
    if not view.exists:
        return Create()
    if view.spec.version == wanted.version:
        return _ready(view, view.stable_backend, 1) or Done()
    if view.foreign:
        return Refuse(
            f"{view.service}: spec.canary holds entries of somebody else: {', '.join(view.foreign)}"
        )
    identity = wanted.identity
    if not view.spec.uri:
        predictor = {**owned(view.service, identity), **wanted.predictor, "name": identity.label}
        return Patch(spec={"predictor": predictor}, why=f"start {wanted.version}")
    if view.canary is None:
        restore = Restore(identity=view.spec, revision=view.stable_backend)
        return _add(view, identity, restore, wanted.predictor)
    if view.canary.identity.key != identity.key:
        return Refuse(
            f"{view.service}: version {view.canary.identity.version} is the canary of another rollout; "
            "promote it or roll it back first"
        )
    return _ready(view, view.canary_backend, 1) or _weigh(view, view.canary, wanted.percent)


def set_percent(view: StandardView, version: str, percent: int) -> Step:
    """Towards: the canary has this share. 0 is patched whatever state the model is in."""
    if view.canary is None or view.canary.identity.version != version:
        gone = view.spec.version != version
        if percent == 0 and gone:
            return Done()
        if gone:
            return Refuse(f"{view.service}: version {version} is not the canary")
        return Refuse(f"{view.service}: version {version} is promoted; roll it back instead")
    return _weigh(view, view.canary, percent)


def hold(view: StandardView, version: str, percent: float) -> Step:
    """Towards: the canary can take this share from a gateway. KServe's own weights stay as they are."""
    if view.canary is None or view.canary.identity.version != version:
        promoted = view.spec.version == version
        why = "is promoted; roll it back instead" if promoted else "is not the canary"
        return Refuse(f"{view.service}: version {version} {why}")
    needed = max(1, math.ceil(view.replicas * percent / 100))
    if view.canary.replicas < needed:
        return _change(view.canary, percent=view.canary.percent, replicas=needed)
    return _ready(view, view.canary_backend, needed) or Done()


def promote(view: StandardView, version: str) -> Step:
    """Towards: the version is the stable predictor, alone."""
    if view.exists and view.spec.version == version:
        return _alone(view)
    if view.canary is None or view.canary.identity.version != version:
        return Refuse(f"{view.service}: version {version} is not the canary")
    step = _weigh(view, view.canary, 100)
    return step if not isinstance(step, Done) else _swap(view.canary, f"promote {version}")


def roll_back(view: StandardView, version: str) -> Step:
    """Towards: no traffic on the version, then the version before it alone."""
    if not view.exists:
        return Done()
    if view.canary is not None and view.canary.identity.version == version:
        return _withdraw(view, view.canary)
    if view.spec.version != version:
        return _gone(view, version)
    if view.restore is None:
        return _remove(view, version)
    return _take_back(view, view.restore)


def _add(
    view: StandardView, identity: Identity, restore: Restore | None, extra: Mapping[str, Any], after: str = ""
) -> Step:
    fields = owned(view.service, identity, restore=restore, restored_after=after)
    predictor = {
        **extra,
        "name": identity.label,
        "model": {**view.model, "storageUri": identity.uri},
        "annotations": fields["annotations"],
        "minReplicas": 1,
    }
    entry = {"trafficPercent": 0, "predictor": predictor}
    return Patch(spec={"canary": [entry]}, why=f"start {identity.version}")


def _weigh(view: StandardView, canary: Canary, percent: int) -> Step:
    needed = max(1, math.ceil(view.replicas * percent / 100))
    if percent > 0 and canary.replicas < needed:
        return _change(canary, percent=canary.percent, replicas=needed)
    if percent > 0:
        waiting = _ready(view, view.canary_backend, needed)
        if waiting is not None:
            return waiting
    if canary.percent != percent:
        return _change(canary, percent=percent, replicas=canary.replicas)
    if not view.routed({view.canary_backend: percent, view.stable_backend: 100 - percent}):
        return Wait(patience=Patience.TRAFFIC, reason=f"the routes do not give {canary.name} {percent} %")
    return Done()


def _change(canary: Canary, *, percent: int, replicas: int) -> Step:
    predictor = {**canary.predictor, "minReplicas": replicas}
    entry = {"trafficPercent": percent, "predictor": predictor}
    return Patch(spec={"canary": [entry]}, why=f"{canary.name}: {percent} %, {replicas} replicas")


def _swap(canary: Canary, why: str) -> Step:
    """The canary's name and pod fields become the stable ones; its pods keep running."""
    kept = {key: value for key, value in canary.predictor.items() if key != "minReplicas"}
    return Patch(spec={"predictor": kept, "canary": None}, why=why)


def _alone(view: StandardView) -> Step:
    waiting = _ready(view, view.stable_backend, 1)
    if waiting is not None:
        return waiting
    if view.canary is None and set(view.available) != {view.stable_backend}:
        return Wait(patience=Patience.TRAFFIC, reason="the retired Deployment is still there")
    if view.canary is None and not view.routed({view.stable_backend: 100}):
        return Wait(patience=Patience.TRAFFIC, reason=f"{view.stable_backend} is not at 100 %")
    return Done()


def _withdraw(view: StandardView, canary: Canary) -> Step:
    """Weight first, so that the gateway has let go of the pods before they are deleted."""
    if canary.percent != 0:
        return _change(canary, percent=0, replicas=canary.replicas)
    if view.weight(view.canary_backend) > 0:
        return Wait(patience=Patience.TRAFFIC, reason=f"traffic still reaches {canary.name}")
    return Patch(spec={"canary": None}, why=f"remove {canary.name}")


def _gone(view: StandardView, version: str) -> Step:
    """The version is not in the spec: its pods may still be going."""
    if view.canary is not None:
        return Done()
    if set(view.available) - {view.stable_backend}:
        return Wait(patience=Patience.TRAFFIC, reason=f"the Deployment of {version} is still there")
    return Done()


def _take_back(view: StandardView, restore: Restore) -> Step:
    identity = restore.identity
    if view.canary is None:
        return _add(view, identity, None, {}, after=view.spec.version)
    if view.canary.identity.key != identity.key:
        other = view.canary.identity.version
        return Refuse(
            f"{view.service}: version {other} is the canary of {view.spec.version}; roll it back first"
        )
    step = _weigh(view, view.canary, 100)
    return step if not isinstance(step, Done) else _swap(view.canary, f"restore {identity.version}")


def _remove(view: StandardView, version: str) -> Step:
    if view.managed and not view.available.get(view.stable_backend, 0):
        return Delete()
    return Refuse(f"{view.service}: no version before {version} is recorded")


def _ready(view: StandardView, name: str, replicas: int) -> Step | None:
    available = view.available.get(name, 0)
    if available >= replicas:
        return None
    reason = f"{name} has {available} of {replicas} replicas available"
    return Wait(patience=Patience.MODEL, reason=reason, failure=view.failures.get(name, ""))
