"""Rollouts through the backend, over HTTP, in both modes."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.core.errors import ServingError
from resources.serving.contract import ServiceStatus
from resources.serving.kserve.backend import KServeBackend
from tests.fake_kubernetes.backends import MANIFEST, applied, artefact, backend
from tests.fake_kubernetes.faults import Fault, conflicts
from tests.fake_kubernetes.server import FakeKubernetes
from tests.fake_kubernetes.world import Behaviour, Failure


def shares(status: ServiceStatus) -> dict[str, float]:
    return {each.version: each.percent for each in (status.stable, status.canary) if each}


def with_champion(fake: FakeKubernetes, **changes: Any) -> KServeBackend:
    """Version 1 deployed and promoted."""
    made = backend(fake, **changes)
    made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    assert shares(made.promote("m", "1")) == {"1": 100}
    return made


def test_a_service_that_does_not_exist_has_no_revisions(cluster: FakeKubernetes):
    assert backend(cluster).status("m") == ServiceStatus(service="m", stable=None, canary=None)


def test_the_first_version_is_created_from_the_folder(cluster: FakeKubernetes):
    made = with_champion(cluster)
    isvc = cluster.isvc("m")
    predictor = isvc["spec"]["predictor"]
    assert isvc["metadata"]["labels"] == MANIFEST["metadata"]["labels"]
    assert (predictor["minReplicas"], predictor["timeout"]) == (2, 30)
    assert predictor["model"] == {**MANIFEST["spec"]["predictor"]["model"], "storageUri": "s3://m/1"}
    assert "canaryTrafficPercent" not in predictor
    assert made.status("m").canary is None


def test_a_rollout_from_canary_to_champion(cluster: FakeKubernetes):
    made = with_champion(cluster)
    status = made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    assert shares(status) == {"1": 90, "2": 10}
    assert status.salt == "s2"
    assert shares(made.set_canary_percent("m", "2", 50)) == {"1": 50, "2": 50}
    assert shares(made.set_canary_percent("m", "2", 100)) == {"1": 0, "2": 100}
    assert shares(made.promote("m", "2")) == {"2": 100}
    assert not cluster.world.outages(since=8)


def test_what_a_version_may_load_is_what_its_manifest_said_when_it_was_deployed_and_comes_back_with_it(
    cluster: FakeKubernetes,
):
    def allowed() -> str:
        return cluster.isvc("m")["spec"]["predictor"]["annotations"]["rampgate.io/allow"]

    made = with_champion(cluster, allow={"m": ("pickle", "custom_code"), "other": ("cloudpickle",)})
    assert allowed() == "pickle,custom_code"
    stricter = replace(made, allow={})
    stricter.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    stricter.roll_back("m", "2")
    assert allowed() == "pickle,custom_code"
    stricter.deploy_canary("m", artefact("3"), percent=10, salt="s3")
    stricter.promote("m", "3")
    assert allowed() == "none"


def test_every_call_can_be_repeated(cluster: FakeKubernetes):
    made = with_champion(cluster)
    for _ in range(2):
        assert shares(made.deploy_canary("m", artefact("2"), percent=10, salt="s2")) == {"1": 90, "2": 10}
    for _ in range(2):
        assert shares(made.set_canary_percent("m", "2", 0)) == {"1": 100, "2": 0}
    for _ in range(2):
        assert shares(made.roll_back("m", "2")) == {"1": 100}
    for _ in range(2):
        made.deploy_canary("m", artefact("3"), percent=50, salt="s3")
    for _ in range(2):
        assert shares(made.promote("m", "3")) == {"3": 100}
    written = [call for call in cluster.calls if call.verb == "patch"]
    made.promote("m", "3")
    made.roll_back("m", "2")
    assert [call for call in cluster.calls if call.verb == "patch"] == written, "nothing left to write"


def test_a_promoted_version_can_be_rolled_back(cluster: FakeKubernetes):
    made = with_champion(cluster)
    made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    made.promote("m", "2")
    assert shares(made.roll_back("m", "2")) == {"1": 100}
    assert shares(made.deploy_canary("m", artefact("3"), percent=20, salt="s3")) == {"1": 80, "3": 20}


def test_a_canary_at_a_hundred_percent_can_be_rolled_back(cluster: FakeKubernetes):
    made = with_champion(cluster)
    made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    made.set_canary_percent("m", "2", 100)
    assert shares(made.roll_back("m", "2")) == {"1": 100}


def test_the_brake_works_at_a_hundred_percent(cluster: FakeKubernetes):
    made = with_champion(cluster)
    made.deploy_canary("m", artefact("2"), percent=100, salt="s2")
    assert shares(made.set_canary_percent("m", "2", 0)) == {"1": 100, "2": 0}


def test_the_first_version_can_be_given_up(cluster: FakeKubernetes):
    made = backend(cluster)
    cluster.world.models["s3://m/1"] = Behaviour(ready_after=500)
    with pytest.raises(ServingError, match="after"):
        made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    assert made.roll_back("m", "1").stable is None
    assert made.status("m").canary is None


def test_a_service_applied_by_hand_is_adopted_and_given_back(cluster: FakeKubernetes):
    cluster.apply(applied(cluster.world.default_mode, minReplicas=2))
    cluster.run(3)
    made = backend(cluster)
    assert shares(made.deploy_canary("m", artefact("1"), percent=10, salt="s1")) == {"": 90, "1": 10}
    assert shares(made.roll_back("m", "1")) == {"": 100}
    assert cluster.isvc("m")["spec"]["predictor"]["model"]["storageUri"] == "s3://m/0"
    since = cluster.world.now
    cluster.run(5)
    assert cluster.world.leaked("s3://m/1", since=since) == []


def test_only_owned_fields_are_touched(cluster: FakeKubernetes):
    resources = {"limits": {"cpu": "2"}}
    given = applied(cluster.world.default_mode, minReplicas=2, serviceAccountName="reader")
    given["spec"]["predictor"]["model"]["resources"] = resources
    cluster.apply(given)
    cluster.run(3)
    made = backend(cluster)
    made.deploy_canary("m", artefact("1"), percent=10, salt="s1")
    made.promote("m", "1")
    predictor = cluster.isvc("m")["spec"]["predictor"]
    assert predictor["model"].pop("storageUri") == "s3://m/1"
    annotations = predictor.pop("annotations")
    predictor.pop("name", None)
    assert predictor == {
        "minReplicas": 2,
        "serviceAccountName": "reader",
        "model": {"modelFormat": {"name": "mlflow"}, "resources": resources},
    }
    assert all(key.startswith("rampgate.io/") for key in annotations)
    managers = [entry["manager"] for entry in cluster.isvc("m")["metadata"]["managedFields"]]
    assert managers == ["kubectl", "rampgate"]


def test_a_second_rollout_is_refused_while_one_runs(cluster: FakeKubernetes):
    made = with_champion(cluster)
    made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    with pytest.raises(ServingError, match="roll it back first"):
        made.deploy_canary("m", artefact("3"), percent=10, salt="s3")
    with pytest.raises(ServingError, match="another rollout"):
        made.deploy_canary("m", artefact("2"), percent=10, salt="other")
    assert shares(made.status("m")) == {"1": 90, "2": 10}


def test_percent_of_a_version_that_is_gone(cluster: FakeKubernetes):
    made = with_champion(cluster)
    assert shares(made.set_canary_percent("m", "2", 0)) == {"1": 100}
    with pytest.raises(ServingError, match="2 is not the canary"):
        made.set_canary_percent("m", "2", 10)
    with pytest.raises(ServingError, match="2 is not the canary"):
        made.promote("m", "2")


@pytest.mark.parametrize("percent", [-1, 0.5, 101])
def test_percents_that_cannot_be_set(cluster: FakeKubernetes, percent: float):
    with pytest.raises(ServingError, match="allowed: whole numbers from 0 to 100"):
        backend(cluster).set_canary_percent("m", "2", percent)


def test_a_shadow_step_is_refused(knative: FakeKubernetes):
    made = backend(knative)
    assert made.capabilities("m").mirror is False
    with pytest.raises(ServingError, match="mirror"):
        made.deploy_canary("m", artefact("1"), percent=0, salt="s1", mirror=True)


def test_a_storm_of_conflicts_is_ridden_out(cluster: FakeKubernetes):
    made = with_champion(cluster)
    cluster.faults.append(conflicts(5))
    assert shares(made.deploy_canary("m", artefact("2"), percent=10, salt="s2")) == {"1": 90, "2": 10}


def test_conflicts_without_end_are_an_error(cluster: FakeKubernetes):
    made = with_champion(cluster)
    cluster.faults.append(conflicts(10**6))
    with pytest.raises(ServingError, match="has been modified"):
        made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    assert shares(made.status("m")) == {"1": 100}


@pytest.mark.parametrize("kind", ["lost", "refused", "error"])
def test_patches_whose_answer_never_arrives(cluster: FakeKubernetes, kind: str):
    made = with_champion(cluster)
    cluster.faults.append(Fault(kind, times=2))
    assert shares(made.deploy_canary("m", artefact("2"), percent=10, salt="s2")) == {"1": 90, "2": 10}
    cluster.faults.append(Fault(kind, times=2))
    assert shares(made.roll_back("m", "2")) == {"1": 100}


def test_somebody_else_writes_between_reading_and_patching(knative: FakeKubernetes):
    made = with_champion(knative)

    def edit() -> None:
        knative.patch("m", {"metadata": {"labels": {"edited": "yes"}}})

    knative.faults.append(Fault("late", before=edit))
    assert shares(made.deploy_canary("m", artefact("2"), percent=10, salt="s2")) == {"1": 90, "2": 10}
    assert knative.isvc("m")["metadata"]["labels"]["edited"] == "yes"


def test_a_canary_percent_dropped_by_gitops_is_noticed(knative: FakeKubernetes):
    with_champion(knative)
    knative.world.models["s3://m/2"] = Behaviour(ready_after=12)
    reverted = iter([True])

    def sleep(seconds: float) -> None:
        knative.run(1)
        if next(reverted, False):
            knative.patch("m", {"spec": {"predictor": {"canaryTrafficPercent": None}}})

    dropped = backend(knative, sleep=sleep)
    assert shares(dropped.deploy_canary("m", artefact("2"), percent=10, salt="s2")) == {"1": 90, "2": 10}
    assert (
        max(
            share.percent
            for m in knative.world.leaked("s3://m/2", since=0)
            for share in m.shares
            if share.model == "s3://m/2"
        )
        == 10
    )


def test_the_logger_carries_version_and_unit(cluster: FakeKubernetes):
    with_champion(cluster, logger_url="http://sink.rampgate/")
    predictor = cluster.isvc("m")["spec"]["predictor"]
    assert predictor["logger"]["mode"] == "all"
    assert "x-unit-id" in predictor["logger"]["metadataHeaders"]
    assert set(predictor["logger"]["metadataAnnotations"]) <= set(predictor["annotations"])
    assert predictor["annotations"]["rampgate.io/version"] == "1"


def test_a_probe_reaches_the_version_it_names(cluster: FakeKubernetes):
    made = with_champion(cluster)
    made.deploy_canary("m", artefact("2"), percent=0, salt="s2")
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]}
    answer = made.predict("m", "2", body)
    assert answer["outputs"][0]["data"] == [1.0]
    host, sent = cluster.predictions[-1]
    assert sent == body
    canary = made.status("m").canary
    assert canary is not None
    assert host in ("latest-m-predictor.default.example.com", f"{canary.name}.default.svc.cluster.local")
    made.predict("m", "1", body)
    assert cluster.predictions[-1][0] != host
    with pytest.raises(ServingError, match="no revision serves version 9"):
        made.predict("m", "9", body)


def test_a_service_applied_without_a_model_gets_its_first_version(cluster: FakeKubernetes):
    cluster.world.models[""] = Behaviour(failure=Failure("load", "no model in /mnt/models"))
    cluster.apply(applied(cluster.world.default_mode, uri=""))
    cluster.run(3)
    made = backend(cluster)
    assert made.status("m").canary is None
    made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    assert shares(made.promote("m", "1")) == {"1": 100}
    with pytest.raises(ServingError):
        made.roll_back("m", "1")
    assert shares(made.status("m")) == {"1": 100}, "the service is not ours to delete"
