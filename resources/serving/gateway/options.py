"""A gateway pod as environment variables describe it (docs/kubernetes.md lists them)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.core.errors import ServingError
from resources.serving.embedded.layout import usable_socket
from resources.serving.envoy.description import Gateway
from resources.settings import HOST, SHORTEST_TOKEN, lies_open


@dataclass(frozen=True, kw_only=True)
class Options:
    """What both containers of the pod are told."""

    gateway: Gateway
    control_port: int
    token: str
    namespace: str
    domain: str
    kserve_namespace: str
    upstream: str
    """`host:port` in place of every revision's own address; for trying it out."""
    alert_urls: tuple[str, ...] = field(default=(), repr=False)
    """Apprise URLs that are told when a share lapses."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Options":
        """Raises ServingError where others could reach the gateway without a long token, or its socket has no room."""
        host, token = env.get("RAMPGATE_GATEWAY_HOST", HOST), env.get("RAMPGATE_GATEWAY_TOKEN", "")
        if lies_open(host, token):
            raise ServingError(
                f"RAMPGATE_GATEWAY_HOST == {host!r} is open to others: RAMPGATE_GATEWAY_TOKEN must be set, to"
                f" {SHORTEST_TOKEN} characters or more, so that nobody finds it by trying"
            )
        return cls(
            gateway=_gateway(env, host),
            control_port=int(env.get("RAMPGATE_GATEWAY_CONTROL_PORT", "8081")),
            token=token,
            namespace=env.get("RAMPGATE_NAMESPACE", "default"),
            domain=env.get("RAMPGATE_CLUSTER_DOMAIN", "cluster.local"),
            kserve_namespace=env.get("RAMPGATE_KSERVE_NAMESPACE", "kserve"),
            upstream=env.get("RAMPGATE_GATEWAY_UPSTREAM", ""),
            alert_urls=tuple(env.get("RAMPGATE_ALERT_URLS", "").split()),
        )


def _gateway(env: Mapping[str, str], host: str) -> Gateway:
    found = Gateway(
        host=host,
        port=int(env.get("RAMPGATE_GATEWAY_PORT", "8080")),
        discovery=Path(env.get("RAMPGATE_GATEWAY_DISCOVERY", "/tmp/rampgate-gateway")),
        access_log=Path(env.get("RAMPGATE_GATEWAY_ACCESS_LOG", "/dev/stdout")),
    )
    usable_socket(found.admin, setting="RAMPGATE_GATEWAY_DISCOVERY")
    return found
