"""Whoever may post to the sink must neither fill its memory nor make it fail, and what is refused is said."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resources.prediction_log.segments import closed_segments
from resources.prediction_log.sink.app import Sink, metrics
from resources.prediction_log.sink.committer import Committer
from tests.resources.prediction_log.sink.test_sink import headers

SMALL = b'{"inputs": []}'


async def post(
    sink: Sink, body: bytes | None, *, pieces: int = 1, hang: bool = False, **changes: str
) -> tuple[int, str]:
    """Status and text, of an ASGI server's messages."""
    sent: list[dict[str, Any]] = []
    parts: list[bytes] = []
    if body is not None:
        step = -(-len(body) // pieces)
        parts = [body[i : i + step] for i in range(0, len(body), step)]

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.Event().wait()
        part = parts.pop(0)
        await asyncio.sleep(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts) or hang}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers(**changes).items()]
    await sink({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.fixture
def committer(tmp_path: Path) -> Iterator[Committer]:
    yield Committer(tmp_path, "process", max_held=1_000_000)


def run(committer: Committer, work: Any) -> Any:
    async def within() -> Any:
        committer.start()
        try:
            return await work
        finally:
            await committer.stop()

    return asyncio.run(within())


@pytest.mark.parametrize("depth", [254, 500, 1_023, 1_024, 1_025, 100_000])
def test_a_body_of_any_depth_is_refused_in_words_or_written(committer: Committer, depth: int) -> None:
    body = b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}"
    status, text = run(committer, post(Sink(committer), body))
    assert status == 400
    assert text.startswith("body: ")
    assert committer.counts.refused == {"bad_event": 1}


@pytest.mark.parametrize("name", ["ce-metadata", "ce-annotations"])
def test_a_header_of_any_depth_or_shape_is_refused_in_words(committer: Committer, name: str) -> None:
    sink = Sink(committer)

    async def all_of_them() -> None:
        for value in ("[" * 900 + "]" * 900, '{"a": {"b": "c"}}', '[["a"]]'):
            text = f'{{"X-Unit-Id": {value}}}'
            status, said = await post(sink, SMALL, **{name: text})
            assert (status, said.startswith(name)) == (400, True), said

    run(committer, all_of_them())


@pytest.mark.parametrize(
    ("data", "held"),
    [("[NaN, 1]", [None, 1]), ("[Infinity]", 400), ("[NaN, -Infinity]", 400), ('[NaN, "\\ud800"]', 400), ("NaN NaN", 400),
     (f"[NaN, {'9' * 5000}]", 400), ("[NaN, " + "[" * 2000 + "]" * 2001, 400), ("[NaN, " + "[" * 300 + "]" * 301, 400)],
)  # fmt: skip
def test_no_body_that_a_model_server_takes_keeps_its_answer_out_of_the_log(
    committer: Committer, tmp_path: Path, data: str, held: Any
) -> None:
    status, _ = run(committer, post(Sink(committer), f'{{"data": {data}}}'.encode()))
    lines = [
        line for path in closed_segments(tmp_path / "flight-delay") for line in path.read_text().splitlines()
    ]
    assert [json.loads(line)["data"]["data"] for line in lines] == ([held] if status == 200 else [])
    assert status == (held if isinstance(held, int) else 200)


def test_what_waits_is_bounded_in_bytes_and_the_rest_is_told_to_come_back(committer: Committer) -> None:
    """Half-sent bodies count as much as those that wait for the disk."""
    sink = Sink(committer, body_seconds=0.2)
    large = json.dumps({"inputs": ["x" * 400_000]}).encode()

    async def attack() -> tuple[list[tuple[int, str]], int]:
        slow = [asyncio.create_task(post(sink, large, pieces=4, hang=True)) for _ in range(40)]
        await asyncio.sleep(0.05)
        most = committer.held
        answers = await asyncio.gather(*slow)
        assert await post(sink, SMALL) == (200, "")
        return list(answers), most

    answers, most = run(committer, attack())
    assert most <= committer.max_held
    assert {status for status, _ in answers} == {408, 503}
    assert committer.held == 0
    assert committer.counts.refused.keys() == {"too_slow", "busy"}
    assert "rampgate_sink_bytes_held 0" in metrics(committer)


def test_small_events_by_the_thousand_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    committer = Committer(tmp_path, "process", max_held=20_000)

    async def attack() -> list[tuple[int, str]]:
        return list(await asyncio.gather(*(post(Sink(committer), SMALL) for _ in range(500))))

    answers = run(committer, attack())
    written = sum(status == 200 for status, _ in answers)
    lines = [
        line for path in closed_segments(tmp_path / "flight-delay") for line in path.read_text().splitlines()
    ]
    assert {status for status, _ in answers} == {200, 503}
    assert len(lines) == written == committer.counts.written


def test_what_is_refused_is_counted_and_logged_but_not_once_for_each(
    committer: Committer, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(committer)

    async def attack() -> None:
        for _ in range(100):
            assert (await post(sink, b"{"))[0] == 400

    with caplog.at_level(logging.WARNING, logger="resources.prediction_log.sink.app"):
        run(committer, attack())
    assert committer.counts.refused == {"bad_event": 100}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"event refused (bad_event, number {n})" for n in (1, 2, 4, 8, 16, 32, 64)
    ]


def test_an_id_that_callers_repeat_is_written_every_time(committer: Committer, tmp_path: Path) -> None:
    async def attack() -> None:
        for _ in range(20):
            assert (
                await post(
                    Sink(committer),
                    SMALL,
                    **{"ce-id": "the same", "ce-metadata": '{"X-Request-Id":["a","a"]}'},
                )
            )[0] == 200

    run(committer, attack())
    assert committer.counts.written == 20
