"""The documentation says what the code does: settings, links, formats."""

import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.outcomes import ingest_outcomes
from resources.registry.signature import Column, ModelSchema
from resources.settings import ROOT, Ports, Settings

SETTINGS = (ROOT / "docs" / "settings.md").read_text()

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

ROWS = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", SETTINGS, flags=re.MULTILINE))

PYTHON = [
    path
    for package in (
        "assets",
        "pipelines",
        "resources",
        "sensors",
        "benchmarks",
        "tests/ui",
        "tests/conformance",
    )
    for path in sorted((ROOT / package).rglob("*.py"))
]

EXAMPLES = {"RAMPGATE_ALERTS_TEAM"}
"""Names that a team might choose."""


def plain(cell: str) -> str:
    return cell.replace("`", "")


def test_every_variable_that_the_code_reads_is_documented() -> None:
    read = {name for path in PYTHON for name in re.findall(r"RAMPGATE_[A-Z_]*[A-Z]", path.read_text())}
    read |= {f"RAMPGATE_{port.name.upper()}_PORT" for port in fields(Ports)}
    missing = sorted(name for name in read if name not in SETTINGS)
    assert not missing


def test_every_variable_that_is_documented_is_read() -> None:
    code = "".join(path.read_text() for path in PYTHON)
    ports = {f"RAMPGATE_{port.name.upper()}_PORT" for port in fields(Ports)}
    documented = set(re.findall(r"`(RAMPGATE_[A-Z_]+)`", SETTINGS)) - EXAMPLES - ports
    assert not sorted(name for name in documented if name not in code)


def test_the_documented_ports_are_the_defaults() -> None:
    ports = Settings.from_environment({}).ports
    documented = {port.name: ROWS[f"RAMPGATE_{port.name.upper()}_PORT"] for port in fields(Ports)}
    assert {name: int(value) for name, value in documented.items()} == vars(ports)


def test_the_port_base_numbers_ports_in_the_documented_order() -> None:
    ports = vars(Settings.from_environment({"RAMPGATE_PORT_BASE": "7000"}).ports)
    order = sorted(ports, key=lambda name: ports[name])
    assert ", ".join(order).replace("_", " ") in SETTINGS


@pytest.mark.parametrize(
    ("variable", "attribute"),
    [
        ("RAMPGATE_SERVING", "serving"),
        ("MLFLOW_TRACKING_URI", "mlflow_uri"),
        ("RAMPGATE_LEDGER_URL", "ledger_url"),
        ("RAMPGATE_LAKE_CATALOG", "lake_catalog"),
        ("RAMPGATE_LAKE_DATA", "lake_data"),
        ("RAMPGATE_PREDICTION_LOG", "prediction_log"),
        ("RAMPGATE_OUTCOMES", "outcomes"),
    ],
)
def test_the_documented_defaults_are_the_defaults(variable: str, attribute: str) -> None:
    settings = Settings.from_environment({"RAMPGATE_HOME": "/home"})
    documented = plain(ROWS[variable]).replace("<home>", "/home").replace("<mlflow port>", "5000")
    assert str(getattr(settings, attribute)) == documented


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    broken = [
        target for target in targets if "://" not in target and not (page.parent / target).resolve().exists()
    ]
    assert not broken


def test_the_documented_formats_are_what_the_lake_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "prediction-log.md").read_text()
    request, response, outcome = (
        json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    )
    predictions, outcomes = tmp_path / "predictions", tmp_path / "outcomes"
    for folder, name, lines in (
        (predictions, "churn-00002.writer.1.jsonl", (request, response)),
        (outcomes, "1.jsonl", (outcome,)),
    ):
        folder.mkdir()
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    lake = Lake(f"sqlite:{tmp_path}/catalog.db", str(tmp_path / "data"), tmp_path)
    schema = ModelSchema((Column("age", "double"),), (Column("score", "double"),))
    loaded = ingest_predictions(lake, "churn", schema, predictions)
    assert (loaded.rows, loaded.bad, loaded.unpaired) == (1, 0, 0)
    seen = ingest_outcomes(lake, "churn", outcomes, now=datetime(2026, 1, 2, tzinfo=UTC))
    assert (seen.rows, seen.bad, seen.unknown) == (2, 0, 0)
