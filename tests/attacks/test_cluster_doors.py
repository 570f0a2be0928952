"""On a cluster: no pod, caller or run gets further than the platform's manifests need it to."""

import copy
import importlib
import json
import re
from typing import Any

import pytest

from tests.fake_kubernetes.backends import MANIFEST, artefact, backend
from tests.fake_kubernetes.merge import merged
from tests.fake_kubernetes.server import serving
from tests.fake_kubernetes.world import World
from tests.serving_manifests.locked import unlocked
from tests.serving_manifests.network import Pod, allowed
from tests.serving_manifests.platform import PLATFORM, documents, launcher, manifests, pods, values

PARTS = ("rampgate-sink", "rampgate-gateway", "predictor", "dagsterWebserver", "dagsterDaemon", "code", "run")


@pytest.mark.parametrize("part", PARTS)
def test_no_pod_can_leave_its_container_write_its_own_files_or_take_its_nodes_memory(part: str):
    assert set(pods()) == set(PARTS)
    assert unlocked(pods()[part]) == []


def test_every_place_that_a_pod_may_write_is_named():
    writable = {
        name: {mount["mountPath"] for each in pod["containers"] for mount in each["volumeMounts"] if "readOnly" not in mount}
        for name, pod in pods().items()
    }  # fmt: skip
    assert writable == {
        "rampgate-sink": {"/log"},
        "rampgate-gateway": {"/xds"},
        "predictor": {"/tmp"},
        "dagsterWebserver": {"/tmp", "/dagster"},
        "dagsterDaemon": {"/tmp", "/dagster"},
        "code": {"/tmp", "/dagster", "/log"},
        "run": {"/tmp", "/dagster", "/log"},
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hostNetwork": True}, "hostNetwork is set"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volume v: ['hostPath']"),
        ({"volumes": [{"name": "v", "emptyDir": {}}]}, "volume v: no sizeLimit"),
        ({"securityContext": {}}, "sink: runAsNonRoot"),
        ({"initContainers": [{"name": "first"}]}, "first: readOnlyRootFilesystem"),
        ({"initContainers": [{"name": "first", "resources": {"limits": {"cpu": 1}}}]}, "first: memory limit"),
    ],
)
def test_a_pod_that_is_not_locked_is_found(change: dict[str, Any], said: str):
    assert said in unlocked({**pods()["rampgate-sink"], **change})


def test_pods_that_could_leave_their_container_are_refused_by_the_namespace():
    of = {
        document["metadata"]["name"]: {
            key.removeprefix("pod-security.kubernetes.io/"): value
            for key, value in document["metadata"]["labels"].items()
        }
        for name, document in manifests().items()
        if name.startswith("Namespace")
    }
    assert {of["rampgate"][mode] for mode in ("enforce", "warn", "audit")} == {"restricted"}
    assert [of["models"][mode] for mode in ("enforce", "warn", "audit")] == [
        "baseline",
        "restricted",
        "restricted",
    ]


TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def token_holders() -> set[str]:
    """part/container of those that find a token of the API server."""
    holders: set[str] = set()
    for part, pod in pods().items():
        given = pod.get("automountServiceAccountToken", True) and part != "predictor"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            at = [mount for mount in container["volumeMounts"] if mount["mountPath"] == TOKEN]
            if any("projected" in volumes[mount["name"]] for mount in at) or (given and not at):
                holders.add(f"{part}/{container['name']}")
    return holders


def test_only_those_that_ask_the_api_server_have_a_token():
    accounts = [
        name
        for name, document in manifests().items()
        if name.startswith("ServiceAccount") and document.get("automountServiceAccountToken") is False
    ]
    assert sorted(accounts) == ["ServiceAccount models/default", "ServiceAccount platform/default"]
    assert token_holders() == {"rampgate-gateway/sidecar", "dagsterDaemon/daemon", "code/code", "run/run"}


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
@pytest.mark.parametrize("said", [None, True, False])
def test_predictors_have_no_token_unless_their_manifest_asks_for_one(mode: str, said: bool | None):
    manifest = copy.deepcopy(MANIFEST)
    if said is not None:
        manifest["spec"]["predictor"]["automountServiceAccountToken"] = said
    with serving(World(default_mode=mode)) as fake:
        made = backend(fake, manifests=lambda service: manifest)
        made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
        made.promote("m", "1")
        made.deploy_canary("m", artefact("2"), percent=0, salt="s2")
        spec = fake.isvc("m")["spec"]
    canaries = [
        merged(copy.deepcopy(spec["predictor"]), each["predictor"]) for each in spec.get("canary", [])
    ]
    for predictor in (spec["predictor"], *canaries):
        assert predictor["automountServiceAccountToken"] is (said or False)


def test_rollouts_alone_may_change_what_is_served():
    """The code location's sensor and the run workers; not the webserver, not the daemon."""
    bound = {
        subject["name"]
        for name, document in manifests().items()
        if name.split()[0] in ("RoleBinding", "ClusterRoleBinding")
        for subject in document["subjects"]
    }
    assert bound == {"rampgate", "rampgate-gateway"}
    assert "serviceAccountName" not in values()["global"], "it would be the account of every part"
    accounts = {part: pods()[part].get("serviceAccountName") for part in PARTS if part != "predictor"}
    assert accounts == {
        "rampgate-sink": None,
        "rampgate-gateway": "rampgate-gateway",
        "dagsterWebserver": "rampgate-dagster",
        "dagsterDaemon": "rampgate-dagster",
        "code": "rampgate",
        "run": "rampgate",
    }
    assert values()["dagster-user-deployments"]["rbacEnabled"] is False


TAGS: dict[str, dict[str, Any]] = {
    "another account": {"pod_spec_config": {"service_account_name": "default"}},
    "another image and command": {"container_config": {"image": "mine", "command": ["sh"]}},
    "a variable": {"container_config": {"env": [{"name": "PYTHONPATH", "value": "/tmp"}]}},
    "every secret": {"container_config": {"env_from": [{"secret_ref": {"name": "rampgate-postgres"}}]}},
    "a path of the node": {"pod_spec_config": {"volumes": [{"name": "v", "host_path": {"path": "/"}}]}},
    "another label": {"pod_template_spec_metadata": {"labels": {"rampgate.io/part": "daemon"}}},
    "another job": {"job_spec_config": {"backoff_limit": 9}},
}


def test_whoever_starts_a_run_does_not_choose_what_its_pod_is():
    assert launcher()["only_allow_user_defined_k8s_config_fields"] == {}
    assert launcher()["only_allow_user_defined_env_vars"] == []
    assert launcher()["run_k8s_config"]["container_config"]["image"]
    for deployment in values()["dagster-user-deployments"]["deployments"]:
        assert deployment["includeConfigInLaunchedRuns"] == {"enabled": False}


@pytest.mark.parametrize("attack", TAGS)
def test_dagsters_launcher_refuses_a_run_that_chooses_its_pod(attack: str, monkeypatch: pytest.MonkeyPatch):
    launchers = pytest.importorskip("dagster_k8s.launcher", reason="part of the extra `cluster`")
    contexts = importlib.import_module("dagster_k8s.container_context")
    from dagster import DagsterRun
    from dagster._config import process_config

    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
    read = process_config(launchers.K8sRunLauncher.config_type(), launcher())
    assert read.success, read.errors
    made = launchers.K8sRunLauncher.from_config_value(None, read.value)
    runs = {"": DagsterRun(job_name="j"), attack: DagsterRun(job_name="j", tags={"dagster-k8s/config": json.dumps(TAGS[attack])})}  # fmt: skip
    contexts.K8sContainerContext.create_for_run(runs[""], made, True)
    with pytest.raises(Exception, match="violated the allowed list"):
        contexts.K8sContainerContext.create_for_run(runs[attack], made, True)


def test_a_secret_is_referred_to_key_by_key_and_written_down_nowhere():
    for path in PLATFORM.rglob("*.yaml"):
        text = path.read_text()
        assert "kind: Secret\n" not in text, path
        for whole in ("envFrom", "env_from", "envSecrets", "env_secrets", "secretName:"):
            assert whole not in text, f"{path}: {whole}"
    env = values()["dagster-user-deployments"]["deployments"][0]["env"]
    plain = {each["name"] for each in env if "value" in each}
    assert not [name for name in plain if re.search("TOKEN|SECRET|KEY|CATALOG|LEDGER|ALERT|SINK", name)]
    assert launcher()["run_k8s_config"]["container_config"]["env"] == env


def test_no_service_is_open_beyond_the_cluster():
    kinds = {name.split()[0] for name in manifests()}
    assert not kinds & {"Ingress", "Gateway", "HTTPRoute"}
    services = [each for name, each in manifests().items() if name.startswith("Service ")]
    assert len(services) == 3
    for service in services:
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    assert values()["dagsterWebserver"]["service"]["type"] == "ClusterIP"


def test_the_image_is_built_on_a_base_that_cannot_change_and_runs_as_nobody():
    lines = (PLATFORM / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    stages = {line.split()[3] for line in lines if line.startswith("FROM ") and " AS " in line}
    assert [base for base in bases if not (base in stages or re.search(r"@sha256:[0-9a-f]{64}$", base))] == []
    user = [line.split()[1] for line in lines if line.startswith("USER ")][-1]
    assert int(user) > 0, "a number: the kubelet cannot tell whether a name is root"


_CLIENTS, _MODELS = {"rampgate.io/clients": "true"}, {"rampgate.io/models": "true"}

_OF_KSERVE = "serving.kserve.io/inferenceservice"

CLIENT = Pod("client", "shop", {"app": "shop"}, _CLIENTS)

STRANGER = Pod("stranger", "else", {"app": "shop"})

OPERATOR = Pod("operator", "login", {}, {"rampgate.io/operators": "true"})

MONITORING = Pod("monitoring", "monitoring", {}, {"rampgate.io/monitoring": "true"})

PREDICTOR = Pod("predictor", "models", {_OF_KSERVE: "m"}, _MODELS)

OTHER = Pod("another predictor", "models", {_OF_KSERVE: "n"}, _MODELS)

SHELL = Pod("not of kserve", "models", {"app": "shell"}, _MODELS)

DNS = Pod("dns", "kube-system", {"k8s-app": "kube-dns"})

API_SERVER = Pod("api server", "", address="10.0.0.1")

METADATA = Pod("the cloud's metadata", "", address="169.254.169.254")

PUBLIC = Pod("public", "", address="52.1.2.3")

POSTGRES = Pod("postgres", "databases", {"app": "postgres"})

MLFLOW = Pod("mlflow", "mlflow", {"app": "mlflow"})

ACTIVATOR = Pod("activator", "knative-serving", {"app": "activator"})


def ours(part: str) -> Pod:
    return Pod(part, "rampgate", pods()[part]["labels"])


SINK, GATEWAY = ours("rampgate-sink"), ours("rampgate-gateway")

WEBSERVER, DAEMON, CODE, RUN = ours("dagsterWebserver"), ours("dagsterDaemon"), ours("code"), ours("run")

NEEDED = [
    (CLIENT, GATEWAY, 8080), (GATEWAY, PREDICTOR, 8080), (GATEWAY, PREDICTOR, 9081), (GATEWAY, PREDICTOR, 8012),
    (GATEWAY, ACTIVATOR, 8012), (ACTIVATOR, PREDICTOR, 8012), (CLIENT, PREDICTOR, 8080), (GATEWAY, API_SERVER, 443),
    (PREDICTOR, SINK, 8080), (PREDICTOR, PUBLIC, 443), (MONITORING, SINK, 8080), (MONITORING, PREDICTOR, 9091),
    (CODE, GATEWAY, 8081), (RUN, GATEWAY, 8080), (RUN, GATEWAY, 8081), (CODE, API_SERVER, 6443), (RUN, API_SERVER, 443),
    (CODE, MLFLOW, 5000), (RUN, MLFLOW, 5000), (CODE, MONITORING, 9090), (RUN, MONITORING, 9090), (RUN, PUBLIC, 443),
    (WEBSERVER, CODE, 3030), (DAEMON, CODE, 3030), (DAEMON, API_SERVER, 443), (OPERATOR, WEBSERVER, 3000),
    (WEBSERVER, POSTGRES, 5432), (DAEMON, POSTGRES, 5432), (CODE, POSTGRES, 5432), (RUN, POSTGRES, 5432),
    (PREDICTOR, DNS, 53), (GATEWAY, DNS, 53), (WEBSERVER, DNS, 53), (RUN, DNS, 53),
]  # fmt: skip

REFUSED = [
    (STRANGER, GATEWAY, 8080), (CLIENT, GATEWAY, 8081), (CLIENT, GATEWAY, 9901), (PREDICTOR, GATEWAY, 8081),
    (STRANGER, SINK, 8080), (CLIENT, SINK, 8080), (SHELL, SINK, 8080), (SINK, PUBLIC, 443), (SINK, DNS, 53),
    (STRANGER, WEBSERVER, 3000), (CLIENT, WEBSERVER, 3000), (PREDICTOR, WEBSERVER, 3000), (PREDICTOR, CODE, 3030),
    (CLIENT, CODE, 3030), (RUN, CODE, 3030), (GATEWAY, CODE, 3030), (WEBSERVER, API_SERVER, 443),
    (WEBSERVER, API_SERVER, 6443), (WEBSERVER, GATEWAY, 8081), (WEBSERVER, MLFLOW, 5000), (WEBSERVER, PUBLIC, 443),
    (SINK, API_SERVER, 443), (STRANGER, PREDICTOR, 8080), (PREDICTOR, OTHER, 8080),
    (PREDICTOR, API_SERVER, 443), (PREDICTOR, API_SERVER, 6443), (PREDICTOR, METADATA, 80), (PREDICTOR, METADATA, 443),
    (PREDICTOR, POSTGRES, 5432), (PREDICTOR, MLFLOW, 5000), (PREDICTOR, PUBLIC, 80), (GATEWAY, POSTGRES, 5432),
    (GATEWAY, MLFLOW, 5000), (RUN, METADATA, 80),
]  # fmt: skip


@pytest.fixture(scope="module")
def policies() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for folder, namespace in ((PLATFORM, "rampgate"), (PLATFORM / "models", "models")):
        for each in documents(folder / "network-policy.yaml"):
            found.append({**each, "metadata": {**each["metadata"], "namespace": namespace}})
    return found


def test_what_the_platform_needs_is_reached_and_nothing_else(policies: list[dict[str, Any]]):
    asked = [
        (f"{caller.name} -> {called.name}:{port}", caller, called, port)
        for caller, called, port in NEEDED + REFUSED
    ]
    reached = {
        name
        for name, caller, called, port in asked
        if allowed(policies, caller, called, port, "UDP" if port == 53 else "TCP")
    }
    assert reached == {name for name, *_ in asked[: len(NEEDED)]}
