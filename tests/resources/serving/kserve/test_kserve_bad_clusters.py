"""What goes wrong in a cluster is named with the cluster's own words, and traffic stays on the champion."""

import pytest

from pipelines.core.errors import NotMeasured, ServingError
from resources.serving.kserve.client import Cluster
from tests.fake_kubernetes.backends import applied, artefact, backend
from tests.fake_kubernetes.faults import Fault, webhook_denies
from tests.fake_kubernetes.server import FakeKubernetes, serving
from tests.fake_kubernetes.world import Behaviour, Failure, World

FAILURES = {
    "image": 'Back-off pulling image "registry/predictor:9"',
    "load": "ModelLoadError: column dep_hour is not in the signature",
    "quota": 'pods "m-2" is forbidden: exceeded quota: compute, requested: cpu=2, used: cpu=8',
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_version_that_cannot_start(cluster: FakeKubernetes, kind: str):
    cluster.apply(applied(cluster.world.default_mode))
    cluster.run(3)
    cluster.world.models["s3://m/2"] = Behaviour(failure=Failure(kind, FAILURES[kind]))
    made = backend(cluster)
    with pytest.raises(ServingError) as error:
        made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    assert FAILURES[kind] in str(error.value)
    status = made.status("m")
    assert status.canary is not None and FAILURES[kind] in status.canary.message
    assert status.stable is not None and status.stable.percent == 100
    assert cluster.world.leaked("s3://m/2", since=0) == []
    restored = made.roll_back("m", "2")
    assert restored.canary is None and restored.stable is not None and restored.stable.ready


def test_a_version_that_is_only_slow(cluster: FakeKubernetes):
    cluster.apply(applied(cluster.world.default_mode))
    cluster.world.models["s3://m/2"] = Behaviour(ready_after=10**6)
    with pytest.raises(ServingError, match=r"not ready|of 1 replicas"):
        backend(cluster).deploy_canary("m", artefact("2"), percent=10, salt="s2")
    assert cluster.world.leaked("s3://m/2", since=0) == []


def test_a_webhook_says_no(cluster: FakeKubernetes):
    cluster.apply(applied(cluster.world.default_mode))
    cluster.run(3)
    cluster.faults.append(webhook_denies("models must be signed"))
    with pytest.raises(ServingError, match="models must be signed"):
        backend(cluster).deploy_canary("m", artefact("2"), percent=10, salt="s2")


def test_rbac_says_no(cluster: FakeKubernetes):
    cluster.apply(applied(cluster.world.default_mode))
    cluster.run(3)
    cluster.allowed = {("get", "serving.kserve.io", "inferenceservices")}
    with pytest.raises(ServingError, match='User "rampgate" cannot'):
        backend(cluster).deploy_canary("m", artefact("2"), percent=10, salt="s2")


def test_kserve_is_not_installed(knative: FakeKubernetes):
    knative.missing_groups.add("serving.kserve.io")
    with pytest.raises(ServingError, match="KServe is not installed"):
        backend(knative).status("m")


def test_modelmesh_is_refused(knative: FakeKubernetes):
    knative.apply(applied("ModelMesh"))
    with pytest.raises(ServingError, match="'ModelMesh' cannot split traffic.*allowed: Knative, Standard"):
        backend(knative).deploy_canary("m", artefact("2"), percent=10, salt="s2")


def test_standard_mode_without_the_gateway_api_is_refused():
    with serving(World(default_mode="Standard", gateway_api=False)) as fake:
        fake.apply(applied("Standard"))
        fake.run(3)
        with pytest.raises(ServingError, match="enableGatewayApi"):
            backend(fake).deploy_canary("m", artefact("2"), percent=10, salt="s2")
        assert fake.world.leaked("s3://m/2", since=0) == []


def test_the_recorded_mode_outranks_the_annotation(knative: FakeKubernetes):
    knative.apply(applied("Serverless"))
    knative.run(3)
    knative.patch("m", {"metadata": {"annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"}}})
    backend(knative).deploy_canary("m", artefact("2"), percent=10, salt="s2")
    assert knative.isvc("m")["spec"]["predictor"]["canaryTrafficPercent"] == 10


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("/var/mlruns/1", "one machine"),
        ("file:///var/mlruns/1", "one machine"),
        ("mlflow-artifacts:/1/abc", "proxy"),
        ("models:/m-123", "get_model_version_download_uri"),
        ("ftp://host/x", "allowed: abfs://, gs://, https://, pvc://, s3://"),
    ],
)
def test_artefacts_that_a_cluster_cannot_load(knative: FakeKubernetes, uri: str, why: str):
    with pytest.raises(ServingError, match=why):
        backend(knative).deploy_canary("m", artefact("2", uri=uri), percent=10, salt="s2")
    assert knative.calls == []


@pytest.mark.parametrize("scheme", ["s3", "gs", "https", "pvc", "abfs"])
def test_artefacts_that_a_cluster_can_load(knative: FakeKubernetes, scheme: str):
    uri = f"{scheme}://bucket/path/model"
    backend(knative).deploy_canary("m", artefact("2", uri=uri), percent=0, salt="s2")
    assert knative.isvc("m")["spec"]["predictor"]["model"]["storageUri"] == uri


def test_a_predictor_of_another_kind_is_refused(knative: FakeKubernetes):
    given = applied("Serverless")
    given["spec"]["predictor"] = {"containers": [{"image": "mine"}]}
    knative.apply(given)
    with pytest.raises(ServingError, match=r"spec\.predictor\.model is missing"):
        backend(knative).deploy_canary("m", artefact("2"), percent=10, salt="s2")


def test_a_wrong_token(knative: FakeKubernetes):
    knative.token = "right"
    made = backend(knative, cluster=Cluster.at(knative.url, token="wrong"))
    with pytest.raises(ServingError, match="401 Unauthorized"):
        made.status("m")
    assert backend(knative).status("m").stable is None


def test_an_api_server_that_is_gone(knative: FakeKubernetes):
    knative.faults.append(Fault("refused", method="GET", times=10**6))
    with pytest.raises(ServingError, match="GET /apis/serving"):
        backend(knative).promote("m", "2")


def test_a_cluster_that_never_acts(knative: FakeKubernetes):
    made = backend(knative)
    made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    made.promote("m", "1")
    knative.world.models["s3://m/2"] = Behaviour(ready_after=1)
    made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    stopped = backend(knative, cluster=made.cluster)
    knative.store.tick = lambda: None  # type: ignore[method-assign]
    with pytest.raises(ServingError, match="has 10 % instead of 50 %"):
        stopped.set_canary_percent("m", "2", 50)


def test_counters_without_prometheus_are_not_measured(knative: FakeKubernetes):
    with pytest.raises(NotMeasured, match="no Prometheus"):
        backend(knative).counters("m")
