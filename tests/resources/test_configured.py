"""The external systems as Dagster resources: who asks for which, what shows of them, and that there is one of each."""

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

from pipelines.core.errors import LedgerError, ManifestError, RampgateError
from pipelines.definitions import build
from resources.configured import (
    HIDDEN,
    LEDGER,
    LakeResource,
    LedgerResource,
    ServingResource,
    SettingsResource,
    catalogue,
    once,
    shown,
    whole,
)
from resources.links import Links
from resources.settings import RUN_MODEL, Settings
from tests.support.memory_systems import MODEL, settings_at, write_model

SECRET = "s3cr3t"

SECRETS = {
    "RAMPGATE_LEDGER_URL": f"postgresql://rampgate:{SECRET}@ledger.example/rampgate",
    "RAMPGATE_LAKE_CATALOG": f"postgres:host=lake.example user=rampgate password='{SECRET} {SECRET}'",
    "MLFLOW_TRACKING_URI": f"https://rampgate:{SECRET}@mlflow.example",
    "RAMPGATE_ALERT_URLS": f"slack://{SECRET}/{SECRET}",
}

ASKED_BY_SENSORS = {
    "alert_sensor": {"ledger", "links", "notifier", "reports"},
    "challenger_sensor": {"controller", "ledger", "registry"},
    "evidence_sensor": {"ledger"},
    "failure_sensor": {"ledger", "links"},
    "guardrail_sensor": {"controller", "ledger", "links", "serving"},
    "manifest_sensor": {"ledger", "settings"},
    "rollout_sensor": {"controller", "ledger"},
    "routine_sensor": {"ledger", "settings"},
}

ASKED_BY_ASSETS = {
    "prediction_log": {"lake", "ledger", "settings"},
    "outcomes": {"lake", "ledger", "settings"},
    "data_quality": {"controller", "lake", "ledger", "registry", "reports", "settings"},
    "drift": {"controller", "lake", "ledger", "reports", "settings"},
    "experiment": {"controller", "lake", "ledger", "serving", "settings"},
    "experiment_plan": {"lake", "serving"},
    "rehearsal": {"lake", "serving"},
    "rollout": {"links", "rollouts"},
    "rollout_report": {"reports"},
    "model_version": {"links", "registry"},
}

ORDERED = {"controller", "ledger", "serving"}

ASKED_BY_OPS = {
    "start": {"links", "reports", "rollouts"},
    "carry_on": {"links", "rollouts"},
    "report": {"reports"},
    "tidy_lake": {"lake", "settings"},
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_model(tmp_path / "manifests", MODEL, "training: {recipe: pipelines.demo.flights:train}\n")
    return tmp_path


READS_SCHEDULES = pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`")


def snapshot(settings: Settings) -> RepositorySnap:
    """What the code location tells the UI."""
    return RepositorySnap.from_def(build(settings).get_repository_def())


@READS_SCHEDULES
def test_every_asset_op_and_sensor_asks_for_what_it_uses_by_name(home: Path) -> None:
    sensors: dict[str, set[str]] = defaultdict(set)
    assets: dict[str, set[str]] = defaultdict(set)
    ops: dict[str, set[str]] = defaultdict(set)
    for resource in snapshot(settings_at(home)).resources or ():
        for sensor in resource.sensors_using:
            sensors[sensor].add(resource.name)
        for key in resource.asset_keys_using:
            assets[key.path[-1]].add(resource.name)
        for job in resource.job_ops_using:
            for op in job.node_handles:
                ops[op.name].add(resource.name)
    assert sensors == ASKED_BY_SENSORS
    assert assets == ASKED_BY_ASSETS
    orders = {name: asked for name, asked in ops.items() if name.endswith("_order")}
    undo = [orders.pop(name) for name in list(orders) if name.endswith("_undo_order")]
    assert undo == [{"rollouts"}]
    assert len(orders) == 6
    assert all(asked == ORDERED for asked in orders.values())
    assert {name: asked for name, asked in ops.items() if name in ASKED_BY_OPS} == ASKED_BY_OPS


@READS_SCHEDULES
def test_what_each_resource_is_configured_with_shows_and_no_secret_does(home: Path) -> None:
    told = snapshot(settings_at(home, **SECRETS))
    found = {resource.name: resource.configured_values for resource in told.resources or ()}
    assert found["ledger"]["url"] == f'"postgresql://rampgate:{HIDDEN}@ledger.example/rampgate"'
    assert found["lake"]["catalog"] == f'"postgres:host=lake.example user=rampgate password={HIDDEN}"'
    assert found["registry"]["uri"] == f'"https://rampgate:{HIDDEN}@mlflow.example"'
    assert found["serving"]["mode"] == '"embedded"'
    assert found["settings"]["manifests"] == f'"{home / "manifests"}"'
    nested = {resource.name: set(resource.nested_resources) for resource in told.resources or ()}
    assert nested["controller"] == {"ledger", "registry", "serving"}
    assert nested["notifier"] == {"ledger", "settings"}
    assert SECRET not in dg.serialize_value(told)


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("sqlite:////home/a/ledger.db", "sqlite:////home/a/ledger.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:pass@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@ss@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=pass&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgres:host=a password = 'it''s' user=me", "postgres:host=a password = *** user=me"),
        ("postgres:host=a password=pass user=me", "postgres:host=a password=*** user=me"),
        ("postgres:host=a sslpassword=pass", "postgres:host=a sslpassword=***"),
        ("postgres:host=a password=pa\\ ss user=me", "postgres:host=a password=*** user=me"),
        ("https://token@mlflow.example/a", "https://***@mlflow.example/a"),
        ("https://mlflow.example/?access_token=pass&x=1", "https://mlflow.example/?access_token=***&x=1"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_an_address_is_shown_without_passwords_and_whole_again_from_the_environment(
    address: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(address) == seen
    assert shown(seen) == seen
    monkeypatch.setenv(LEDGER, address)
    assert whole(seen, LEDGER) == address
    monkeypatch.setenv(LEDGER, "postgresql://me:other@elsewhere/db")
    if HIDDEN in seen:
        with pytest.raises(RampgateError, match=r"RAMPGATE_LEDGER_URL == .*me:\*\*\*@elsewhere") as told:
            whole(seen, LEDGER)
        assert "other" not in str(told.value)
    else:
        assert whole(seen, LEDGER) == address


def test_settings_come_back_from_what_is_shown_with_the_secrets_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = settings_at(tmp_path, RAMPGATE_HOSTS="mlops.example", **SECRETS)
    assert SettingsResource.of(settings).get() == settings


def test_a_link_to_a_version_is_without_the_credentials_that_the_address_holds(tmp_path: Path) -> None:
    links = Links(settings_at(tmp_path, **SECRETS))
    assert links.version("m", "1") == "https://mlflow.example/#/models/m/versions/1"


def test_there_is_one_of_each_in_a_process_whichever_threads_ask_for_it(tmp_path: Path) -> None:
    made: list[str] = []

    @once
    def slow(name: str) -> object:
        made.append(name)
        time.sleep(0.05)
        if len(made) == 1:
            raise LedgerError("not yet")
        return object()

    with pytest.raises(LedgerError):
        slow("a")
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(slow, ["a"] * 8))
    assert (len(found), made) == (1, ["a", "a"])
    assert slow("b") not in found


@pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated")  # by Dagster itself
def test_two_ticks_and_a_run_get_the_same_systems(home: Path) -> None:
    """Each gets resources of its own from Dagster; what is behind them stays."""
    seen: dict[str, list[object]] = defaultdict(list)

    @dg.sensor(name="asks", target="*")
    def asks(ledger: LedgerResource, serving: ServingResource, lake: LakeResource) -> Iterator[dg.SkipReason]:
        seen["ledger"].append(ledger.get())
        seen["serving"].append(serving.get())
        seen["lake"].append(lake.get())
        yield dg.SkipReason("asked")

    @dg.op
    def works(ledger: LedgerResource, serving: ServingResource, lake: LakeResource) -> None:
        seen["ledger"].append(ledger.get())
        seen["serving"].append(serving.get())
        seen["lake"].append(lake.get())

    @dg.job
    def job() -> None:
        works()

    added = dg.Definitions(sensors=[asks], jobs=[job])
    defs = dg.Definitions.merge(build(settings_at(home)), added)
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            given = defs.get_repository_def().get_top_level_resources()
            with dg.build_sensor_context(instance=instance, resources=given) as context:
                defs.resolve_sensor_def("asks").evaluate_tick(context)
        assert defs.resolve_job_def("job").execute_in_process(instance=instance).success
    ledger, serving, lake = seen["ledger"], seen["serving"], seen["lake"]
    assert len(ledger) == len(serving) == len(lake) == 3
    assert len(set(map(id, ledger))) == len(set(map(id, serving))) == 1
    assert len(set(lake)) == 1  # equal: it holds no connection


def test_a_serving_mode_that_does_not_exist_is_said_when_it_is_asked_for(home: Path) -> None:
    settings = settings_at(home, RAMPGATE_SERVING="paper")
    serving = ServingResource(mode=settings.serving, settings=SettingsResource.of(settings))
    with pytest.raises(ManifestError, match="RAMPGATE_SERVING == 'paper', must be embedded or kserve"):
        serving.get()


def test_a_run_of_a_model_reads_no_other_models_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_at(tmp_path)
    write_model(settings.manifests, "churn")
    write_model(settings.manifests, "broken", "stepps: []\n")
    monkeypatch.setenv(RUN_MODEL, "churn")
    found = catalogue(settings.manifests)
    assert [model.name for model in found.models] == ["churn"] and found.errors == ()
    backend = ServingResource(mode="embedded", settings=SettingsResource.of(settings)).get()
    assert backend.capabilities("churn").sticky
    with pytest.raises(RampgateError, match="churn"):
        backend.capabilities(MODEL)
