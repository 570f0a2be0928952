"""Lists and watches, for whoever follows what the cluster holds."""

import json
from collections.abc import Iterator
from typing import Any

from pipelines.errors import ServingError
from resources.serving.kserve.client import Cluster, Unreachable


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
