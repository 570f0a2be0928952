"""All pods of the sticky gateway, as their sidecars answer. One that does not answer is never taken for granted."""

import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from pipelines.core.errors import NotMeasured, ServingError
from resources.serving.contract import (
    Counters,
    GatewayCounters,
    Lapse,
    RevisionCounters,
    counted_other_errors,
    prediction,
)
from resources.serving.envoy.routes import PIN_HEADER, REVISION_HEADER, TOKEN_HEADER
from resources.serving.kserve.assignment import Assignment
from resources.serving.kserve.split import LapsedShare, Split, without_share
from resources.settings import certificates, shown

_ROWS = TypeAdapter(RevisionCounters)

_LAPSE = TypeAdapter(Lapse | None)

_NOTHING_LAPSES = (HTTPStatus.NOT_FOUND, HTTPStatus.NOT_IMPLEMENTED)
"""Of a pod that routes no such service, and of one whose release keeps no leases."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one pod says."""

    pod: str
    splits: Mapping[str, Split] = field(default_factory=dict[str, Split])
    waiting: Mapping[str, str] = field(default_factory=dict[str, str])
    lapsed: Mapping[str, LapsedShare] | None = None
    """By service; None of a release that keeps no leases."""
    error: str = ""
    """Why it said nothing."""

    def lapse(self, service: str, assignment: Assignment | None) -> Lapse | None:
        """Why the share of this assignment is not in force here any more."""
        found = (self.lapsed or {}).get(service)
        return found.lapse if found is not None and found.is_of(assignment) else None

    def behind(self, service: str, wanted: Split | None, assignment: Assignment | None) -> str:
        """Why what should be in force is not, or nothing: a share that has lapsed here is not waited for."""
        if self.error:
            return f"gateway {self.pod}: {self.error}"
        found = self.splits.get(service)
        if wanted is not None and self.lapse(service, assignment) is not None:
            wanted = without_share(wanted)
        if found == wanted:
            return ""
        why = self.waiting.get(service) or self.waiting.get("") or "; ".join(self.waiting.values())
        return f"gateway {self.pod} still does {_words(found)} instead of {_words(wanted)}" + (
            f": {why}" if why else ""
        )


@dataclass(frozen=True, kw_only=True)
class Gateways:
    """The gateway's two Services."""

    control: str
    """URL of the headless one: each address that its name resolves to is a pod."""
    traffic: str
    """URL that clients send requests to."""
    token: str = field(default="", repr=False)
    timeout: float = 2.0
    _silent: dict[str, float] = field(default_factory=dict[str, float], init=False, repr=False, compare=False)
    """Until when a pod is not asked, on the monotonic clock."""

    def reports(self) -> list[Report]:
        """One for each pod, and one that says so where there is no pod at all."""
        try:
            pods = self._pods()
        except OSError as error:
            return [Report(pod=self.control, error=f"no pod answers to this name: {error}")]
        return [self._report(pod) for pod in pods]

    def renew(self, service: str, version: str) -> Lapse | None:
        """Tell every pod, all at the same time, that this version is watched; the lapse, where one of them has taken it away.

        Raises ServingError where a pod could not be told, unless another one has a lapse.
        """
        try:
            pods = self._pods()
        except OSError as error:
            raise ServingError(f"{self.control}: no pod answers to this name: {error}") from error
        with ThreadPoolExecutor(len(pods)) as pool:
            told = list(pool.map(lambda pod: self._renew(pod, service, version), pods))
        lapses = [each for each in told if isinstance(each, Lapse)]
        errors = [each for each in told if isinstance(each, ServingError)]
        if errors and not lapses:
            raise errors[0]
        return lapses[0] if lapses else None

    def _renew(self, pod: str, service: str, version: str) -> Lapse | ServingError | None:
        try:
            status, body = self._ask("POST", pod, f"/renew/{service}", {"version": version})
            if status in _NOTHING_LAPSES:
                return None
            return _LAPSE.validate_python(_good(pod, f"/renew/{service}", status, body)["lapse"])
        except ServingError as error:
            return error
        except (KeyError, ValueError) as error:
            return ServingError(f"{pod}/renew/{service}: {error}")

    def counters(self, service: str) -> Counters:
        """What each pod has counted, all asked at the same time. Raises NotMeasured where not one of them says."""
        at = datetime.now(UTC)
        try:
            pods = self._pods()
        except OSError as error:
            raise NotMeasured(f"{service}: the gateway's counters cannot be read: {error}") from error
        with ThreadPoolExecutor(len(pods)) as pool:
            said = list(pool.map(lambda pod: self._counted(pod, service, at), pods))
        # A pod with two addresses is asked twice.
        read = {each.instance: each for each in said if isinstance(each, GatewayCounters)}
        unread = tuple(str(each) for each in said if isinstance(each, ServingError))
        if not read:
            raise NotMeasured(f"{service}: the gateway's counters cannot be read: {'; '.join(unread)}")
        return Counters(at=at, gateways=tuple(read[name] for name in sorted(read)), unread=unread)

    def _counted(self, pod: str, service: str, at: datetime) -> GatewayCounters | ServingError:
        try:
            return _gateway_counters(pod, self._get(pod, f"/counters/{service}"), at)
        except ServingError as error:
            return error
        except (KeyError, TypeError, ValueError) as error:
            return ServingError(f"{pod}/counters/{service}: {error}")

    def probe(
        self, service: str, revision: str, request: Mapping[str, Any], *, timeout_ms: int
    ) -> Mapping[str, Any]:
        """One request to one revision, past the weights. Raises as `ServingBackend.predict` does."""
        url = f"{self.traffic.rstrip('/')}/v2/models/{service}/infer"
        headers = {PIN_HEADER: revision, TOKEN_HEADER: self.token}
        try:
            with self._client(timeout=timeout_ms / 1000 + 5) as client:
                answer = client.post(url, json=dict(request), headers=headers)
        except httpx.HTTPError as error:
            raise ServingError(
                f"{revision}: no answer through the gateway at {shown(url)}: {error}"
            ) from error
        return prediction(revision, answer, served=answer.headers.get(REVISION_HEADER, ""))

    def _pods(self) -> list[str]:
        where = urlsplit(self.control)
        found = socket.getaddrinfo(where.hostname, where.port or 80, type=socket.SOCK_STREAM)
        hosts = dict.fromkeys(str(each[4][0]) for each in found)
        return [
            f"[{host}]:{where.port or 80}" if ":" in host else f"{host}:{where.port or 80}" for host in hosts
        ]

    def _report(self, pod: str) -> Report:
        try:
            said = self._get(pod, "/splits")
        except ServingError as error:
            return Report(pod=pod, error=str(error))
        splits = {name: Split.decode(each) for name, each in said["splits"].items()}
        try:
            lapsed = {name: LapsedShare.decode(each) for name, each in said["lapsed"].items()}
        except KeyError:
            lapsed = None
        except ServingError as error:
            return Report(pod=pod, error=str(error))
        return Report(pod=pod, splits=splits, waiting=said["waiting"], lapsed=lapsed)

    def _get(self, pod: str, path: str) -> dict[str, Any]:
        return _good(pod, path, *self._ask("GET", pod, path))

    def _ask(self, method: str, pod: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Status and body; one that is no JSON object counts as empty. Raises ServingError where the pod does not answer.

        A pod that was silent is not asked again for as long as it was waited for: the watch over many models would
        wait for it once for each of them, and their leases at the other pods would run out.
        """
        if time.monotonic() < self._silent.get(pod, 0.0):
            raise ServingError(f"{pod}{path}: not asked, for it was silent for {self.timeout:g} s just now")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with self._client(timeout=self.timeout) as client:
                answer = client.request(method, f"http://{pod}{path}", headers=headers, json=body)
        except httpx.HTTPError as error:
            if isinstance(error, httpx.TimeoutException):
                self._silent[pod] = time.monotonic() + self.timeout
            raise ServingError(f"{pod}{path}: {error or type(error).__name__}") from error
        return answer.status_code, _object(answer)

    def _client(self, *, timeout: float) -> httpx.Client:
        return httpx.Client(trust_env=False, timeout=timeout, verify=certificates())


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return cast(dict[str, Any], body) if isinstance(body, dict) else {}


def _good(pod: str, path: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    if status != HTTPStatus.OK or not body:
        raise ServingError(f"{pod}{path}: {status}: {body.get('error', 'no JSON')}")
    return body


def _gateway_counters(pod: str, said: Mapping[str, Any], at: datetime) -> GatewayCounters:
    if counted_other_errors(said["revisions"]):
        raise ServingError(f"gateway {pod} is of an earlier release, which counts other errors")
    age = said.get("age")  # a release that did not say it yet
    return GatewayCounters(
        instance=str(said["instance"]),
        at=at,
        started=None if age is None else at - timedelta(seconds=age),
        revisions=tuple(map(_ROWS.validate_python, said["revisions"])),
    )


def _words(split: Split | None) -> str:
    if split is None:
        return "nothing"
    parts = [f"{split.stable.name} {100 - split.weight / 100:g} %"] if split.stable else []
    parts += [f"{split.canary.name} {split.weight / 100:g} %"] if split.canary else []
    return " and ".join(parts) + (" (mirrored)" if split.mirror else "")
