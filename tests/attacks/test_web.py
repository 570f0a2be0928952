"""What a web page, a name that is made to lead here, or another port can have a web part do: nothing.

The real parts are attacked in `tests/platform/test_whole_platform.py`, which has them running.
"""

from typing import Any

import httpx
import pytest

from pipelines.core.errors import RampgateError
from pipelines.platform.web_guard import Guard, Rules
from resources.settings import Settings

HOST = "127.0.0.1:3000"

RULES = Rules(port=3000, hosts=("mlops.example", "other.example:8443"))

JSON = {"content-type": "application/json"}


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """What the guard lets through is answered."""
    await send({"type": "http.response.start", "status": 204, "headers": [(b"x-frame-options", b"DENY")]})
    await send({"type": "http.response.body", "body": b""})


async def asked(method: str = "GET", path: str = "/", headers: Any = ()) -> httpx.Response:
    given = {"host": HOST} | dict(headers) if isinstance(headers, dict) else list(headers)
    transport = httpx.ASGITransport(app=Guard(behind, RULES))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3000") as client:
        return await client.request(method, path, headers=given)


def status(*request: Any) -> int:
    import asyncio

    return asyncio.run(asked(*request)).status_code


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:3000", "localhost:3000", "LOCALHOST:3000", "[::1]:3000", "mlops.example", "mlops.example:80",
     "other.example:8443"],
)  # fmt: skip
def test_a_name_of_this_installation_is_answered(host: str) -> None:
    assert status("GET", "/", {"host": host}) == 204
    own = JSON | {"host": host, "origin": f"http://{host.lower()}", "sec-fetch-site": "same-origin"}
    assert status("POST", "/graphql", own) == 204


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:3000", "127.0.0.1", "127.0.0.1:3001", "localhost", "localhost.evil.example:3000",
     "127.0.0.1:3000.evil.example", "evil.example#127.0.0.1:3000", "other.example", "other.example:1", "[::1]", "0.0.0.0:3000",
     "localhost.:3000", "127.1:3000", "2130706433:3000", "[::ffff:127.0.0.1]:3000", "127.0.0.1:03000", "user@127.0.0.1:3000",
     "127.0.0.1:3000,evil.example", "127.0.0.1:٣٠٠٠".encode()],
)  # fmt: skip
def test_any_other_name_is_refused(host: str) -> None:
    assert status("GET", "/", {"host": host}) == 421


def test_two_names_are_none() -> None:
    assert status("GET", "/", [("host", HOST), ("host", HOST)]) == 421


@pytest.mark.parametrize(
    "origin",
    ["null", "", "https://evil.example", "http://127.0.0.1:3001", "http://localhost:3000", "http://127.0.0.1:3000.evil.example",
     "file://", "http://127.0.0.1:3000/", "chrome-extension://abc"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_page_from_elsewhere_is_refused_whatever_it_asks(method: str, origin: str) -> None:
    assert status(method, "/", JSON | {"origin": origin}) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_links_lead_here_and_nothing_else_does(site: str) -> None:
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert status("GET", "/runs/1", link) == 204
    assert (
        status("GET", "/", {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"})
        == 403
    )
    assert status("GET", "/", link | {"sec-fetch-dest": "iframe"}) == 403
    assert status("POST", "/", JSON | link) == 403


@pytest.mark.parametrize("site", ["Cross-Site", "none, cross-site", "same-origin;x", "", "later"])
def test_what_a_browser_says_in_words_that_are_not_known_is_somebody_elses(site: str) -> None:
    assert status("GET", "/", {"sec-fetch-site": site}) == 403
    assert status("POST", "/graphql", JSON | {"sec-fetch-site": site}) == 403


HERE = ("host", HOST)


@pytest.mark.parametrize(
    "headers",
    [[HERE, ("origin", "http://127.0.0.1:3001")], [HERE, ("origin", "null")], [HERE, ("sec-fetch-site", "cross-site")],
     [HERE, HERE], [("host", "evil.example:3000"), ("origin", "http://evil.example:3000")], [("host", "localhost.:3000")],
     [HERE, ("origin", f"http://{HOST}"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"),
      ("sec-fetch-dest", "document")]],
)  # fmt: skip
def test_a_page_from_elsewhere_opens_no_websocket(headers: list[tuple[str, str]]) -> None:
    assert opened(headers) == ["websocket.close"]


def test_a_page_of_this_part_opens_a_websocket() -> None:
    assert opened([HERE, ("origin", f"http://{HOST}"), ("sec-fetch-site", "same-origin")]) == ["opened"]


def opened(headers: list[tuple[str, str]]) -> list[str]:
    """What became of a request for a websocket."""
    import asyncio

    said: list[str] = []

    async def part(scope: Any, receive: Any, send: Any) -> None:
        said.append("opened")

    async def send(message: Any) -> None:
        said.append(message["type"])

    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "websocket", "path": "/graphql", "query_string": b"", "headers": raw}
    asyncio.run(Guard(part, RULES)(scope, None, send))  # pyright: ignore[reportArgumentType]
    return said


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_graphql_in_an_address_is_refused(method: str) -> None:
    assert status(method, "/graphql?query=mutation") == 405
    assert status(method, "/%67raphql?query=mutation") == 405
    assert status("GET", "/graphql") == 204


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b",
     "application/json, text/plain", "application/graphql", "text/json"],
)  # fmt: skip
def test_a_post_that_any_page_could_send_is_refused(kind: str) -> None:
    assert status("POST", "/", {"content-type": kind}) == 415


def test_json_with_a_charset_is_json() -> None:
    assert status("POST", "/", {"content-type": "Application/JSON; charset=utf-8"}) == 204


def test_every_answer_says_who_may_frame_read_or_guess_it_and_a_parts_own_word_stays() -> None:
    import asyncio

    for answer in (asyncio.run(asked()), asyncio.run(asked("GET", "/", {"host": "evil.example"}))):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert asyncio.run(asked()).headers.get_list("x-frame-options") == ["DENY"]


@pytest.mark.parametrize("words", ["*", "a b*", "http://mlops.example", "mlops.example/", "a:b", "-a"])
def test_a_setting_that_is_no_name_is_refused_in_words(words: str) -> None:
    with pytest.raises(
        RampgateError, match=r"RAMPGATE_HOSTS: .* is no host name, must be like mlops.example"
    ):
        Settings.from_environment({"RAMPGATE_HOSTS": words})
    assert Settings.from_environment({"RAMPGATE_HOSTS": " A.example  b:1 "}).hosts == ("a.example", "b:1")
