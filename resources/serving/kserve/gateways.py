"""All pods of the sticky gateway, as their sidecars answer. One that does not answer is never taken for granted."""

import hashlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from pipelines.core.errors import NotMeasured, ServingError
from resources.serving.contract import Counters, RevisionCounters, counted_other_errors, prediction, together
from resources.serving.envoy.routes import PIN_HEADER, REVISION_HEADER, TOKEN_HEADER
from resources.serving.kserve.split import Split
from resources.settings import certificates, shown

_ROWS = TypeAdapter(RevisionCounters)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one pod says."""

    pod: str
    splits: Mapping[str, Split] = field(default_factory=dict[str, Split])
    waiting: Mapping[str, str] = field(default_factory=dict[str, str])
    error: str = ""
    """Why it said nothing."""

    def behind(self, service: str, wanted: Split | None) -> str:
        """Why what should be in force is not, or nothing."""
        if self.error:
            return f"gateway {self.pod}: {self.error}"
        found = self.splits.get(service)
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

    def reports(self) -> list[Report]:
        """One for each pod, and one that says so where there is no pod at all."""
        try:
            pods = self._pods()
        except OSError as error:
            return [Report(pod=self.control, error=f"no pod answers to this name: {error}")]
        return [self._report(pod) for pod in pods]

    def counters(self, service: str) -> Counters:
        """The sum over all pods; a pod that comes, goes or restarts begins a new epoch. Raises NotMeasured."""
        try:
            answers = [self._get(pod, f"/counters/{service}") for pod in self._pods()]
        except (OSError, ServingError) as error:
            raise NotMeasured(f"{service}: the gateway's counters cannot be read: {error}") from error
        if any(counted_other_errors(answer["revisions"]) for answer in answers):
            raise NotMeasured(
                f"{service}: a pod of the gateway is of an earlier release, which counts other errors"
            )
        instances = sorted(str(answer["instance"]) for answer in answers)
        return Counters(
            at=datetime.now(UTC),
            epoch=hashlib.sha256(" ".join(instances).encode()).hexdigest()[:16],
            gateways=len(answers),
            revisions=_summed(row for answer in answers for row in answer["revisions"]),
        )

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
        return Report(pod=pod, splits=splits, waiting=said["waiting"])

    def _get(self, pod: str, path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with self._client(timeout=self.timeout) as client:
                answer = client.get(f"http://{pod}{path}", headers=headers)
                body: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ServingError(f"{pod}{path}: {error or type(error).__name__}") from error
        if answer.status_code != 200:
            raise ServingError(f"{pod}{path}: {answer.status_code}: {body.get('error', '')}")
        return body

    def _client(self, *, timeout: float) -> httpx.Client:
        return httpx.Client(trust_env=False, timeout=timeout, verify=certificates())


def _summed(rows: Iterable[Mapping[str, Any]]) -> tuple[RevisionCounters, ...]:
    totals: dict[str, RevisionCounters] = {}
    for each in map(_ROWS.validate_python, rows):
        had = totals.get(each.revision)
        totals[each.revision] = each if had is None else together(had, each)
    return tuple(totals.values())


def _words(split: Split | None) -> str:
    if split is None:
        return "nothing"
    parts = [f"{split.stable.name} {100 - split.weight / 100:g} %"] if split.stable else []
    parts += [f"{split.canary.name} {split.weight / 100:g} %"] if split.canary else []
    return " and ".join(parts) + (" (mirrored)" if split.mirror else "")
