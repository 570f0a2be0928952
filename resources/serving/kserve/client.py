"""The few Kubernetes API calls that rollouts make: dicts in, dicts out, errors in the cluster's own words.

The KServe SDK is not used to write: its patch drops None, so it cannot remove a field, and it hides the HTTP status.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import ServingError

FIELD_MANAGER = "rampgate"

ISVC = "serving.kserve.io/v1beta1"

KNATIVE = "serving.knative.dev/v1"

GATEWAY = "gateway.networking.k8s.io/v1"

ASSIGNMENTS = "rampgate-assignments"
"""The config map that the sticky gateway follows (`resources.serving.kserve.assignment`)."""


class Conflict(ServingError):
    """Somebody else changed the object first: read it again and decide again."""


class Unreachable(ServingError):
    """No answer, or an answer that says to come back: whether the change was made is not known."""


class NotThere(ServingError):
    """There is no such object, or no such kind of object."""


@dataclass(frozen=True)
class Cluster:
    """One namespace of a cluster."""

    api: Any
    """A `kubernetes.client.ApiClient`."""
    namespace: str = "default"
    timeout: float = 10.0
    """Seconds for one request."""

    @classmethod
    def connect(cls, *, namespace: str = "default", timeout: float = 10.0) -> "Cluster":
        """From KUBECONFIG (or ~/.kube/config), else from the pod's service account."""
        from kubernetes import client, config

        configuration: Any = client.Configuration()
        try:
            config.load_kube_config(client_configuration=configuration)
        except config.ConfigException:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException as error:
                raise ServingError(
                    f"no cluster: neither KUBECONFIG nor a service account: {error}"
                ) from error
        configuration.retries = False
        return cls(client.ApiClient(configuration), namespace, timeout)

    @classmethod
    def at(cls, url: str, *, namespace: str = "default", token: str = "", timeout: float = 10.0) -> "Cluster":
        """An API server at a known address."""
        from kubernetes import client

        configuration: Any = client.Configuration()
        configuration.host = url
        configuration.retries = False
        if token:
            configuration.api_key = {"authorization": f"Bearer {token}"}
        return cls(client.ApiClient(configuration), namespace, timeout)

    def read(self, service: str) -> dict[str, Any] | None:
        """The InferenceService, None where there is none."""
        try:
            return self._call("GET", self._path(ISVC, "inferenceservices", service))
        except NotThere as missing:
            if f'"{service}"' in str(missing):
                return None
            raise ServingError(f"KServe is not installed in this cluster: {missing}") from missing

    def create(self, body: Mapping[str, Any]) -> None:
        """Create an InferenceService."""
        self._call("POST", self._path(ISVC, "inferenceservices"), body=body)

    def patch(self, service: str, spec: Mapping[str, Any], *, resource_version: str) -> None:
        """Merge-patch the spec, only if the object is still at this version."""
        body = {"metadata": {"resourceVersion": resource_version}, "spec": spec}
        self._call("PATCH", self._path(ISVC, "inferenceservices", service), body=body)

    def delete(self, service: str) -> None:
        """Delete an InferenceService; gone already is fine."""
        try:
            self._call("DELETE", self._path(ISVC, "inferenceservices", service))
        except NotThere:
            return

    def revisions(self, service: str) -> list[dict[str, Any]]:
        """The Knative revisions of a service's predictor."""
        selector = f"serving.knative.dev/service={service}-predictor"
        return self._items(self._path(KNATIVE, "revisions"), selector)

    def deployments(self, service: str) -> list[dict[str, Any]]:
        """The Deployments of a service's predictors."""
        return self._items(
            self._path("apps/v1", "deployments"), f"serving.kserve.io/inferenceservice={service}"
        )

    def pods(self, service: str) -> list[dict[str, Any]]:
        """The pods of a service."""
        return self._items(self._path("v1", "pods"), f"serving.kserve.io/inferenceservice={service}")

    def route(self, name: str) -> dict[str, Any] | None:
        """An HTTPRoute, None where there is none."""
        try:
            return self._call("GET", self._path(GATEWAY, "httproutes", name))
        except NotThere:
            return None

    def config_map(self, namespace: str, name: str) -> dict[str, Any]:
        """A config map of another namespace."""
        return self._call("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")

    def assignments(self) -> dict[str, Any]:
        """The config map that holds who gets which canary."""
        return self._call("GET", self._path("v1", "configmaps", ASSIGNMENTS))

    def everything(self, path: str, *, only: str = "") -> tuple[list[dict[str, Any]], str]:
        """All objects at a path (or the `only` one of that name), and the resourceVersion to watch from."""
        query = [("fieldSelector", f"metadata.name={only}")] if only else []
        found = self._call("GET", path, query=query)
        return found["items"], str(found["metadata"]["resourceVersion"])

    def services_path(self) -> str:
        """Where the InferenceServices are."""
        return self._path(ISVC, "inferenceservices")

    def config_maps_path(self) -> str:
        """Where the config maps are."""
        return self._path("v1", "configmaps")

    def assign(self, data: Mapping[str, str], *, resource_version: str) -> None:
        """Merge-patch keys of that config map, only if it is still at this version."""
        body = {"metadata": {"resourceVersion": resource_version}, "data": data}
        self._call("PATCH", self._path("v1", "configmaps", ASSIGNMENTS), body=body)

    def _path(self, group_version: str, plural: str, name: str = "") -> str:
        root = "/api" if "/" not in group_version else "/apis"
        path = f"{root}/{group_version}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def _items(self, path: str, selector: str) -> list[dict[str, Any]]:
        return self._call("GET", path, query=[("labelSelector", selector)])["items"]

    def _call(
        self, method: str, path: str, *, query: list[tuple[str, str]] | None = None, body: Any = None
    ) -> dict[str, Any]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        patch = method == "PATCH"
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if patch:
            headers["Content-Type"] = "application/merge-patch+json"
        if body is not None:
            query = [*(query or []), ("fieldManager", FIELD_MANAGER)]
        try:
            return self.api.call_api(
                path,
                method,
                query_params=query or [],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                response_types_map={200: "object", 201: "object", 202: "object"},
                _return_http_data_only=True,
                _request_timeout=self.timeout,
            )
        except ApiException as error:
            raise _translated(method, path, error) from error
        except HTTPError as error:
            raise Unreachable(f"{method} {path}: {error}") from error


def _translated(method: str, path: str, error: Any) -> ServingError:
    reason, message = _status(error)
    text = f"{method} {path}: {error.status} {reason}: {message}"
    if error.status == 409:
        return Conflict(text)
    if error.status == 404:
        return NotThere(text)
    if error.status in (429, 500, 502, 503, 504):
        return Unreachable(text)
    return ServingError(text)


def _status(error: Any) -> tuple[str, str]:
    """The reason and message of a Kubernetes Status, or whatever stood in its place."""
    body = error.body or ""
    try:
        status = json.loads(body)
    except json.JSONDecodeError:
        return str(error.reason), body.strip()[:500]
    return str(status.get("reason", error.reason)), str(status.get("message", body))


# Lists and watches, for whoever follows what the cluster holds.


class Expired(ServingError):
    """The API server no longer knows what happened since: list again."""


def watch(
    cluster: Cluster, path: str, *, since: str, seconds: int, only: str = ""
) -> Iterator[dict[str, Any]]:
    """Events (`type`, `object`) after the resourceVersion `since`; ends by itself after `seconds`.

    `only` is the name of the one object to watch. Raises Expired, Unreachable.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    query = [("watch", "true"), ("resourceVersion", since), ("timeoutSeconds", str(seconds)), *_only(only)]
    try:
        answer: Any = cluster.api.call_api(
            path,
            "GET",
            query_params=query,
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(cluster.timeout, seconds + cluster.timeout),
        )
        yield from _events(answer)
    except ApiException as error:
        raise (Expired if error.status == 410 else Unreachable)(f"watch {path}: {error.status}") from error
    except HTTPError as error:
        raise Unreachable(f"watch {path}: {error}") from error


def _only(name: str) -> list[tuple[str, str]]:
    return [("fieldSelector", f"metadata.name={name}")] if name else []


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    rest = b""
    try:
        for chunk in answer.stream(amt=None, decode_content=False):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                yield _checked(json.loads(line))
    finally:
        answer.close()


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    if event["type"] == "ERROR":
        raise Expired(str(event["object"].get("message", event["object"])))
    return event
