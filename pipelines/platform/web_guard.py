"""What stands in front of every web part: it refuses what other people's pages make a browser ask.

A browser asks loopback ports whatever any open page tells it to, under any name that the page's owner makes lead there.
None of the parts asks for a password, so that the request itself must show that it comes from this installation.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]

Message = MutableMapping[str, Any]

Receive = Callable[[], Awaitable[Message]]

Send = Callable[[Message], Awaitable[None]]

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: scope, receive, send, which each library has types of its own for."""

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

JSON = frozenset({"application/json"})

_READING = ("GET", "HEAD", "OPTIONS")

_OURSELVES = ("same-origin", "none")
"""What a browser says of a page of this part, and of an address that somebody typed; anything else is somebody else's."""

_LONGEST = 100
"""Characters of a header that a message quotes."""

_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"same-origin",
}


class Refusal(NamedTuple):
    """Why a request is not passed on."""

    status: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a web part takes."""

    port: int
    hosts: tuple[str, ...] = ()
    """Names beside the loopback ones, from `RAMPGATE_HOSTS`: with a port that one, without any."""
    types: frozenset[str] = JSON
    """Content types of a POST. None of them is one that a page may send to another site without being asked first."""

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why this request is refused, or None.

        421 for a name that is not this installation's, 403 for another site's page, 405 for GraphQL in an address,
        415 for a POST that any page could have sent.
        """
        headers = _headers(scope)
        host = headers.get("host", "")
        if not self._ours(host):
            return _misdirected(host)
        if (refused := _foreign(scope, headers, host)) is not None:
            return refused
        return None if scope["type"] == "websocket" else self._form(scope, headers)

    def _ours(self, host: str) -> bool:
        name, port = _split(host)
        if name in LOOPBACK and (port or "80") == str(self.port):
            return True
        return host in self.hosts or name in self.hosts

    def _form(self, scope: Scope, headers: dict[str, str]) -> Refusal | None:
        method: str = scope["method"]
        if method in _READING and scope["path"] == "/graphql" and scope["query_string"]:
            return Refusal(
                405, "GraphQL in an address is not answered: send it as POST with application/json"
            )
        if method != "POST":
            return None  # other methods are asked for beforehand (OPTIONS), and no other site gets an answer
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in self.types:
            return None
        allowed = ", ".join(sorted(self.types))
        return Refusal(415, f"a POST with content type {_quoted(kind)} is not taken, only {allowed}")


class Guard:
    """An ASGI application in front of another one."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        refused = self._rules.refusal(scope)
        if refused is None:
            return await self._app(scope, receive, _with_headers(send))
        log.warning("refused with %d: %s", refused.status, refused.why)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return await _answer(_with_headers(send), refused)


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case name. One that is repeated is joined by commas, and then is nobody's host or content type."""
    found: dict[str, str] = {}
    for raw_name, raw in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw.decode("latin-1").strip()
        found[name] = f"{found[name]},{value}" if name in found else value
    return found | {"host": found.get("host", "").lower()}


def _split(host: str) -> tuple[str, str]:
    """A name (an IPv6 address in brackets) and its port, empty where there is none."""
    name, _, port = host.rpartition(":")
    return (name, port) if name and port.isascii() and port.isdigit() else (host, "")


def _foreign(scope: Scope, headers: dict[str, str], host: str) -> Refusal | None:
    """A page of another site or port asks: it says so itself, or the browser does where it sends no origin."""
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        return Refusal(403, f"a page from {_quoted(origin)} asks, which is not this part's own")
    if headers.get("sec-fetch-site", "none") in _OURSELVES or _follows_a_link(scope, headers):
        return None
    return Refusal(403, "a page of another site or port asks; only links may lead here")


def _follows_a_link(scope: Scope, headers: dict[str, str]) -> bool:
    page = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return page and scope.get("method") in ("GET", "HEAD")


def _misdirected(host: str) -> Refusal:
    return Refusal(
        421,
        f"{_quoted(host)} is not a name of this installation; if you reach it by this one, add it to RAMPGATE_HOSTS",
    )


def _quoted(text: str) -> str:
    return repr(text[:_LONGEST])


def _with_headers(send: Send) -> Send:
    """Adds what keeps a page from being framed, guessed at or read by others, where the part says nothing itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            named = {bytes(name).lower() for name, _ in given}
            message["headers"] = given + [(k, v) for k, v in _HEADERS.items() if k not in named]
        await send(message)

    return sending


async def _answer(send: Send, refused: Refusal) -> None:
    body = f"Rampgate: {refused.why}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
