"""The cluster manifests: they build, they are locked down, and the rights in them are exactly those in use."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.core.errors import ServingError
from resources.serving.gateway.following import Follower, Installed
from resources.serving.kserve.assignment import Assignment, Assignments
from resources.serving.kserve.client import Cluster
from tests.fake_kubernetes.backends import applied, artefact, backend
from tests.fake_kubernetes.server import FakeKubernetes, serving
from tests.fake_kubernetes.world import Behaviour, World
from tests.serving_manifests.platform import PLATFORM, documents
from tests.serving_manifests.published_schemas import problems

Right = tuple[str, str, str]


def rights(path: Path) -> set[Right]:
    """(verb, group, resource) of all roles in a file."""
    return {
        (verb, group, resource)
        for document in documents(path)
        for rule in document.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


GATEWAY = rights(PLATFORM / "models" / "rbac-gateway.yaml") | rights(PLATFORM / "rbac-kserve.yaml")

GRANTED = rights(PLATFORM / "models" / "rbac.yaml") | rights(PLATFORM / "rbac-kserve.yaml")


def whole_life(fake: FakeKubernetes) -> None:
    """Everything that the backend does, failures included."""
    made = backend(fake)
    made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    made.promote("m", "1")
    made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    made.set_canary_percent("m", "2", 50)
    made.promote("m", "2")
    made.roll_back("m", "2")
    made.status("m")
    fake.store.delete(("inferenceservices.serving.kserve.io", "default", "m"))
    fake.world.models["s3://m/1"] = Behaviour(ready_after=10**6)
    with pytest.raises(ServingError):
        made.deploy_canary("m", artefact("1"), percent=0, salt="s3")
    made.roll_back("m", "1")
    share = Assignment(revision="m-v1", version="1", percent=10, salt="s")
    Assignments(made.cluster).change("m", lambda there: share)


@pytest.fixture(scope="module")
def used() -> Iterator[set[Right]]:
    seen: set[Right] = set()
    for mode in ("Knative", "Standard"):
        with serving(World(default_mode=mode)) as fake:
            fake.allowed = GRANTED
            whole_life(fake)
            seen |= {(call.verb, call.group, call.resource) for call in fake.calls}
    yield seen


def test_the_rights_are_exactly_those_in_use(used: set[Right]):
    assert used == GRANTED


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
def test_the_gateway_needs_its_rights_and_no_others(mode: str):
    with serving(World(default_mode=mode)) as fake:
        fake.apply(applied(mode))
        fake.allowed = GATEWAY
        cluster = Cluster.at(fake.url)
        follower = Follower(cluster, Installed(cluster, "kserve"))
        follower.start()
        deadline = time.monotonic() + 10
        watching = {(verb, "inferenceservices") for verb in ("list", "watch")}
        while time.monotonic() < deadline and not (
            follower.complete
            and "m" in follower.splits()
            and watching <= {(call.verb, call.resource) for call in fake.calls}
        ):
            fake.run(1)
            time.sleep(0.02)
        assert follower.trouble == {}
        follower.stop.set()
        used = {(call.verb, call.group, call.resource) for call in fake.calls}
    assert "m" in follower.splits()
    needed = {each for each in GATEWAY if each[2] != "revisions"} if mode == "Standard" else GATEWAY
    assert used - GATEWAY == set()
    assert needed - used <= {("get", "", "configmaps")}


def test_no_right_reaches_further_than_it_must():
    rules = [
        rule
        for path in PLATFORM.rglob("rbac*.yaml")
        for document in documents(path)
        for rule in document.get("rules", [])
    ]
    assert rules
    text = str(rules)
    assert "'*'" not in text and "secrets" not in text
    assert all("resourceNames" in rule for rule in rules if "configmaps" in rule["resources"])


@pytest.mark.parametrize("path", sorted(PLATFORM.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_object_is_one_of_the_published_apis(path: Path):
    for document in documents(path):
        if "kind" in document and document["kind"] != "Kustomization":
            assert problems(document) == []


def test_the_sidecar_alone_is_told_where_alerts_go():
    """It tells that a share has lapsed. Envoy, beside it, reads what strangers send."""
    deployment = next(each for each in documents(PLATFORM / "gateway.yaml") if each["kind"] == "Deployment")
    found = {
        each["name"]: {entry["name"]: entry.get("valueFrom") for entry in each["env"]}
        for each in deployment["spec"]["template"]["spec"]["containers"]
    }
    secret = found["sidecar"].pop("RAMPGATE_ALERT_URLS")
    assert secret == {"secretKeyRef": {"name": "rampgate-gateway", "key": "alert-urls", "optional": True}}
    assert found["sidecar"] == found["envoy"]


def test_every_models_inference_service_is_one_of_the_published_api():
    paths = sorted(PLATFORM.parent.glob("*/inferenceservice.yaml"))
    assert paths
    for path in paths:
        assert problems(documents(path)[0]) == []


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
def test_what_rollouts_write_is_the_published_api(mode: str):
    with serving(World(default_mode=mode)) as fake:
        whole_life(fake)
        written = [
            item
            for _, event, key, item in fake.store.events
            if key[0].startswith("inferenceservices") and event != "DELETED"
        ]
    specs = {json.dumps(item["spec"], sort_keys=True) for item in written}
    assert len(specs) > 5
    for spec in specs:
        made = {**written[0], "spec": json.loads(spec)}
        made["metadata"] = {"name": "m", "annotations": written[0]["metadata"].get("annotations", {})}
        assert problems({key: value for key, value in made.items() if key != "status"}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replica": 1}, "spec.replica: not a field of V1DeploymentSpec"),
        ({"replicas": "2"}, "must be int"),
        ({"selector": None}, "must not be `None`"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(change: dict[str, Any], said: str):
    deployment = next(each for each in documents(PLATFORM / "gateway.yaml") if each["kind"] == "Deployment")
    found = problems({**deployment, "spec": {**deployment["spec"], **change}})
    assert said in " ".join(found)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl to build kustomizations")
@pytest.mark.parametrize(("folder", "namespace"), [(PLATFORM, "rampgate"), (PLATFORM / "models", "models")])
def test_the_kustomizations_build(folder: Path, namespace: str):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    built = [each for each in YAML(typ="safe").load_all(done.stdout) if each]
    listed = documents(folder / "kustomization.yaml")[0]["resources"]
    assert len(built) == sum(len(documents(folder / name)) for name in listed)
    namespaces = {each["metadata"]["namespace"] for each in built if "namespace" in each["metadata"]}
    assert namespaces == {namespace}
    assert [problem for each in built for problem in problems(each)] == []
    for binding in (
        each for each in built if each["kind"].endswith("RoleBinding") or each["kind"] == "RoleBinding"
    ):
        assert binding["subjects"][0]["namespace"] == "rampgate"
