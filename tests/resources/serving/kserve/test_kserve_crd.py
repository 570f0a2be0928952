"""What rollouts write, against KServe's own CRD in a real API server; skipped where there is none."""

from collections.abc import Iterator
from typing import Any

import pytest

from resources.serving.kserve.client import Cluster, Conflict, watch
from resources.serving.kserve.identity import Identity, Restore, logger, owned
from resources.serving.kserve.service import DeploymentMode, build
from tests.fake_kubernetes.backends import MANIFEST
from tests.support.api_server import api_server, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "there is one"),
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
]

FIRST = Identity(version="1", digest="sha256:1", salt="s1", uri="s3://m/1")

SECOND = Identity(version="2", digest="sha256:2", salt="s2", uri="s3://m/2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with api_server() as client:
        yield Cluster(client)


def made(cluster: Cluster, name: str, mode: DeploymentMode) -> dict[str, Any]:
    """A service as a first rollout creates it."""
    extra = {"logger": logger("http://sink/")}
    body = build(MANIFEST, name, "default", mode, FIRST, extra)
    cluster.create(body)
    found = cluster.read(name)
    assert found is not None
    assert found["spec"] == body["spec"], "the CRD knows every field: nothing was pruned"
    return found


@pytest.mark.parametrize("mode", list(DeploymentMode))
def test_a_service_is_stored_as_it_was_written(cluster: Cluster, mode: DeploymentMode):
    made(cluster, f"stored-{mode.value.lower()}", mode)


def test_the_patches_of_a_knative_rollout(cluster: Cluster):
    found = made(cluster, "knative", DeploymentMode.KNATIVE)
    fields = owned("knative", SECOND, restore=Restore(identity=FIRST, revision="knative-predictor-00001"))
    for percent in (0, 10, None):
        spec = {"predictor": {**fields, "canaryTrafficPercent": percent}}
        cluster.patch("knative", spec, resource_version=found["metadata"]["resourceVersion"])
        found = cluster.read("knative")
        assert found is not None
        assert found["spec"]["predictor"].get("canaryTrafficPercent") == percent
        assert found["spec"]["predictor"]["model"]["storageUri"] == SECOND.uri


def test_the_patches_of_a_standard_rollout(cluster: Cluster):
    found = made(cluster, "standard", DeploymentMode.STANDARD)
    model = {**found["spec"]["predictor"]["model"], "storageUri": SECOND.uri}
    annotations = owned("standard", SECOND)["annotations"]
    predictor = {"name": SECOND.label, "model": model, "minReplicas": 1, "annotations": annotations}
    entry = {"trafficPercent": 10, "predictor": predictor}
    cluster.patch("standard", {"canary": [entry]}, resource_version=found["metadata"]["resourceVersion"])
    found = cluster.read("standard")
    assert found is not None and found["spec"]["canary"] == [entry]
    cluster.patch("standard", {"canary": None}, resource_version=found["metadata"]["resourceVersion"])
    found = cluster.read("standard")
    assert found is not None and "canary" not in found["spec"]


def test_a_patch_on_an_outdated_reading_is_refused(cluster: Cluster):
    found = made(cluster, "outdated", DeploymentMode.KNATIVE)
    version = found["metadata"]["resourceVersion"]
    cluster.patch("outdated", {"predictor": {"canaryTrafficPercent": 10}}, resource_version=version)
    with pytest.raises(Conflict):
        cluster.patch("outdated", {"predictor": {"canaryTrafficPercent": 20}}, resource_version=version)


def test_a_watch_tells_of_changes(cluster: Cluster):
    found = made(cluster, "watched", DeploymentMode.KNATIVE)
    version = found["metadata"]["resourceVersion"]
    cluster.patch("watched", {"predictor": {"canaryTrafficPercent": 10}}, resource_version=version)
    event = next(watch(cluster, cluster.services_path(), since=version, seconds=5, only="watched"))
    assert event["object"]["spec"]["predictor"]["canaryTrafficPercent"] == 10
