"""`python -m resources.serving.gateway`: the sidecar of a gateway pod, until SIGTERM."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping

from pipelines.core.errors import RampgateError
from resources.serving.envoy.admin import Admin
from resources.serving.envoy.description import Endpoint
from resources.serving.gateway.following import Follower, Installed
from resources.serving.gateway.leases import PodLeases, telling
from resources.serving.gateway.options import Options
from resources.serving.gateway.publishing import Addresses, Publisher
from resources.serving.gateway.sidecar import Control, Sidecar, in_cluster
from resources.serving.kserve.client import Cluster


def main(env: Mapping[str, str]) -> None:
    """Run what `env` describes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = Options.from_environment(env)
    options.gateway.discovery.mkdir(mode=0o700, parents=True, exist_ok=True)
    cluster = Cluster.connect(namespace=options.namespace)
    installed = Installed(cluster, options.kserve_namespace)
    publisher = Publisher(
        options.gateway, Admin(options.gateway.admin), _addresses(options, installed), options.token
    )
    leases = PodLeases(options.gateway.discovery / "leases.json")
    sidecar = Sidecar(Follower(cluster, installed), publisher, leases, tell=telling(options.alert_urls))
    control = Control(
        options.gateway.host, options.control_port, options.token, sidecar.answer, sidecar.command
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.excepthook = _die
    sidecar.start()
    threading.Thread(target=control.serve_forever, daemon=True).start()
    ended.wait()
    control.shutdown()
    sidecar.stop()


def _die(raised: threading.ExceptHookArgs) -> None:
    """A thread that ended would leave what is in force to go stale: end, and be started again."""
    logging.error("a thread of the sidecar ended", exc_info=raised.exc_value)
    os._exit(1)


def _addresses(options: Options, installed: Installed) -> Addresses:
    if options.upstream:
        host, _, port = options.upstream.rpartition(":")
        return lambda split, part: Endpoint(host=host, port=int(port), hostname=part.name)
    return in_cluster(options.namespace, options.domain, installed)


if __name__ == "__main__":
    try:
        main(os.environ)
    except RampgateError as error:
        sys.exit(f"gateway: {error}")
