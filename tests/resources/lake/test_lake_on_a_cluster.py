"""The lake with its catalogue in a real Postgres and its data on a real S3-compatible server."""

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from pipelines.core.errors import LakeError
from pipelines.monitoring.loading import fetch_from_stores
from resources.lake import segments
from resources.lake.connection import Lake
from resources.lake.ingest import SOURCE, ingest_predictions
from resources.lake.schema import counts
from resources.lake.writer_lock import postgres_writer_lock
from resources.prediction_log.objects import blob_lines, fetch_blobs, fetch_segments
from resources.settings import Settings
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, prediction, predictions
from tests.support.cluster_services import needs_postgres, needs_s3, object_store, postgres

pytestmark = [needs_postgres, needs_s3]

ENV = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


@dataclass
class Store:
    """Puts objects where a sink or KServe's agent would have put them."""

    lake: Lake

    def put(self, key: str, text: str) -> None:
        with self.lake.connect() as connection:
            connection.execute(
                f"COPY (SELECT unnest($lines) AS line) TO '{key}' (FORMAT csv, HEADER false, QUOTE '', DELIMITER '\x1f', ESCAPE '')",
                {"lines": text.rstrip("\n").split("\n")},
            )


@pytest.fixture(scope="module")
def services() -> Iterator[str]:
    with postgres() as dsn, object_store() as variables, pytest.MonkeyPatch.context() as patch:
        for name in ENV:
            patch.setenv(name, variables[name])
        yield dsn


@pytest.fixture
def cluster_lake(services: str, tmp_path: Path) -> Lake:
    """One catalogue for the module; every test has a model of its own name in it."""
    return Lake(f"postgres:{services}", "s3://rampgate-lake/data", tmp_path)


def load(lake: Lake, model: str, directory: Path) -> int:
    return ingest_predictions(lake, model, SCHEMA, directory).rows


def loaded_by(lake: Lake, model: str) -> partial[list[str]]:
    def ask(names: list[str]) -> list[str]:
        with lake.connect() as connection:
            return segments.loaded(connection, model, SOURCE, names)

    return partial(ask)


def test_segments_are_loaded_once_and_their_data_is_on_the_object_store(cluster_lake: Lake, tmp_path: Path):
    log = tmp_path / "log"
    log.mkdir()
    (log / "m-00001.w.1.jsonl").write_text("".join(predictions("a", 20)))
    assert load(cluster_lake, MODEL, log) == 20
    assert load(cluster_lake, MODEL, log) == 0
    assert counts(cluster_lake, MODEL).rows == 20
    with cluster_lake.connect() as connection:
        files = connection.execute("FROM glob('s3://rampgate-lake/data/**/*.parquet')").fetchall()
    assert files
    assert list(tmp_path.rglob("*.parquet")) == []


def test_writers_queue_and_a_death_frees_the_next(cluster_lake: Lake):
    order: list[str] = []

    def second() -> None:
        with cluster_lake.location.writing():
            order.append("second")

    waiting = Thread(target=second)
    with pytest.raises(ZeroDivisionError), cluster_lake.location.writing():
        waiting.start()
        waiting.join(0.5)
        order.append("first")
        raise ZeroDivisionError
    waiting.join(10)
    assert order == ["first", "second"]


def test_a_writer_that_waits_too_long_or_finds_no_catalogue_says_so(services: str):
    with (
        postgres_writer_lock(services, timeout=5),
        pytest.raises(LakeError, match="another process"),
        postgres_writer_lock(services, timeout=0.1),
    ):
        pass
    with (
        pytest.raises(LakeError, match="does not answer"),
        postgres_writer_lock("host=127.0.0.1 port=1 user=u", timeout=1),
    ):
        pass


def test_segments_on_the_object_store_are_a_source(cluster_lake: Lake, tmp_path: Path):
    store, spool = Store(cluster_lake), tmp_path / "spool"
    for number in range(3):
        store.put(f"s3://log/predictions/remote/r.w.{number}.jsonl", "".join(predictions(f"r{number}", 5)))
    store.put("s3://log/predictions/remote/r.w.9.open", "".join(predictions("open", 5)))
    ingest_predictions(cluster_lake, "remote", SCHEMA, spool)
    known = loaded_by(cluster_lake, "remote")
    with cluster_lake.connect() as connection:
        assert fetch_segments(connection, "s3://log/predictions/remote", spool, known) == 3
        assert fetch_segments(connection, "s3://log/predictions/remote", spool, known) == 0
    assert load(cluster_lake, "remote", spool) == 15
    for path in spool.glob("*.jsonl"):
        path.unlink()
    with cluster_lake.connect() as connection:
        assert fetch_segments(connection, "s3://log/predictions/remote", spool, known) == 0
    store.put("s3://log/predictions/remote/r.w.4.jsonl", "".join(predictions("r4", 5)))
    with cluster_lake.connect() as connection:
        assert fetch_segments(connection, "s3://log/predictions/remote", spool, known) == 1
    assert load(cluster_lake, "remote", spool) == 5
    assert counts(cluster_lake, "remote").duplicates == 0


def test_the_configured_stores_are_fetched_and_loaded(cluster_lake: Lake, tmp_path: Path):
    store, log = Store(cluster_lake), tmp_path / "log"
    settings = Settings.from_environment(
        {
            "RAMPGATE_HOME": str(tmp_path),
            "RAMPGATE_PREDICTION_LOG_STORE": "s3://log/configured/",
            "RAMPGATE_PREDICTION_LOG_BLOBS": "s3://log/agents/models",
        }
    )
    store.put("s3://log/configured/both/b.w.1.jsonl", "".join(predictions("seg", 5)))
    asked, answered = prediction("agent-1", version="3")
    for name, line in (("request", asked), ("response", answered)):
        store.put(f"s3://log/agents/models/both/predictor/agent-1-{name}.json", json.dumps(record(line)))
    assert fetch_from_stores(cluster_lake, settings, "both", log) == 0, "no version has made the tables yet"
    load(cluster_lake, "both", log)
    assert fetch_from_stores(cluster_lake, settings, "both", log) == 3
    assert load(cluster_lake, "both", log) == 6
    assert fetch_from_stores(cluster_lake, settings, "both", log) == 0


def record(line: str) -> dict[str, object]:
    """A log line as KServe's blob logger writes it."""
    event = json.loads(line)
    return {
        "Url": {"Scheme": "s3", "Host": "log"},
        "Bytes": base64.b64encode(json.dumps(event["data"]).encode()).decode(),
        "ContentType": "application/json",
        "ReqType": event["type"],
        "Id": event["id"],
        "InferenceService": "blobs",
        "Namespace": "models",
        "Component": "predictor",
        "Metadata": {"X-Unit-Id": ["u-7"], "X-Assignment": ["weighted"]},
        "Annotations": event["annotations"],
    }


def test_the_layout_of_kserves_blob_logger_is_a_source(cluster_lake: Lake, tmp_path: Path):
    store, spool = Store(cluster_lake), tmp_path / "spool"
    for number in range(4):
        asked, answered = prediction(f"b-{number}", version="3")
        root = f"s3://log/blobs/models/blobs/predictor/b-{number}"
        store.put(f"{root}-request.json", json.dumps(record(asked)))
        store.put(f"{root}-response.json", json.dumps([record(answered)]))
    store.put("s3://log/blobs/models/blobs/predictor/bad-request.json", '{"no": "record"}')
    ingest_predictions(cluster_lake, "blobs", SCHEMA, spool)
    known = loaded_by(cluster_lake, "blobs")
    with cluster_lake.connect() as connection:
        assert fetch_blobs(connection, "s3://log/blobs/models/blobs", spool, known) == 9
    report = ingest_predictions(cluster_lake, "blobs", SCHEMA, spool)
    assert (report.rows, report.bad, report.unpaired) == (4, 1, 0)
    with cluster_lake.connect() as connection:
        rows = connection.execute(
            'SELECT DISTINCT unit_id, version, assignment, features.distance FROM lake."blobs".predictions'
        ).fetchall()
        assert rows == [("u-7", "3", "weighted", 719.0)]
        assert fetch_blobs(connection, "s3://log/blobs/models/blobs", spool, known) == 0


def test_what_is_no_record_is_left_to_the_quarantine():
    assert blob_lines("{torn", at="t") == ["{torn\n"]
    assert blob_lines("[1]", at="t") == ["1\n"]


def test_a_catalogue_that_is_away_is_named_without_its_password(cluster_lake: Lake, tmp_path: Path):
    away = Lake(
        "postgres:host=127.0.0.1 port=1 user=u password=hunter2", cluster_lake.data_path, tmp_path / "other"
    )
    with pytest.raises(LakeError) as error, away.connect():
        pass
    assert "hunter2" not in str(error.value)
    assert "AWS_SECRET_ACCESS_KEY" in os.environ and os.environ["AWS_SECRET_ACCESS_KEY"] not in str(
        error.value
    )
