"""Which model version an InferenceService carries, where it is loaded from, and why it does not become ready.

Rollouts own `model.storageUri`, `canaryTrafficPercent` (Knative), `name` and `canary` (Standard), the logger where
one is configured, and the annotations `rampgate.io/*` of the predictor. They lie on the predictor, not on the
metadata: KServe copies both into the pod template, so whatever changes there starts a new revision.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipelines.core.errors import ServingError

PREFIX = "rampgate.io/"

NONE = "none"
"""An annotation that says nothing. They are never removed: KServe merges a canary's annotations over the stable
predictor's, so that one left out would be inherited."""

VERSION = PREFIX + "version"

DIGEST = PREFIX + "digest"

SALT = PREFIX + "salt"

REVISION = PREFIX + "revision"

ALLOW = PREFIX + "allow"
"""What may run code when the model is loaded, as in the manifest's `artefact.allow`: `pickle,custom_code`."""

RESTORE = PREFIX + "restore"

RESTORED = PREFIX + "restored-after"
"""On a version that a rollback put back: the version that it replaced."""

MANAGED = PREFIX + "managed"
"""On the metadata of a service that a rollout created, and may therefore delete."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One model version as one rollout deployed it."""

    version: str
    digest: str
    salt: str
    uri: str
    allow: str = ""
    """What may run code when it is loaded, separated by commas; nothing for a version from before this was written."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells two deployments apart; empty strings for a version that no rollout deployed."""
        return (self.version, self.digest, self.salt)

    @property
    def label(self) -> str:
        """A DNS label for this deployment, the same whenever it is computed: `v2-1f3a9c`."""
        version = re.sub(r"[^a-z0-9]+", "-", self.version.lower()).strip("-")[:20]
        return f"v{version}-{hashlib.sha256(f'{self.salt}{self.uri}'.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, kw_only=True)
class Restore:
    """What was stable when a canary started, kept on the canary itself."""

    identity: Identity
    revision: str
    """The cluster's name of the stable revision."""


NOBODY = Identity(version="", digest="", salt="", uri="")


def read_identity(predictor: Mapping[str, Any]) -> Identity:
    """The version in a predictor's spec."""
    return identity_of(predictor.get("annotations") or {}, uri=model_uri(predictor))


def identity_of(annotations: Mapping[str, str], *, uri: str = "") -> Identity:
    """The version that annotations name."""
    return Identity(
        version=_value(annotations, VERSION),
        digest=_value(annotations, DIGEST),
        salt=_value(annotations, SALT),
        uri=uri,
        allow=_value(annotations, ALLOW),
    )


def read_restore(predictor: Mapping[str, Any]) -> Restore | None:
    """What to go back to, None where nothing was stable before."""
    text = _value(predictor.get("annotations") or {}, RESTORE)
    if not text:
        return None
    data = json.loads(text)
    revision = data.pop("revision")
    return Restore(identity=Identity(**data), revision=revision)


def was_restored(predictor: Mapping[str, Any]) -> bool:
    """Whether a rollback put this version there."""
    return bool(_value(predictor.get("annotations") or {}, RESTORED))


def is_ours(predictor: Mapping[str, Any]) -> bool:
    """Whether a rollout wrote this predictor."""
    return any(key.startswith(PREFIX) for key in predictor.get("annotations") or {})


def model_uri(predictor: Mapping[str, Any]) -> str:
    """`model.storageUri`, empty where there is none."""
    return str((predictor.get("model") or {}).get("storageUri") or "")


def timeout_ms(predictor: Mapping[str, Any]) -> int:
    """`timeout`, which KServe has in seconds; 60 s where there is none."""
    return round(float(predictor.get("timeout") or 60) * 1000)


def owned(
    service: str, identity: Identity, *, restore: Restore | None = None, restored_after: str = ""
) -> dict[str, Any]:
    """The owned fields of a predictor as a merge patch (a null storageUri removes it)."""
    annotations = {
        VERSION: identity.version or NONE,
        DIGEST: identity.digest or NONE,
        SALT: identity.salt or NONE,
        ALLOW: identity.allow or NONE,
        REVISION: f"{service}-{identity.label}" if identity.version else NONE,
        RESTORE: _encode(restore) if restore else NONE,
        RESTORED: restored_after or NONE,
    }
    return {"model": {"storageUri": identity.uri or None}, "annotations": annotations}


def logger(url: str) -> dict[str, Any]:
    """KServe's payload logger, so that version and unit id are in the prediction log."""
    return {
        "url": url,
        "mode": "all",
        "metadataHeaders": ["x-unit-id", "x-request-id", "x-call-id", "x-assignment"],
        "metadataAnnotations": [VERSION, REVISION],
    }


def _value(annotations: Mapping[str, str], key: str) -> str:
    value = annotations.get(key, NONE)
    return "" if value == NONE else value


def _encode(restore: Restore) -> str:
    identity = restore.identity
    data = {
        "version": identity.version,
        "digest": identity.digest,
        "salt": identity.salt,
        "uri": identity.uri,
        "allow": identity.allow,
        "revision": restore.revision,
    }
    return json.dumps(data, sort_keys=True)


# Which artefact locations a cluster can load a model from.


SCHEMES = ("abfs", "gs", "https", "pvc", "s3")


def checked_storage_uri(uri: str) -> str:
    """The URI, if KServe's storage initializer can fetch it. Raises ServingError for anything else."""
    scheme = urlsplit(uri).scheme
    if scheme in SCHEMES:
        return uri
    allowed = ", ".join(f"{name}://" for name in SCHEMES)
    raise ServingError(f"storageUri: {uri!r} cannot be loaded by a cluster{_why(scheme)}; allowed: {allowed}")


def _why(scheme: str) -> str:
    if scheme in ("", "file"):
        return " (it lies on one machine: give MLflow an artifact root on object storage or a volume)"
    if scheme == "mlflow-artifacts":
        return (
            " (only MLflow's proxy can read it: start MLflow with --no-serve-artifacts and an artifact root)"
        )
    if scheme == "models":
        return " (it is a registry name: resolve it with get_model_version_download_uri)"
    return ""


# Why a model does not become ready, in the cluster's own words.


_STUCK = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}


def failed_condition(conditions: Iterable[Mapping[str, Any]], kind: str, *, status: str = "False") -> str:
    """`reason: message` of a condition in this status, empty where it is in another."""
    for condition in conditions:
        if condition.get("type") == kind and condition.get("status") == status:
            return _sentence(condition.get("reason"), condition.get("message"))
    return ""


def load_failure(isvc: Mapping[str, Any], revision: str) -> str:
    """`status.modelStatus.lastFailureInfo`, if it is about this revision."""
    info = ((isvc.get("status") or {}).get("modelStatus") or {}).get("lastFailureInfo") or {}
    if info.get("modelRevisionName", revision) != revision:
        return ""
    return _sentence(info.get("reason"), info.get("message"))


def pod_failure(pods: Iterable[Mapping[str, Any]], owner: str) -> str:
    """What a container of this revision or Deployment is stuck on."""
    for pod in pods:
        if pod["metadata"]["name"].startswith(f"{owner}-"):
            found = _stuck(pod.get("status") or {})
            if found:
                return f"pod {pod['metadata']['name']}: {found}"
    return ""


def joined(*parts: str) -> str:
    """The distinct, non-empty parts as one text."""
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _stuck(status: Mapping[str, Any]) -> str:
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            last = (container.get("lastState") or {}).get("terminated") or {}
            return _sentence(waiting["reason"], last.get("message") or waiting.get("message"))
    return ""


def _sentence(reason: str | None, message: str | None) -> str:
    return ": ".join(part for part in (reason, message) if part)
