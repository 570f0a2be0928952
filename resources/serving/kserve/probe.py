"""One Open Inference Protocol request to one version, past the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipelines.errors import ServingError
from resources.certificates import certificates
from resources.serving.backend import prediction


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Sends probes. With an `ingress`, requests go there under the host name that it routes by."""

    ingress: str = ""
    """Base URL of the ingress gateway; empty: host names resolve, as they do inside the cluster."""
    timeout: float = 10.0

    def send(self, url: str, model: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """POST /v2/models/<model>/infer. Raises as `ServingBackend.predict` does."""
        host = urlsplit(url).netloc
        target = f"{(self.ingress or url).rstrip('/')}/v2/models/{model}/infer"
        headers = {"x-assignment": "pinned"}
        if self.ingress:
            headers["host"] = host
        try:
            answer = httpx.post(
                target, json=dict(request), headers=headers, timeout=self.timeout, verify=certificates()
            )
        except httpx.HTTPError as error:
            raise ServingError(f"{target} ({host}): {error}") from error
        return prediction(f"{target} ({host})", answer)
