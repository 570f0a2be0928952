"""Which Prometheus series count a revision's answers, per ingress."""

from dataclasses import dataclass
from string import Template

from resources.serving.kserve.mode import Mode


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
_ENVOY = 'envoy_cluster_name=~"((shadow|again)/)?$revision(/else/.*)?"'
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
BY_MODE = {Mode.KNATIVE: "knative", Mode.STANDARD: "istio"}


def since_expression(selector: str, seconds: int, *, by: str = "") -> str:
    """PromQL for what a counter's series have added up to in the last `seconds`.

    The last value of every series that lived in the window, pods that are gone included, minus what each had at
    its beginning. With a fixed beginning it only grows; `increase` would extrapolate and shrink.
    """
    group = f" by ({by})" if by else ""
    last = f"sum{group} (max_over_time({selector}[{seconds}s]))"
    first = f"sum{group} ({selector} offset {seconds}s)"
    return f"{last} - ({first} or {last} * 0)"
