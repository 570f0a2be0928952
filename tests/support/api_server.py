"""A real API server (etcd and kube-apiserver) without a cluster, as controllers are tested with.

KUBEBUILDER_ASSETS is the directory with both programs (`setup-envtest use -p path` prints one), RAMPGATE_KSERVE_CRDS a
file or directory with KServe's CRDs (`config/crd/full` of its repository).
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support.ports import free_base

_TOKEN = "for-tests-only"


def missing() -> str:
    """Why there can be none here, or nothing."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    if not assets:
        return "needs KUBEBUILDER_ASSETS (etcd and kube-apiserver)"
    absent = [name for name in ("etcd", "kube-apiserver") if not (Path(assets) / name).exists()]
    if absent:
        return f"KUBEBUILDER_ASSETS == {assets!r} has no {', '.join(absent)}"
    return "" if _crd_files() else "needs RAMPGATE_KSERVE_CRDS (KServe's CRDs: config/crd/full)"


@contextmanager
def api_server() -> Iterator[Any]:
    """A running server with KServe's CRDs; yields a `kubernetes.client.ApiClient`."""
    home, base = Path(tempfile.mkdtemp(prefix="rg-api-", dir="/tmp")), free_base(3)
    assets = Path(os.environ["KUBEBUILDER_ASSETS"])
    with (home / "etcd.log").open("wb") as log:
        processes = [subprocess.Popen([str(assets / "etcd"), *_etcd(home, base)], stderr=log)]
    try:
        _keys(home)
        with (home / "api.log").open("wb") as log:
            command = [str(assets / "kube-apiserver"), *_server(home, base)]
            processes.append(subprocess.Popen(command, stderr=log))
        client = _client(base + 2)
        _await(client, home)
        _apply_crds(client)
        yield client
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _etcd(home: Path, base: int) -> list[str]:
    url, peer = f"http://127.0.0.1:{base}", f"http://127.0.0.1:{base + 1}"
    return [
        f"--data-dir={home / 'etcd'}", f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}", "--unsafe-no-fsync",
    ]  # fmt: skip


def _server(home: Path, base: int) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{base}", f"--secure-port={base + 2}", "--bind-address=127.0.0.1",
        f"--cert-dir={home / 'certificates'}", f"--token-auth-file={home / 'tokens'}",
        "--authorization-mode=AlwaysAllow", "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://tests", f"--service-account-key-file={home / 'accounts.key'}",
        f"--service-account-signing-key-file={home / 'accounts.key'}",
        "--disable-admission-plugins=ServiceAccount",
    ]  # fmt: skip


def _keys(home: Path) -> None:
    (home / "tokens").write_text(f"{_TOKEN},admin,admin,system:masters\n")
    subprocess.run(
        ["openssl", "genrsa", "-out", str(home / "accounts.key"), "2048"], check=True, capture_output=True
    )


def _client(port: int) -> Any:
    from kubernetes import client

    configuration: Any = client.Configuration()
    configuration.host, configuration.verify_ssl = f"https://127.0.0.1:{port}", False
    configuration.api_key = {"authorization": f"Bearer {_TOKEN}"}
    return client.ApiClient(configuration)


def _await(client: Any, home: Path) -> None:
    from kubernetes.client import ApiException, CoreV1Api
    from urllib3.exceptions import HTTPError

    deadline = time.monotonic() + 60
    while True:
        try:
            CoreV1Api(client).read_namespace("default")
        except (ApiException, HTTPError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError((home / "api.log").read_text()[-2000:]) from error
            time.sleep(0.2)
        else:
            return


def _apply_crds(client: Any) -> None:
    from kubernetes.client import ApiextensionsV1Api

    api = ApiextensionsV1Api(client)
    for path in _crd_files():
        for document in YAML(typ="safe").load_all(path.read_text()):
            if document and document.get("kind") == "CustomResourceDefinition":
                document["spec"].pop("conversion", None)  # KServe's webhook is not there
                api.create_custom_resource_definition(document)
    deadline = time.monotonic() + 30
    while not _established(api) and time.monotonic() < deadline:
        time.sleep(0.2)


def _established(api: Any) -> bool:
    found = api.read_custom_resource_definition("inferenceservices.serving.kserve.io").status
    return any(each.type == "Established" and each.status == "True" for each in found.conditions or [])


def _crd_files() -> list[Path]:
    place = Path(os.environ.get("RAMPGATE_KSERVE_CRDS", "/nowhere"))
    return [place] if place.is_file() else sorted(place.glob("*inferenceservices.yaml"))
