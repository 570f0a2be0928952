"""Segments and outcome files as the serving side and a team would write them."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.outcomes import ingest_outcomes
from resources.registry.signature import Column, ModelSchema

MODEL = "flight-delay"

START = datetime(2026, 1, 1, tzinfo=UTC)

SCHEMA = ModelSchema(
    (Column("distance", "double"), Column("origin", "string")), (Column("probability", "double"),)
)


@dataclass
class Log:
    """Writes closed segments and outcome files."""

    predictions: Path
    outcomes: Path

    @classmethod
    def below(cls, folder: Path) -> "Log":
        """An empty one, with its folders."""
        log = cls(folder / "predictions", folder / "outcomes")
        log.predictions.mkdir(parents=True)
        log.outcomes.mkdir(parents=True)
        return log

    def segment(self, name: str, *lines: str) -> Path:
        path = self.predictions / f"{MODEL}-00001.writer.{name}.jsonl"
        path.write_text("".join(lines))
        return path

    def outcome_file(self, name: str, *events: dict[str, Any] | str) -> Path:
        path = self.outcomes / f"{name}.jsonl"
        path.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in events))
        return path


def lake_below(folder: Path, *, threads: int = 1) -> Lake:
    """A lake that nothing was loaded into yet. Over a few hundred rows a second thread only costs: a third more."""
    return Lake(f"sqlite:{folder}/lake/catalog.db", str(folder / "lake" / "data"), folder, threads=threads)


def prediction(
    request_id: str,
    *,
    unit: str | None = "unit",
    call: str | None = None,
    caller: str | None = None,
    version: str = "1",
    revision: str = f"{MODEL}-00001",
    assignment: str = "weighted",
    at: datetime | timedelta = timedelta(0),
    status: int = 200,
    latency_ms: float = 3.25,
    inputs: dict[str, list[Any]] | None = None,
    outputs: dict[str, list[Any]] | None = None,
    data: dict[str, Any] | None = None,
) -> tuple[str, str]:
    """The request and the response line."""
    asked = START + at if isinstance(at, timedelta) else at
    shared: dict[str, Any] = {
        "specversion": "1.0",
        "id": request_id,
        "source": revision,
        "datacontenttype": "application/json",
        "inferenceservicename": MODEL,
        "namespace": "default",
        "component": "predictor",
        "endpoint": "",
        "metadata": {
            name: [value]
            for name, value in {
                "x-assignment": assignment,
                "x-unit-id": unit,
                "x-call-id": call,
                "x-request-id": caller,
            }.items()
            if value
        },
        "annotations": {"rampgate.io/version": version, "rampgate.io/revision": revision},
    }
    request = shared | {
        "type": "org.kubeflow.serving.inference.request",
        "time": _stamp(asked),
        "data": data or {"inputs": tensors(inputs or {"distance": [719.0], "origin": ["JFK"]})},
    }
    answer = {"outputs": tensors(outputs or {"probability": [0.5]})}
    response = shared | {
        "type": "org.kubeflow.serving.inference.response",
        "time": _stamp(asked + timedelta(milliseconds=latency_ms)),
        "latencyms": latency_ms,
        "status": status,
        "data": answer if status == 200 else {"error": "no"},
    }
    return json.dumps(request) + "\n", json.dumps(response) + "\n"


def load_past(lake: Lake, log: Log, *, requests: int, begin: datetime, every: timedelta) -> None:
    """As many units with a request each, at equal distances, and an outcome `cost` of 1, 2 or 3."""
    lines: list[str] = []
    events: list[dict[str, Any]] = []
    for i in range(requests):
        at = begin + every * i
        lines += prediction(f"r{i}", unit=f"u{i}", at=at)
        events.append({"id": str(i), "key": f"u{i}", "at": at.isoformat(), "values": {"cost": 1 + i % 3}})
    log.segment("1", *lines)
    log.outcome_file("1", *events)
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    ingest_outcomes(lake, MODEL, log.outcomes)


def tensors(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """One tensor per column; a list of lists is a tensor of shape [n, k]."""
    return [_tensor(name, values) for name, values in columns.items()]


def _tensor(name: str, values: list[Any]) -> dict[str, Any]:
    shape = [len(values)]
    if isinstance(values[0], list):
        shape.append(len(values[0]))
        values = [value for row in values for value in row]
    return {
        "name": name,
        "shape": shape,
        "datatype": "BYTES" if isinstance(values[0], str) else "FP64",
        "data": values,
    }


def predictions(prefix: str, n: int, **options: Any) -> list[str]:
    """The lines of n predictions."""
    return [line for i in range(n) for line in prediction(f"{prefix}-{i}", **options)]


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
