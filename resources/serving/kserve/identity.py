"""Which model version an InferenceService carries: the fields of it that rollouts own.

Owned are `model.storageUri`, `canaryTrafficPercent` (Knative), `name` and `canary` (Standard), the logger where
one is configured, and the annotations `rampgate.io/*` of the predictor. They lie on the predictor, not on the
metadata: KServe copies both into the pod template, so whatever changes there starts a new revision.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
