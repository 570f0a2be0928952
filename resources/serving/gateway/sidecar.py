"""The sidecar: follow the cluster, tell Envoy, answer what is in force and what was counted."""

import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from pydantic import TypeAdapter

from pipelines.core.errors import ServingError
from resources.serving.contract import Lapse, RevisionCounters, lapsed_meanwhile
from resources.serving.embedded.counting import count, read, stats_pattern
from resources.serving.embedded.state import Deployed, DesiredCanary, ServiceState
from resources.serving.envoy.admin import Admin
from resources.serving.envoy.description import Endpoint
from resources.serving.gateway.following import Follower
from resources.serving.gateway.leases import PodLeases
from resources.serving.gateway.publishing import Publisher
from resources.serving.kserve.service import DeploymentMode, Installation
from resources.serving.kserve.split import Split, SplitPart

_ROWS = TypeAdapter(RevisionCounters)

_LAPSE = TypeAdapter(Lapse)


def counted(admin: Admin, split: Split) -> dict[str, Any]:
    """Cumulative counts since this Envoy started; `instance` tells two starts apart, and `age` is how many seconds ago it was."""
    state = _state(split)
    reading = read(admin, stats_pattern(state))
    age = reading.start.age
    return {
        "instance": reading.start.instance,
        "age": None if age is None else age.total_seconds(),
        "revisions": [_ROWS.dump_python(each, mode="json") for each in count(state, reading.stats)],
    }


def _state(split: Split) -> ServiceState:
    canary = _deployed(split, split.canary)
    return ServiceState(
        service=split.service,
        timeout_ms=split.timeout_ms,
        stable=_deployed(split, split.stable),
        canary=DesiredCanary(revision=canary, salt=split.salt) if canary else None,
    )


def _deployed(split: Split, part: SplitPart | None) -> Deployed | None:
    if part is None:
        return None
    return Deployed(name=part.name, model=split.service, version=part.version, digest="", ports=())


# What the sidecar answers: what is in force, what was counted, whether the pod may get traffic.
#
# GET /healthz needs no token. GET /splits and GET /counters/<service> do: they name units' salts and traffic. So does
# POST /renew/<service>, {"version": ...}, which keeps a canary its share: somebody watches it.


Answer = tuple[int, Mapping[str, Any]]

_MOST_BYTES = 64 * 1024
"""Of a body."""


class Control(ThreadingHTTPServer):
    """Serves `answer(path)` as JSON, and `command(path, body)` for a POST."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        answer: Callable[[str], Answer],
        command: Callable[[str, object], Answer],
    ) -> None:
        self.token, self.answer, self.command = token, answer, command
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is nothing to report."""

    def allows(self, header: str) -> bool:
        """Whether a request with this Authorization header may see more than /healthz."""
        return not self.token or hmac.compare_digest(header.encode(), f"Bearer {self.token}".encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def do_GET(self) -> None:
        """What is in force, and what was counted."""
        control = cast(Control, self.server)
        if self.path == "/healthz" or self._is_allowed():
            self._answer(lambda: control.answer(self.path))

    def do_POST(self) -> None:
        """A command. The body is read once it is known who asks."""
        control = cast(Control, self.server)
        self.close_connection = True  # what was not read of the body would be the next request
        if not self._is_allowed():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self._send(413, {"error": f"Content-Length == {length!r}, must be 0 to {_MOST_BYTES}"})
            return
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError:
            self._send(400, {"error": "the body is not JSON"})
            return
        self._answer(lambda: control.command(self.path, body))

    def _is_allowed(self) -> bool:
        allowed = cast(Control, self.server).allows(self.headers.get("Authorization", ""))
        if not allowed:
            self._send(401, {"error": "a token is needed"})
        return allowed

    def _answer(self, ask: Callable[[], Answer]) -> None:
        try:
            self._send(*ask())
        except ServingError as error:
            self._send(503, {"error": str(error)})

    def log_message(self, format: str, *args: Any) -> None:
        """Polled many times a second: not worth a line each."""

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


# The sidecar: follow the cluster, tell Envoy, answer what is in force.


_LOG = logging.getLogger(__name__)

_RETRY_SECONDS = 0.1
"""How often a service is looked at again whose canary is not healthy yet, or an Envoy that does not answer."""

_STEP_SECONDS = 1.0
"""How often all of it is looked at again, though nothing is known to have changed."""

Tell = Callable[[str, Lapse], None]
"""Tells people of a service whose share has lapsed; does not wait."""


def _nobody(service: str, lapse: Lapse) -> None: ...


@dataclass
class Sidecar:
    """One gateway pod."""

    follower: Follower
    publisher: Publisher
    leases: PodLeases
    tell: Tell = _nobody
    trouble: str = ""
    """Why Envoy could not be told what the cluster wants."""
    served: bool = False
    """Whether Envoy has ever had everything that was there at the start."""
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self) -> None:
        """Follow and publish on threads of their own until `stop`."""
        self._threads = self.follower.start()
        self._threads.append(threading.Thread(target=self.run, daemon=True))
        self._threads[-1].start()

    def stop(self) -> None:
        """Ends the publishing; the watches end with their next event."""
        self.follower.stop.set()
        self.follower.changed.set()
        self._threads[-1].join()

    def run(self) -> None:
        """Publish whenever something changed, and look at the leases in any case."""
        due = 0.0
        while not self.follower.stop.is_set():
            pending = self.publisher.waiting or self.trouble
            most = self.leases.keeper.every.total_seconds()
            changed = self.follower.changed.wait(_RETRY_SECONDS if pending else most)
            self.follower.changed.clear()
            self._keep_leases()
            due = 0.0 if changed or pending else due
            if self.follower.complete and not self.follower.stop.is_set() and time.monotonic() >= due:
                self._step()
                due = time.monotonic() + _STEP_SECONDS

    def answer(self, path: str) -> Answer:
        """See `control`."""
        if path == "/healthz":
            ready = self.served and self.publisher.admin.ready()
            return (200 if ready else 503), {"ready": ready, **self.follower.trouble}
        if path == "/splits":
            splits = {name: each.encode() for name, each in self.publisher.in_force().items()}
            lapsed = {
                name: each.encode() for name, each in self.leases.lapsed().items() if not self._gives(name)
            }
            return 200, {"splits": splits, "waiting": self._waiting(), "lapsed": lapsed}
        found = self.publisher.routed.get(path.removeprefix("/counters/"))
        if not path.startswith("/counters/") or found is None:
            return 404, {"error": f"{path}: nothing is routed there"}
        return 200, counted(self.publisher.admin, found)

    def command(self, path: str, body: object) -> Answer:
        """See `control`."""
        service = path.removeprefix("/renew/")
        if not path.startswith("/renew/") or service not in self.publisher.routed:
            return 404, {"error": f"{path}: nothing is routed there"}
        version = cast(dict[str, Any], body).get("version") if isinstance(body, dict) else None
        if not isinstance(version, str):
            return 400, {"error": f"version == {version!r}, must be a string"}
        lapse = self.leases.renew(service, version)
        if lapse is not None and self._gives(service):
            raise ServingError(
                f"{lapsed_meanwhile(service, lapse)}; Envoy does not do so yet: {self.trouble}"
            )
        return 200, {"lapse": None if lapse is None else _LAPSE.dump_python(lapse, mode="json")}

    def _keep_leases(self) -> None:
        """Take away what nobody watches: at once, and whether or not the cluster, or a step, goes well."""
        if self.follower.complete:
            over = self.leases.look(self.follower.assignments(), self.follower.leased())
        else:
            over = self.leases.look_alone()
        given = {name for name in self.leases.lapsed() if self._gives(name)}
        if given:
            self._try(lambda: self.publisher.take_away(given))
        for service, lapsed in over.items():
            _LOG.error("%s", lapsed_meanwhile(service, lapsed.lapse))
            self.tell(service, lapsed.lapse)

    def _gives(self, service: str) -> bool:
        """Whether the service's canary has traffic, as far as Envoy is known to have been told."""
        routed = self.publisher.routed.get(service)
        return routed is not None and routed.gives_traffic

    def _step(self) -> None:
        if self._try(lambda: self.publisher.step(self.leases.applied(self.follower.splits()))):
            self.served = self.served or not self.publisher.waiting

    def _try(self, publish: Callable[[], None]) -> bool:
        """Whether Envoy does what it was told; what went wrong is said once, and tried again."""
        try:
            publish()
        except ServingError as error:
            if self.trouble != str(error):
                _LOG.warning("%s", error)
            self.trouble = str(error)
            time.sleep(_RETRY_SECONDS)
            return False
        self.trouble = ""
        return True

    def _waiting(self) -> dict[str, str]:
        general = {"": self.trouble} if self.trouble else {}
        return {**self.follower.trouble, **general, **self.publisher.waiting}


def in_cluster(
    namespace: str, domain: str, installed: Callable[[], Installation]
) -> Callable[[Split, SplitPart], Endpoint]:
    """Where revisions answer inside a cluster: at the Service that has the revision's name.

    A Standard predictor's Service without an address gives the pods themselves, at their own port.
    """

    def address(split: Split, part: SplitPart) -> Endpoint:
        name = f"{part.name}.{namespace}.svc.{domain}"
        headless = split.mode == DeploymentMode.STANDARD and installed().headless
        return Endpoint(host=name, port=8080 if headless else 80, hostname=name)

    return address
