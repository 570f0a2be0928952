"""The code location: what a model folder becomes, and that one broken folder stops nobody else."""

from pathlib import Path

import dagster as dg
import pytest

from pipelines.definitions import build
from pipelines.rollout.events import Order
from resources.naming import Turn
from resources.settings import Settings
from sensors.manifests import manifest_sensor
from tests.support.memory_systems import MemorySystems, settings_at, write_model
from tests.support.rollouts import MODEL

ASSETS = {
    "prediction_log": "prediction_log",
    "outcomes": "prediction_log",
    "data_quality": "data_quality",
    "drift": "drift",
    "experiment": "experiment",
    "experiment_plan": "experiment",
    "rollout": "rollout",
    "rollout_report": "rollout",
}
JOBS = {
    "start", "step", "ingest", "look", "plan", "windows",
    "pause", "resume", "approve", "abort", "roll_back_now", "force_promote",
}  # fmt: skip
SHARED_SENSORS = {"guardrail_sensor", "alert_sensor", "failure_sensor", "manifest_sensor"}
TRAINS = "training: {recipe: assets.training.flights:train}\n"


def repository(settings: Settings) -> dg.RepositoryDefinition:
    dg.Definitions.validate_loadable(build(settings))
    return build(settings).get_repository_def()


def names(settings: Settings) -> tuple[set[str], set[str], set[str]]:
    """(jobs, sensors, schedules)."""
    location = repository(settings)
    jobs = {name for name in location.job_names if not name.startswith("__")}
    return jobs, {s.name for s in location.sensor_defs}, {s.name for s in location.schedule_defs}


def groups(settings: Settings) -> dict[str, str]:
    """Asset -> group."""
    nodes = repository(settings).asset_graph.asset_nodes
    return {node.key.to_user_string(): node.group_name for node in nodes}


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    write_model(tmp_path / "manifests", MODEL, TRAINS)
    return settings_at(tmp_path)


def test_a_model_folder_becomes_its_assets_in_their_groups(home: Settings) -> None:
    expected = {f"flight_delay/{name}": group for name, group in ASSETS.items()}
    assert groups(home) == expected | {"flight_delay/model_version": "registry"}


def test_a_model_folder_becomes_its_jobs_sensors_and_schedules(home: Settings) -> None:
    jobs, sensors, schedules = names(home)
    assert jobs == {f"flight_delay_{name}" for name in JOBS | {"train"}} | {"lake_maintenance"}
    assert sensors == SHARED_SENSORS | {
        f"flight_delay_{name}_sensor" for name in ("challenger", "evidence", "rollout")
    }
    assert schedules == {
        "flight_delay_ingest_schedule",
        "flight_delay_windows_schedule",
        "lake_maintenance_schedule",
    }


def test_a_second_folder_adds_a_second_model_and_no_code(home: Settings) -> None:
    before = groups(home)
    jobs, sensors, schedules = names(home)
    write_model(home.manifests, "churn")
    assert groups(home) == before | {f"churn/{name}": group for name, group in ASSETS.items()}
    more_jobs, more_sensors, more_schedules = names(home)
    assert more_jobs - jobs == {f"churn_{name}" for name in JOBS}, "it has no recipe: nothing trains it"
    assert more_sensors - sensors == {f"churn_{n}_sensor" for n in ("challenger", "evidence", "rollout")}
    assert more_schedules - schedules == {"churn_ingest_schedule", "churn_windows_schedule"}


def test_a_broken_manifest_leaves_the_other_models_and_is_alerted(
    systems: MemorySystems, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(systems.settings.manifests, "churn", "stepps: [10, 100]\n")
    with caplog.at_level("ERROR"):
        assert {name.partition("/")[0] for name in groups(systems.settings)} == {"flight_delay"}
    assert "churn/rollout.yaml" in caplog.text
    manifest_sensor()(dg.build_sensor_context(resources={"systems": systems}))
    (alert,) = systems.ledger.outbox.all()
    assert "churn/rollout.yaml" in alert.body
    assert "stepps" in alert.body


def test_no_models_at_all_still_load(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    assert names(settings_at(tmp_path))[1] == SHARED_SENSORS


def test_everything_is_on_by_default(home: Settings) -> None:
    location = repository(home)
    off = [s.name for s in location.sensor_defs if s.default_status is not dg.DefaultSensorStatus.RUNNING]
    off += [
        s.name for s in location.schedule_defs if s.default_status is not dg.DefaultScheduleStatus.RUNNING
    ]
    assert not off


def test_everything_says_what_it_is_for(home: Settings) -> None:
    location = repository(home)
    silent = [n.key.to_user_string() for n in location.asset_graph.asset_nodes if not n.description]
    silent += [s.name for s in location.sensor_defs if not s.description]
    jobs = [job for job in location.get_all_jobs() if not job.name.startswith("__")]
    silent += [job.name for job in jobs if not job.description]
    assert not silent


def test_each_data_check_of_the_manifest_is_an_asset_check(home: Settings) -> None:
    keys = repository(home).asset_graph.asset_check_keys
    found = {k.name for k in keys if k.asset_key == dg.AssetKey(["flight_delay", "data_quality"])}
    assert len(found) == 3, "two of the manifest, and the window as a whole"
    drift = {k.name for k in keys if k.asset_key == dg.AssetKey(["flight_delay", "drift"])}
    assert drift == {"canary_vs_stable", "current_vs_reference"}


def test_the_rollout_depends_on_its_evidence(home: Settings) -> None:
    node = repository(home).asset_graph.get(dg.AssetKey(["flight_delay", "rollout"]))
    parents = {parent.path[-1] for parent in node.parent_keys}
    assert parents == {"model_version", "data_quality", "drift", "experiment"}


def test_an_order_waits_behind_no_other_run(home: Settings) -> None:
    jobs = [job for job in repository(home).get_all_jobs() if not job.name.startswith("__")]
    priority = {job.name: int(job.tags.get("dagster/priority", 0)) for job in jobs}
    orders = {f"flight_delay_{order}" for order in Order}
    assert orders <= priority.keys()
    assert min(priority[name] for name in orders) > max(priority[n] for n in priority.keys() - orders)


def test_what_schedules_ask_for_is_the_last_in_the_queue(home: Settings) -> None:
    """The schedules of all models come round at the same minute; an open rollout's evidence goes before them."""
    found = repository(home)
    scheduled = {schedule.job_name for schedule in found.schedule_defs}
    for name in scheduled:
        assert int(found.get_job(name).tags.get("dagster/priority", 0)) < Turn.EVIDENCE
    assert Turn.SCHEDULED < Turn.EVIDENCE < Turn.ROLLOUT < Turn.ORDER
