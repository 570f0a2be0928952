"""The HTTP side of the fake API server: paths, verbs, content types, watches."""

import json
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.fake_kubernetes.merge import BadPatch, json_patched, merged
from tests.fake_kubernetes.paths import Target, parse
from tests.fake_kubernetes.status import ApiError, forbidden, invalid, no_such_resource
from tests.fake_kubernetes.store import STORED

if TYPE_CHECKING:
    from tests.fake_kubernetes.server import FakeKubernetes


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Handler(BaseHTTPRequestHandler):
    """One connection. `fake` is bound by the server."""

    fake: "FakeKubernetes"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet per answer

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """The test's output is not an access log."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            code, answer = self._answer(body)
        except ApiError as error:
            code, answer = error.code, error.body()
        except (Dropped, BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return
        if answer is not None:
            self._send(code, answer)

    def _answer(self, raw: bytes) -> tuple[int, Any]:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path.startswith("/v2/") or url.path.startswith("/v1/"):
            return self._predict(json.loads(raw))
        self._authenticate()
        dropped_after = self._fault(url.path)
        with self.fake.lock:
            self.fake.store.tick()
            outcome = self._route(url.path, query, json.loads(raw) if raw else None)
        if dropped_after:
            raise Dropped
        return outcome

    def _authenticate(self) -> None:
        if self.fake.token and self.headers.get("Authorization") != f"Bearer {self.fake.token}":
            raise ApiError(401, "Unauthorized", "Unauthorized")

    def _fault(self, path: str) -> bool:
        for fault in list(self.fake.faults):
            if not fault.hits(self.command, path):
                continue
            if fault.before is not None:
                fault.before()
            if fault.kind == "error":
                raise fault.error
            if fault.kind == "refused":
                raise Dropped
            time.sleep(fault.seconds)
            return fault.kind == "lost"
        return False

    def _route(self, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        target = parse(path)
        if target is None or target.group in self.fake.missing_groups:
            raise no_such_resource()
        if target.resource == "":
            return 200, _discovery(target)
        self._authorise(target, query)
        verb = getattr(self, f"_{self.command.lower()}")
        code, answer = verb(target, query, body)
        return code, answer

    def _authorise(self, target: Target, query: dict[str, str]) -> None:
        verb = _VERBS[self.command]
        if self.command == "GET" and not target.name:
            verb = "watch" if query.get("watch") in ("true", "1") else "list"
        from tests.fake_kubernetes.server import Call

        plural = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
        self.fake.calls.append(Call(verb, target.group, plural, target.namespace, target.name))
        allowed = self.fake.allowed
        if allowed is not None and (verb, target.group, plural) not in allowed:
            raise forbidden("rampgate", verb, plural, target.group, target.namespace)

    def _get(self, target: Target, query: dict[str, str], body: Any) -> tuple[int, Any]:
        store = self.fake.store
        if target.name:
            return 200, store.get(target.key)
        if query.get("watch") in ("true", "1"):
            self._watch(target, query)
            return 200, None
        items = store.list_all(target.resource, target.namespace)
        wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
        items = [item for item in items if wanted.items() <= item["metadata"].get("labels", {}).items()]
        items = [item for item in items if _selected(item, query)]
        meta = {"resourceVersion": str(store.version)}
        return 200, {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items}

    def _post(self, target: Target, query: dict[str, str], body: Any) -> tuple[int, Any]:
        name = body.get("metadata", {}).get("name", "")
        if not name or target.resource not in STORED:
            raise invalid("metadata.name: Required value")
        key = (target.resource, target.namespace, name)
        return 201, self.fake.store.create(key, body, query.get("fieldManager", "unknown"))

    def _put(self, target: Target, query: dict[str, str], body: Any) -> tuple[int, Any]:
        manager = query.get("fieldManager", "unknown")
        return 200, self.fake.store.update(
            target.key, body, manager, status_only=target.subresource == "status"
        )

    def _patch(self, target: Target, query: dict[str, str], body: Any) -> tuple[int, Any]:
        current = self.fake.store.get(target.key)
        kind = self.headers.get("Content-Type", "").split(";")[0]
        if kind == "application/merge-patch+json":
            new = merged(current, body)
            if "resourceVersion" not in body.get("metadata", {}):
                new["metadata"].pop("resourceVersion", None)
        elif kind == "application/json-patch+json":
            try:
                new = json_patched(current, body)
            except BadPatch as error:
                raise invalid(str(error)) from error
        else:
            raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in {kind}")
        return self._put(target, query, new)

    def _delete(self, target: Target, query: dict[str, str], body: Any) -> tuple[int, Any]:
        return 200, self.fake.store.delete(target.key)

    def _watch(self, target: Target, query: dict[str, str]) -> None:
        """Stream the events after `resourceVersion` until `timeoutSeconds` have passed."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen, place = int(query.get("resourceVersion", "0")), 0
        events = self.fake.store.events
        deadline = time.monotonic() + float(query.get("timeoutSeconds", "1"))
        while time.monotonic() < deadline and not self.fake.closing:
            for version, kind, key, item in events[place:]:
                wanted = key[:2] == (target.resource, target.namespace) and _selected(item, query)
                if version > seen and wanted:
                    self._chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")
            place = len(events)
            self.wfile.flush()
            self.fake.lock.release()  # others must be able to write while this one listens
            time.sleep(0.005)
            self.fake.lock.acquire()
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _predict(self, body: Any) -> tuple[int, Any]:
        host = self.headers.get("Host", "")
        self.fake.predictions.append((host, body))
        return 200, {
            "model_name": host,
            "outputs": [{"name": "y", "shape": [1], "datatype": "FP64", "data": [1.0]}],
        }

    def _send(self, code: int, answer: Any) -> None:
        payload = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def _selected(item: dict[str, Any], query: dict[str, str]) -> bool:
    """Whether the object is the one that a field selector names."""
    name = query.get("fieldSelector", "").partition("metadata.name=")[2]
    return not name or item["metadata"]["name"] == name


def _discovery(target: Target) -> dict[str, Any]:
    resources = [
        {"name": name.split(".")[0], "namespaced": True}
        for name in STORED
        if name.partition(".")[2] == target.group
    ]
    return {
        "kind": "APIResourceList",
        "groupVersion": f"{target.group}/{target.version}",
        "resources": resources,
    }
