"""The page of reports says which sensors and schedules are off, by what the watch kept; it asks nobody and never fails."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import httpx
import pytest
import uvicorn

from pipelines.platform.health import SwitchedOff
from pipelines.platform.parts import switches_file
from pipelines.platform.switches import KNOWN_FOR, SwitchesLook, last_look, look_now, write_look
from pipelines.platform.web import application
from pipelines.platform.web_guard import JSON, Guard, Rules
from resources.serving.embedded.supervisor import wait_until
from resources.settings import HOST, Settings
from tests.support.own_home import own_home

EVIL = "<script>window.ran=1</script>"

GUARD = SwitchedOff("guardrail_sensor", "Takes traffic away. And more.", "http://127.0.0.1:1/g")

NOT_KNOWN = "not known, because the watch does not run"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with own_home() as settings:
        yield settings


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    """Asks the server behind its guard, as `python -m pipelines.platform.web reports` has it."""
    port = settings.ports.reports
    guarded = Guard(application(settings), Rules(port=port, hosts=settings.hosts, types=JSON))
    server = uvicorn.Server(uvicorn.Config(guarded, host=HOST, port=port, log_level="warning"))
    serving = Thread(target=server.run)
    serving.start()
    assert wait_until(lambda: server.started, seconds=30)
    with httpx.Client(base_url=f"http://{HOST}:{port}", trust_env=False) as client:
        yield client
    server.should_exit = True
    serving.join()


@pytest.fixture
def kept(settings: Settings) -> Path:
    path = switches_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def page(client: httpx.Client) -> str:
    answer = client.get("/")
    assert (answer.status_code, "default-src 'none'" in answer.headers["content-security-policy"]) == (
        200,
        True,
    )
    return answer.text


def aged(look: SwitchesLook, age: timedelta) -> SwitchesLook:
    return look.model_copy(update={"at": datetime.now(UTC) - age})


def test_what_is_off_is_on_the_page_with_since_when_and_how_it_is_switched_on(
    client: httpx.Client, kept: Path
) -> None:
    write_look(kept, look_now([GUARD], None))
    [off] = look_now([GUARD], last_look(kept)).off
    found = page(client)
    assert f"guardrail_sensor is off, seen so since {off.since:%Y-%m-%d %H:%M:%S} UTC" in found
    assert "nobody does this: Takes traffic away. To switch it on" in found
    assert '<a href="http://127.0.0.1:1/g">' in found


def test_a_page_on_which_all_is_on_has_no_banner(client: httpx.Client, kept: Path) -> None:
    write_look(kept, look_now([], None))
    assert "<header" not in page(client)


def malformed() -> Iterator[bytes]:
    yield from (b"", b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 100_000, b'{"at": "yesterday"}')
    now = datetime.now(UTC)
    yield f'{{"at":"{now:%Y-%m-%dT%H:%M:%S}","answered":true,"off":[]}}'.encode()  # a time without a zone
    yield look_now([GUARD], None).model_dump_json()[:-5].encode()


def test_without_a_file_or_with_a_malformed_one_it_is_not_known(client: httpx.Client, kept: Path) -> None:
    assert NOT_KNOWN in page(client)
    for content in malformed():
        kept.write_bytes(content)
        assert NOT_KNOWN in page(client), content[:100]


@pytest.mark.parametrize("age", [KNOWN_FOR, timedelta(days=3), -2 * KNOWN_FOR], ids=str)
def test_a_stale_look_is_not_known_whatever_it_found(
    client: httpx.Client, kept: Path, age: timedelta
) -> None:
    for off in ([], [GUARD]):
        write_look(kept, aged(look_now(off, None), age))
        found = page(client)
        assert (NOT_KNOWN in found, "guardrail_sensor" in found) == (True, False)


def test_where_dagster_cannot_say_nothing_is_taken_to_be_on(client: httpx.Client, kept: Path) -> None:
    write_look(kept, look_now(None, look_now([GUARD], None)))
    found = page(client)
    assert ("Dagster does not say" in found, "guardrail_sensor is off" in found) == (True, True)
    write_look(kept, look_now(None, None))
    assert "Dagster does not say" in page(client)


def test_names_descriptions_and_addresses_are_escaped(client: httpx.Client, kept: Path) -> None:
    write_look(kept, look_now([SwitchedOff(EVIL, EVIL, f"javascript:{EVIL}")], None))
    found = page(client)
    assert (EVIL in found, "javascript:" in found, "&lt;script&gt;" in found) == (False, False, True)


def test_since_when_is_kept_from_look_to_look_and_forgotten_while_nobody_looked() -> None:
    first = look_now([GUARD], None)
    old = first.model_copy(
        update={"off": (first.off[0].model_copy(update={"since": first.at - timedelta(days=1)}),)}
    )
    assert look_now([GUARD], old).off[0].since == first.at - timedelta(days=1)
    assert look_now([GUARD], aged(old, KNOWN_FOR)).off[0].since >= first.at
