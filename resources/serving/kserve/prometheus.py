"""Which Prometheus series count a revision's answers, per ingress."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from string import Template
from typing import Any

import httpx

from pipelines.core.errors import NotMeasured
from resources.serving.contract import Counters, GatewayCounters, RevisionCounters
from resources.serving.kserve.service import DeploymentMode
from resources.settings import certificates, shown


@dataclass(frozen=True, kw_only=True)
class QuerySet:
    """Selectors of cumulative series; `$namespace`, `$service` and `$revision` are filled in.

    `revision` is the Knative revision's name, or the predictor's Service in Standard mode.
    """

    requests: str
    errors: str
    """Requests that the revision failed, those without an answer (status 0) included. Where nothing asks the stable side
    again, any status but 2xx: a caller's own bad requests count on both sides."""
    faults: str
    """Those that no caller can be blamed for."""
    request_faults: str = ""
    """What a second attempt failed at as well; empty where nothing makes one."""
    buckets: str
    """A histogram's `_bucket` series, with the label `le`."""
    milliseconds: float
    """What 1 in `le` means."""

    def filled(self, selector: str, *, namespace: str, service: str, revision: str) -> str:
        """A selector about one revision."""
        return Template(selector).substitute(namespace=namespace, service=service, revision=revision)


_KNATIVE = 'namespace_name="$namespace",revision_name="$revision"'

_ISTIO = 'destination_service_namespace="$namespace",destination_service_name="$revision",reporter="source"'

_ENVOY = 'envoy_cluster_name=~"((shadow|again|new)/)?$revision(/else/.*)?"'

_HIDDEN = '__name__=~"envoy_cluster_upstream_rq_(xx|retry_success)"'

PRESETS = {
    "knative": QuerySet(
        requests=f"revision_request_count{{{_KNATIVE}}}",
        errors=f'revision_request_count{{{_KNATIVE},response_code_class!="2xx"}}',
        faults=f'revision_request_count{{{_KNATIVE},response_code_class="5xx"}}',
        buckets=f"revision_request_latencies_bucket{{{_KNATIVE}}}",
        milliseconds=1.0,
    ),
    "istio": QuerySet(
        requests=f"istio_requests_total{{{_ISTIO}}}",
        errors=f'istio_requests_total{{{_ISTIO},response_code!~"2.."}}',
        faults=f'istio_requests_total{{{_ISTIO},response_code=~"5.."}}',  # 0 is a caller that hung up
        buckets=f"istio_request_duration_milliseconds_bucket{{{_ISTIO}}}",
        milliseconds=1.0,
    ),
    "envoy": QuerySet(
        requests=f"envoy_cluster_upstream_rq_completed{{{_ENVOY}}}",
        errors=f'{{__name__=~"envoy_cluster_upstream_rq_retry_(success|overflow)",{_ENVOY}}}',
        # What a second attempt hid has no class.
        faults=f'{{{_HIDDEN},{_ENVOY},envoy_response_code_class!~"[1-4]"}}',
        request_faults=f'envoy_cluster_upstream_rq_xx{{{_ENVOY},envoy_response_code_class!="2"}}',
        buckets=f"envoy_cluster_upstream_rq_time_bucket{{{_ENVOY}}}",
        milliseconds=1.0,
    ),
}
"""`knative`: the queue proxy's; `istio`: the Istio gateway's; `envoy`: our own gateway's clusters.

What Envoy answers from the stable revision at once, because no replica of the canary is up, is not in its series,
nor who hung up, nor which of the answers were a unit's first: the gateway's own counters have it."""

BY_MODE = {DeploymentMode.KNATIVE: "knative", DeploymentMode.STANDARD: "istio"}


def since_expression(selector: str, seconds: int, *, by: str = "") -> str:
    """PromQL for what a counter's series have added up to in the last `seconds`.

    The last value of every series that lived in the window, pods that are gone included, minus what each had at
    its beginning. With a fixed beginning it only grows; `increase` would extrapolate and shrink.
    """
    group = f" by ({by})" if by else ""
    last = f"sum{group} (max_over_time({selector}[{seconds}s]))"
    first = f"sum{group} ({selector} offset {seconds}s)"
    return f"{last} - ({first} or {last} * 0)"


# Per-revision counters from Prometheus. What is not there is not measured, never zero.


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Measured:
    """What to count."""

    service: str
    namespace: str
    mode: DeploymentMode
    revisions: Mapping[str, str]
    """Revision -> version."""
    since: datetime
    """Where counting begins: what began at another time is another gateway's."""


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
        # What is counted from another beginning on overlaps with what was counted before: it is never taken whole.
        one = GatewayCounters(instance=measured.since.isoformat(), at=now, revisions=revisions)
        return Counters(at=now, gateways=(one,))

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
            raise NotMeasured(f"Prometheus at {shown(self.url)}: {error}") from error
        if body.get("status") != "success":
            raise NotMeasured(f"Prometheus at {shown(self.url)}: {body.get('error', answer.status_code)}")
        rows = [(row["metric"], float(row["value"][1])) for row in body["data"]["result"]]
        if any(not math.isfinite(value) for _, value in rows):
            raise NotMeasured(f"Prometheus at {shown(self.url)}: a value of {expression} is not finite")
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
