"""MLflow over plain HTTP, and the few calls that need its library: bounded in time, and failing as
`RegistryError`.
"""

import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from pipelines.core.errors import NotInRegistry, RegistryError
from resources.settings import certificates, shown

_BOUNDS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""MLflow's own defaults wait for minutes (120 s, 7 retries with back-off)."""


@contextmanager
def mlflow_calls(uri: str, what: str) -> Generator[None]:
    """Calls of the mlflow library against `uri`; `what` names them in the `RegistryError` of a failure."""
    for name, value in _BOUNDS.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(uri)
    try:
        yield
    except (MlflowException, OSError) as error:
        # Its text names the address in full, and runs keep what caused an error.
        cause = error if shown(uri) == uri else None
        raise RegistryError(shown(f"{what} failed at MLflow {uri}: {_first_line(error)}")) from cause


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# What the registry says about one model version.


class Registration(StrEnum):
    """How far MLflow is with a version."""

    READY = "READY"
    PENDING = "PENDING_REGISTRATION"
    FAILED = "FAILED_REGISTRATION"
    UNKNOWN = "MODEL_VERSION_STATUS_UNKNOWN"
    """Or a word that this program does not know."""

    @classmethod
    def _missing_(cls, value: object) -> "Registration":
        return cls.UNKNOWN


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """One registered version, as it was when asked."""

    model: str
    version: str
    run_id: str
    """Empty where the version was registered without a run."""
    status: Registration
    source: str
    stage: str = ""
    """MLflow's stage, such as `Archived`; `None` or empty where nobody sets stages."""
    created: datetime
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @classmethod
    def from_rest(cls, answer: Mapping[str, Any]) -> "VersionInfo":
        """From the `model_version` of MLflow's REST API."""
        return cls(
            model=answer["name"],
            version=str(answer["version"]),
            run_id=answer.get("run_id", ""),
            status=Registration(answer.get("status", "")),
            source=answer.get("source", ""),
            stage=answer.get("current_stage", ""),
            created=datetime.fromtimestamp(int(answer.get("creation_timestamp", 0)) / 1000, UTC),
            aliases=tuple(sorted(answer.get("aliases", ()))),
            tags={tag["key"]: tag["value"] for tag in answer.get("tags", ())},
        )


# MLflow's REST API over plain HTTP.
#
# Importing mlflow costs seconds of CPU in every process; a sensor that asks for an alias every five seconds needs
# two requests of it.


_API = "/api/2.0/mlflow/"

_ARTEFACTS = "/api/2.0/mlflow-artifacts/artifacts"

_TRANSIENT = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RegistryApi:
    """One MLflow server. Every call is repeated where it is safe, and ends within `attempts * timeout` and pauses.

    All calls that are made through it are idempotent.
    """

    uri: str
    timeout: float = 5.0
    """Seconds, per attempt."""
    attempts: int = 3
    pause: float = field(default=0.2, repr=False)
    """Seconds before the second attempt; doubled for each further one."""

    def __post_init__(self) -> None:
        if not self.uri.startswith(("http://", "https://")):
            raise RegistryError(f"MLflow's address == {self.place!r}, must begin with http:// or https://")

    @property
    def place(self) -> str:
        """The address without its secrets, for messages."""
        return shown(self.uri)

    def call(self, method: str, path: str, **values: str) -> dict[str, Any]:
        """One call, such as `call("GET", "model-versions/get", name="m", version="1")`.

        Raises `NotInRegistry` for what does not exist and `RegistryError` for every other failure.
        """
        return self._request(method, _API + path, values)

    def _request(self, method: str, path: str, values: Mapping[str, str]) -> dict[str, Any]:
        what = f"{method} {path.removeprefix(_API)}"
        problem = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                answer = self._send(method, path, values)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                problem = f"MLflow at {self.place} does not answer ({what}): {error or type(error).__name__}"
                continue
            if answer.status_code not in _TRANSIENT:
                return _result(answer, what)
            problem = f"MLflow at {self.place} answered {answer.status_code} to {what}: {_told(answer)[1]}"
        raise RegistryError(f"{problem}; tried {self.attempts} times")

    def download(self, path: str, place: Path) -> None:
        """One file of the artefacts that the server keeps, to `place`. Raises `RegistryError`."""
        url = _ARTEFACTS + "/" + quote(path)
        try:
            with self._client() as client, client.stream("GET", url) as answer:
                if not answer.is_success:
                    raise RegistryError(f"MLflow at {self.place} answered {answer.status_code} to {path}")
                with place.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
        except httpx.TransportError as error:
            raise RegistryError(f"downloading {path} from MLflow at {self.place} failed: {error}") from error

    def files(self, path: str) -> list[dict[str, Any]]:
        """What lies in a folder of the artefacts that the server keeps: `path`, `is_dir`."""
        return self._request("GET", _ARTEFACTS, {"path": path}).get("files", [])

    def _send(self, method: str, path: str, values: Mapping[str, str]) -> httpx.Response:
        with self._client() as client:
            if method == "GET":
                return client.request(method, path, params=values)
            return client.request(method, path, json=values)

    def _client(self) -> httpx.Client:
        """A new one for each call: nothing to close, safe in threads and forks."""
        return httpx.Client(
            base_url=self.uri.rstrip("/"), timeout=self.timeout, verify=certificates(), **_credentials()
        )


def _credentials() -> dict[str, Any]:
    """MLflow's own variables: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return {"headers": {"Authorization": f"Bearer {token}"}}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user:
        return {"auth": (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))}
    return {}


def _result(answer: httpx.Response, what: str) -> dict[str, Any]:
    if answer.is_success:
        return _json(answer, what)
    code, message = _told(answer)
    text = f"MLflow refused {what} ({answer.status_code} {code}): {message}"
    # A missing alias is an invalid parameter to MLflow.
    missing_alias = "alias" in message and message.endswith("not found.")
    if code == "RESOURCE_DOES_NOT_EXIST" or missing_alias:
        raise NotInRegistry(text)
    raise RegistryError(text)


def _json(answer: httpx.Response, what: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], answer.json())
    except ValueError as error:
        raise RegistryError(f"MLflow's answer to {what} is not JSON: {answer.text[:80]!r}") from error


def _told(answer: httpx.Response) -> tuple[str, str]:
    try:
        body = answer.json()
    except ValueError:
        return "", answer.text[:200].strip()
    return str(body.get("error_code", "")), str(body.get("message", ""))
