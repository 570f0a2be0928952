"""The cluster manifests: they build, they are locked down, and the rights in them are exactly those in use."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.errors import ServingError
from tests.fake_kubernetes.backends import artefact, backend
from tests.fake_kubernetes.server import FakeKubernetes, serving
from tests.fake_kubernetes.world import Behaviour, World

PLATFORM = Path(__file__).resolve().parents[2] / "serving_manifests" / "platform"
Right = tuple[str, str, str]


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in YAML(typ="safe").load_all(path.read_text()) if each]


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


def pod_specs() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in PLATFORM.glob("*.yaml"):
        for document in documents(path):
            if document.get("kind") == "Deployment":
                found.append(document["spec"]["template"]["spec"])
            if document.get("kind") == "ClusterServingRuntime":
                found.append(document["spec"])
    return found


def test_containers_run_without_privileges():
    containers = [container for spec in pod_specs() for container in spec["containers"]]
    assert len(containers) == 2
    for container in containers:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_no_secret_is_written_down():
    for path in PLATFORM.rglob("*.yaml"):
        for document in documents(path):
            assert document.get("kind") != "Secret", path
    sink = next(spec for spec in pod_specs() if "automountServiceAccountToken" in spec)
    token = next(e for e in sink["containers"][0]["env"] if e["name"] == "RAMPGATE_SINK_TOKEN")
    assert set(token) == {"name", "valueFrom"}


def test_dagster_runs_rollouts_as_the_account_that_has_the_rights():
    values = documents(PLATFORM / "dagster-values.yaml")[0]
    binding = documents(PLATFORM / "models" / "rbac.yaml")[1]
    assert values["global"]["serviceAccountName"] == binding["subjects"][0]["name"]
    assert values["runLauncher"]["type"] == "K8sRunLauncher"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl to build kustomizations")
@pytest.mark.parametrize(("folder", "namespace"), [(PLATFORM, "rampgate"), (PLATFORM / "models", "models")])
def test_the_kustomizations_build(folder: Path, namespace: str):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    built = [each for each in YAML(typ="safe").load_all(done.stdout) if each]
    listed = documents(folder / "kustomization.yaml")[0]["resources"]
    assert len(built) == sum(len(documents(folder / name)) for name in listed)
    namespaces = {each["metadata"]["namespace"] for each in built if "namespace" in each["metadata"]}
    assert namespaces == {namespace}
    for binding in (
        each for each in built if each["kind"].endswith("RoleBinding") or each["kind"] == "RoleBinding"
    ):
        assert binding["subjects"][0]["namespace"] == "rampgate"
