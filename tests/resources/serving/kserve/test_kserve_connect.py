"""The backend from environment variables and a kubeconfig."""

import json
from pathlib import Path

import pytest

from pipelines.core.errors import ServingError
from resources.serving.kserve.connect import connect
from resources.serving.kserve.sticky import StickyBackend
from tests.fake_kubernetes.backends import MANIFEST, artefact
from tests.fake_kubernetes.server import FakeKubernetes


@pytest.fixture
def kubeconfig(knative: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubernetes:
    """A kubeconfig with a token, for the fake cluster."""
    knative.token = "secret"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": knative.url}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return knative


def test_a_rollout_with_credentials_from_a_kubeconfig(kubeconfig: FakeKubernetes):
    made = connect({"m": MANIFEST}, {"RAMPGATE_SINK_URL": "http://sink/"})
    assert not made.capabilities("m").sticky
    status = made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    assert (status.canary or status.stable) is not None
    assert kubeconfig.isvc("m")["spec"]["predictor"]["logger"]["url"] == "http://sink/"


def test_a_gateway_that_does_not_answer_is_not_sticky(kubeconfig: FakeKubernetes):
    urls = {
        "RAMPGATE_GATEWAY_URL": "http://127.0.0.1:1",
        "RAMPGATE_GATEWAY_CONTROL_URL": "http://127.0.0.1:1",
    }
    made = connect({"m": MANIFEST}, urls)
    assert isinstance(made, StickyBackend)
    assert not made.capabilities("m").sticky
    with pytest.raises(ServingError, match="set both or none"):
        connect({}, {"RAMPGATE_GATEWAY_URL": "http://g"})


def test_a_model_that_nobody_wrote_down(kubeconfig: FakeKubernetes):
    with pytest.raises(ServingError, match="no model of that name"):
        connect({}, {}).deploy_canary("m", artefact("1"), percent=0, salt="s1")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("RAMPGATE_MODEL_TIMEOUT", "soon", "must be seconds"),
        ("RAMPGATE_PROMETHEUS_QUERIES", "linkerd", "must be one of knative, istio, envoy"),
    ],
)
def test_settings_that_mean_nothing(kubeconfig: FakeKubernetes, name: str, value: str, allowed: str):
    with pytest.raises(ServingError, match=allowed):
        connect({}, {name: value})
