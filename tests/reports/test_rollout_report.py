"""The report as an asset: of the latest rollout, linked, and written by the jobs that decide."""

from pathlib import Path

import dagster as dg

from assets.rollout_report import rollout_report
from pipelines.core.manifest.load import load_models
from pipelines.model_pipeline import model_definitions, model_jobs
from pipelines.platform.systems import Systems
from resources.settings import ROOT, Settings
from tests.support.memory_systems import given
from tests.support.rollouts import MODEL, Rig, good

MANIFESTS = ROOT / "serving_manifests"


def test_the_latest_rollouts_report_is_linked(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rollout_id = rig.start()
    rig.controller().drive(rollout_id, good(rig.clock.now))
    systems = Systems(Settings.from_environment({"RAMPGATE_HOME": str(tmp_path)}))
    model = next(m for m in load_models(MANIFESTS).models if m.name == MODEL)
    result = dg.materialize([rollout_report(model)], resources=given(systems))
    (event,) = result.asset_materializations_for_node(f"{MODEL.replace('-', '_')}__rollout_report")
    metadata = {name: value.value for name, value in event.metadata.items()}
    assert metadata["report"] == systems.links.rollout_report(rollout_id)
    assert metadata["rollout"] == rollout_id
    assert "takes 10 % of the traffic" in str(metadata["verdict"])
    assert Path(str(metadata["path"])).exists()


def test_every_job_that_decides_writes_the_report_last(tmp_path: Path) -> None:
    systems = Systems(Settings.from_environment({"RAMPGATE_HOME": str(tmp_path)}))
    model = next(m for m in load_models(MANIFESTS).models if m.name == MODEL)
    shared = dg.Definitions(resources=given(systems))
    definitions = dg.Definitions.merge(shared, model_definitions(model, model_jobs(model)))
    slug = MODEL.replace("-", "_")
    for job, last in (("start", "report"), ("step", f"{slug}__rollout_report")):
        nodes = definitions.resolve_job_def(f"{slug}_{job}").nodes_in_topological_order
        assert nodes[-1].name == last
