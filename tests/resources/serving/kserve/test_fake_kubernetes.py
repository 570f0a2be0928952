"""The fake API server behaves as a real one where the backend could tell the difference."""

import http.client
import json
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fake_kubernetes.backends import applied
from tests.fake_kubernetes.server import FakeKubernetes

BASE = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"

MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"


def ask(
    fake: FakeKubernetes, method: str, path: str, body: Any = None, kind: str = "application/json"
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(fake.url).netloc, timeout=5)
    payload = json.dumps(body) if body is not None else None
    connection.request(method, path, payload, {"Content-Type": kind})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


@pytest.fixture
def made(knative: FakeKubernetes) -> FakeKubernetes:
    assert ask(knative, "POST", f"{BASE}?fieldManager=kubectl", applied("Serverless"))[0] == 201
    return knative


def test_create_gives_identity_and_refuses_a_second(made: FakeKubernetes):
    _, isvc = ask(made, "GET", f"{BASE}/m")
    assert isvc["metadata"]["uid"] and isvc["metadata"]["generation"] == 1
    assert isvc["metadata"]["managedFields"][0]["manager"] == "kubectl"
    code, status = ask(made, "POST", BASE, applied("Serverless"))
    assert (code, status["reason"]) == (409, "AlreadyExists")


def test_generation_moves_with_the_spec_alone(made: FakeKubernetes):
    ask(made, "PATCH", f"{BASE}/m", {"metadata": {"labels": {"a": "b"}}}, MERGE)
    assert ask(made, "GET", f"{BASE}/m")[1]["metadata"]["generation"] == 1
    ask(made, "PATCH", f"{BASE}/m", {"spec": {"predictor": {"timeout": 9}}}, MERGE)
    assert ask(made, "GET", f"{BASE}/m")[1]["metadata"]["generation"] == 2


def test_a_stale_resource_version_conflicts(made: FakeKubernetes):
    _, isvc = ask(made, "GET", f"{BASE}/m")
    made.run(3)
    ask(made, "PATCH", f"{BASE}/m", {"spec": {"predictor": {"timeout": 9}}}, MERGE)
    assert ask(made, "PUT", f"{BASE}/m", isvc)[1]["reason"] == "Conflict"
    stale = {"metadata": {"resourceVersion": isvc["metadata"]["resourceVersion"]}}
    assert ask(made, "PATCH", f"{BASE}/m", stale, MERGE)[0] == 409


def test_status_is_a_world_of_its_own(made: FakeKubernetes):
    made.run(3)
    ask(made, "PATCH", f"{BASE}/m", {"status": {"deploymentMode": "Nonsense"}}, MERGE)
    _, isvc = ask(made, "GET", f"{BASE}/m")
    assert isvc["status"]["deploymentMode"] == "Knative"
    isvc["spec"]["predictor"]["timeout"] = 99
    isvc["status"]["extra"] = 1
    code, after = ask(made, "PUT", f"{BASE}/m/status", isvc)
    assert code == 200 and after["status"]["extra"] == 1
    assert "timeout" not in after["spec"]["predictor"]


def test_merge_patch_removes_and_json_patch_tests(made: FakeKubernetes):
    ask(made, "PATCH", f"{BASE}/m", {"spec": {"predictor": {"timeout": 9}}}, MERGE)
    ask(made, "PATCH", f"{BASE}/m", {"spec": {"predictor": {"timeout": None}}}, MERGE)
    assert "timeout" not in ask(made, "GET", f"{BASE}/m")[1]["spec"]["predictor"]
    operations = [
        {"op": "test", "path": "/spec/predictor/model/storageUri", "value": "s3://m/0"},
        {"op": "add", "path": "/spec/predictor/timeout", "value": 5},
    ]
    assert ask(made, "PATCH", f"{BASE}/m", operations, JSON_PATCH)[1]["spec"]["predictor"]["timeout"] == 5
    operations[0]["value"] = "another"
    code, status = ask(made, "PATCH", f"{BASE}/m", operations, JSON_PATCH)
    assert (code, status["reason"]) == (422, "Invalid")
    assert ask(made, "PATCH", f"{BASE}/m", {}, "text/plain")[0] == 415


def test_lists_watches_and_deletes(made: FakeKubernetes):
    _, listed = ask(made, "GET", BASE)
    version = listed["metadata"]["resourceVersion"]
    assert [item["metadata"]["name"] for item in listed["items"]] == ["m"]
    events: list[str] = []

    def watch() -> None:
        connection = http.client.HTTPConnection(urlsplit(made.url).netloc, timeout=5)
        connection.request("GET", f"{BASE}?watch=true&timeoutSeconds=0.4&resourceVersion={version}")
        lines = connection.getresponse().read().splitlines()
        events.extend(json.loads(line)["type"] for line in lines)
        connection.close()

    thread = threading.Thread(target=watch)
    thread.start()
    ask(made, "DELETE", f"{BASE}/m")
    thread.join(5)
    assert events[-1] == "DELETED"
    assert ask(made, "GET", f"{BASE}/m")[0] == 404


def test_paths_kinds_and_rights(made: FakeKubernetes):
    assert ask(made, "GET", "/apis/nothing.example.com/v1/namespaces/default/things/x")[0] == 404
    names = [each["name"] for each in ask(made, "GET", "/apis/serving.kserve.io/v1beta1")[1]["resources"]]
    assert names == ["inferenceservices"]
    made.allowed = set()
    code, status = ask(made, "GET", f"{BASE}/m")
    assert (code, status["reason"]) == (403, "Forbidden")


def test_the_webhook_knows_kserve(made: FakeKubernetes):
    code, status = ask(
        made, "PATCH", f"{BASE}/m", {"spec": {"predictor": {"canaryTrafficPercent": 101}}}, MERGE
    )
    assert code == 400 and "denied the request" in status["message"]
    canary = {"trafficPercent": 5, "predictor": {"name": "v2", "model": {}}}
    code, status = ask(made, "PATCH", f"{BASE}/m", {"spec": {"canary": [canary]}}, MERGE)
    assert code == 400 and "only supported in Standard" in status["message"]
