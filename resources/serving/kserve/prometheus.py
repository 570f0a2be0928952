"""Per-revision counters from Prometheus. What is not there is not measured, never zero."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from pipelines.errors import NotMeasured
from resources.certificates import certificates
from resources.serving.backend import Counters, RevisionCounters
from resources.serving.kserve.mode import Mode
from resources.serving.kserve.queries import BY_MODE, PRESETS, QuerySet, since_expression


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Measured:
    """What to count."""

    service: str
    namespace: str
    mode: Mode
    revisions: Mapping[str, str]
    """Revision -> version."""
    since: datetime
    """Where counting begins; it names the epoch."""


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A Prometheus HTTP API."""

    url: str
    queries: str = ""
    """A name in `queries.PRESETS`; empty: the deployment mode's usual one."""
    token: str = field(default="", repr=False)
    timeout: float = 10.0
    clock: Callable[[], datetime] = _now

    def counters(self, measured: Measured) -> Counters:
        """Cumulative counts since `measured.since`. Raises NotMeasured where a series is missing."""
        queries = PRESETS[self.queries or BY_MODE[measured.mode]]
        now = self.clock()
        window = max(60, math.ceil((now - measured.since).total_seconds()))
        self._check_fresh(measured, queries, now)
        revisions = tuple(
            self._revision(measured, queries, name, window=window, now=now) for name in measured.revisions
        )
        return Counters(at=now, epoch=measured.since.isoformat(), revisions=revisions)

    def _revision(
        self, measured: Measured, queries: QuerySet, name: str, *, window: int, now: datetime
    ) -> RevisionCounters:
        def total(selector: str, by: str = "") -> list[tuple[Mapping[str, str], float]]:
            filled = _filled(queries, selector, measured, name)
            return self._query(since_expression(filled, window, by=by), now)

        requests = total(queries.requests)
        if not requests:
            raise NotMeasured(f"{measured.service}: Prometheus has no requests of {name}")
        errors, faults = total(queries.errors), total(queries.faults)
        refused = total(queries.request_faults) if queries.request_faults else []
        buckets = {labels["le"]: value for labels, value in total(queries.buckets, by="le")}
        return RevisionCounters(
            revision=name,
            version=measured.revisions[name],
            requests=round(requests[0][1]),
            errors=round(errors[0][1]) if errors else 0,
            faults=round(faults[0][1]) if faults else 0,
            request_faults=round(refused[0][1]) if refused else 0,
            over_slo=_over(buckets, queries.milliseconds),
        )

    def _check_fresh(self, measured: Measured, queries: QuerySet, now: datetime) -> None:
        """A Prometheus that no longer scrapes keeps answering with old values."""
        for name in measured.revisions:
            if self._query(_filled(queries, queries.requests, measured, name), now):
                return
        raise NotMeasured(f"{measured.service}: Prometheus has no recent samples of any of its revisions")

    def _query(self, expression: str, now: datetime) -> list[tuple[Mapping[str, str], float]]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        params = {"query": expression, "time": f"{now.timestamp():.3f}"}
        url = f"{self.url.rstrip('/')}/api/v1/query"
        try:
            answer = httpx.get(
                url, params=params, headers=headers, timeout=self.timeout, verify=certificates()
            )
            body: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise NotMeasured(f"Prometheus at {self.url}: {error}") from error
        if body.get("status") != "success":
            raise NotMeasured(f"Prometheus at {self.url}: {body.get('error', answer.status_code)}")
        rows = [(row["metric"], float(row["value"][1])) for row in body["data"]["result"]]
        if any(not math.isfinite(value) for _, value in rows):
            raise NotMeasured(f"Prometheus at {self.url}: a value of {expression} is not finite")
        return rows


def _filled(queries: QuerySet, selector: str, measured: Measured, revision: str) -> str:
    return queries.filled(selector, namespace=measured.namespace, service=measured.service, revision=revision)


def _over(buckets: Mapping[str, float], milliseconds: float) -> dict[int, int]:
    """Answers slower than each bucket's bound, for bounds that are whole milliseconds."""
    total = buckets.get("+Inf")
    if total is None:
        return {}
    bounds = {le: float(le) * milliseconds for le in buckets if le != "+Inf"}
    return {int(ms): round(total - buckets[le]) for le, ms in bounds.items() if ms == int(ms)}
