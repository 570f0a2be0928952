"""The code location: what a model folder becomes, and that one broken folder stops nobody else."""

from pathlib import Path

import dagster as dg
import pytest

from pipelines.core.manifest.load import Catalogue, load_models
from pipelines.core.rollout.events import Order
from pipelines.definitions import build
from pipelines.rollouts.naming import Turn
from resources.settings import Settings
from sensors.manifests import manifest_sensor
from tests.support.memory_systems import MemorySystems, given, settings_at, write_model
from tests.support.rollouts import MODEL

ASSETS = {
    "prediction_log": "prediction_log",
    "outcomes": "prediction_log",
    "data_quality": "data_quality",
    "drift": "drift",
    "experiment": "experiment",
    "experiment_plan": "experiment",
    "rehearsal": "experiment",
    "rollout": "rollout",
    "rollout_report": "rollout",
}

JOBS = {
    "start", "step", "ingest", "look", "plan", "rehearse", "windows",
    "pause", "resume", "approve", "abort", "roll_back_now", "force_promote", "undo",
}  # fmt: skip

SENSORS = {
    "challenger_sensor", "evidence_sensor", "rollout_sensor", "guardrail_sensor", "routine_sensor",
    "alert_sensor", "failure_sensor", "manifest_sensor",
}  # fmt: skip

TRAINS = "training: {recipe: pipelines.demo.flights:train}\n"


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


def test_a_model_folder_becomes_its_jobs_and_no_sensor_or_schedule(home: Settings) -> None:
    jobs, sensors, schedules = names(home)
    assert jobs == {f"flight_delay_{name}" for name in JOBS | {"train"}} | {"lake_maintenance"}
    assert sensors == SENSORS
    assert schedules == {"lake_maintenance_schedule"}


def test_a_second_folder_adds_a_second_model_and_no_code(home: Settings) -> None:
    before = groups(home)
    jobs, sensors, schedules = names(home)
    write_model(home.manifests, "churn")
    assert groups(home) == before | {f"churn/{name}": group for name, group in ASSETS.items()}
    more_jobs, more_sensors, more_schedules = names(home)
    assert more_jobs - jobs == {f"churn_{name}" for name in JOBS}, "it has no recipe: nothing trains it"
    assert (more_sensors, more_schedules) == (sensors, schedules), "one of a kind serves all models"


def test_a_shared_sensor_may_start_the_jobs_of_every_model(home: Settings) -> None:
    write_model(home.manifests, "churn")
    targets = {each.name: {t.job_name for t in each.targets} for each in repository(home).sensor_defs}
    for sensor, jobs in {
        "challenger_sensor": {"start"},
        "rollout_sensor": {"step"},
        "evidence_sensor": {"look", "windows"},
        "routine_sensor": {"ingest", "windows"},
    }.items():
        assert targets[sensor] == {f"{model}_{job}" for model in ("churn", "flight_delay") for job in jobs}


def test_a_run_of_a_model_builds_no_other_models_definitions(home: Settings) -> None:
    write_model(home.manifests, "churn")
    built = build(home, only="churn").get_repository_def()
    jobs = {name for name in built.job_names if not name.startswith("__")}
    assert jobs == {f"churn_{name}" for name in JOBS} | {"lake_maintenance"}
    for unknown in ("", "gone", "../churn"):
        everything = build(home, only=unknown).get_repository_def()
        assert {"churn_start", "flight_delay_start"} <= set(everything.job_names), "rather all than none"


def test_a_broken_manifest_leaves_the_other_models_and_is_alerted(
    systems: MemorySystems, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(systems.settings.manifests, "churn", "stepps: [10, 100]\n")
    with caplog.at_level("ERROR"):
        assert {name.partition("/")[0] for name in groups(systems.settings)} == {"flight_delay"}
    assert "churn/rollout.yaml" in caplog.text
    manifest_sensor()(dg.build_sensor_context(resources=given(systems)))
    (alert,) = systems.ledger.outbox.all()
    assert "churn/rollout.yaml" in alert.body
    assert "stepps" in alert.body


def test_manifests_are_read_again_when_a_file_was_changed_and_not_before(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor, read = manifest_sensor(), list[Path]()

    def counted(folder: Path) -> Catalogue:
        read.append(folder)
        return load_models(folder)

    monkeypatch.setattr("sensors.manifests.load_models", counted)

    def said() -> str:
        return str(sensor(dg.build_sensor_context(resources=given(systems))).skip_message)

    for _ in range(3):
        assert said() == "every manifest can be read"
    assert len(read) == 1
    write_model(systems.settings.manifests, "churn", "stepps: [10, 100]\n")
    for _ in range(2):
        assert "stepps" in said()
    assert len(read) == 2


def test_no_models_at_all_still_load(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    assert names(settings_at(tmp_path))[1] == SENSORS


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
    orders = {f"flight_delay_{order}" for order in (*Order, "undo")}
    assert orders <= priority.keys()
    assert min(priority[name] for name in orders) > max(priority[n] for n in priority.keys() - orders)


def test_what_comes_round_for_every_model_is_the_last_in_the_queue(home: Settings) -> None:
    """Many models' come round; an open rollout's evidence goes before them."""
    found = repository(home)
    scheduled = {schedule.job_name for schedule in found.schedule_defs}
    scheduled |= {target.job_name for target in found.get_sensor_def("routine_sensor").targets}
    for name in scheduled:
        assert int(found.get_job(name).tags.get("dagster/priority", 0)) < Turn.EVIDENCE
    assert Turn.SCHEDULED < Turn.EVIDENCE < Turn.ROLLOUT < Turn.ORDER
