"""The platform's manifests as data: what is applied, and every pod that comes of it."""

from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PLATFORM = Path(__file__).resolve().parents[2] / "serving_manifests" / "platform"


@cache
def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in YAML(typ="safe").load_all(path.read_text()) if each]


def values() -> dict[str, Any]:
    return documents(PLATFORM / "dagster-values.yaml")[0]


def launcher() -> dict[str, Any]:
    return values()["runLauncher"]["config"]["customRunLauncher"]["config"]


@cache
def manifests() -> dict[str, dict[str, Any]]:
    """What is applied, by kind and name."""
    return {
        f"{document['kind']} {path.parent.name}/{document['metadata']['name']}": document
        for path in PLATFORM.rglob("*.yaml")
        for document in documents(path)
        if "kind" in document and "metadata" in document
    }


@cache
def pods() -> dict[str, dict[str, Any]]:
    """Every pod that the platform starts, by the name of its part, with the labels that policies look at."""
    found: dict[str, dict[str, Any]] = {}
    for name, document in manifests().items():
        if name.startswith("Deployment"):
            template = document["spec"]["template"]
            found[document["metadata"]["name"]] = {
                "labels": template["metadata"]["labels"],
                **template["spec"],
            }
        if name.startswith("ClusterServingRuntime"):
            found["predictor"] = {"labels": {}, **document["spec"]}
    code = values()["dagster-user-deployments"]["deployments"][0]
    for name in ("dagsterWebserver", "dagsterDaemon"):
        found[name] = charted(values()[name], values()["serviceAccount"]["name"])
    found["code"] = charted(code, values()["dagster-user-deployments"]["serviceAccount"]["name"])
    run = launcher()["run_k8s_config"]
    found["run"] = {
        "labels": launcher()["labels"],
        "serviceAccountName": launcher()["service_account_name"],
        "securityContext": run["pod_spec_config"]["security_context"],
        "volumes": run["pod_spec_config"]["volumes"],
        "containers": [
            {
                "name": "run",
                "securityContext": run["container_config"]["security_context"],
                "volumeMounts": run["container_config"]["volume_mounts"],
                "resources": run["container_config"].get("resources", {}),
            }
        ],
    }
    return found


def charted(part: dict[str, Any], account: str) -> dict[str, Any]:
    """A pod as Dagster's chart makes it of a part's values."""
    container = {
        "name": part["labels"]["rampgate.io/part"],
        "securityContext": part["securityContext"],
        "volumeMounts": part["volumeMounts"],
        "resources": part.get("resources", {}),
    }
    return {
        "labels": part["labels"],
        "serviceAccountName": account,
        "securityContext": part["podSecurityContext"],
        "volumes": part["volumes"],
        "containers": [container],
    }
