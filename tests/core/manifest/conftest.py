"""A good model folder to break."""

from pathlib import Path

import pytest

ROLLOUT = """\
model: churn
steps: [shadow, 10, 50, 100]
experiment:
  unit: customer_id
  primary: {name: revenue, type: mean, source: outcomes.revenue, better: higher, mde: 5%}
guardrails:
  - {name: errors, type: proportion, source: serving.errors, margin: 0.5pp}
  - name: slow
    type: proportion
    source: serving.over_slo
    slo: 250ms
    margin: 1pp
  - {name: per_visit, type: ratio, source: outcomes.spend, denominator: outcomes.visits, margin: 0.1}
  - {name: stays, type: retention, source: outcomes.visits, retention: 7d, margin: 2pp, better: higher}
data_checks:
  window: 15m
  checks:
    - {column: features.age, type: between, min: 0, max: 130}
    - {column: features.plan, type: in_set, values: [free, paid]}
    - {column: features.mail, type: matches, regex: "@"}
drift: {columns: [features.age, outputs.score]}
freeze:
  - {cron: "0 18 * * fri", duration: 60h, timezone: Europe/Berlin}
alerts: {critical: [ONCALL_URL]}
"""

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: churn
spec:
  predictor:
    minReplicas: 2
    model:
      modelFormat: {name: mlflow}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`serving_manifests/` with one good model, `churn`."""
    churn = tmp_path / "churn"
    churn.mkdir()
    (churn / "rollout.yaml").write_text(ROLLOUT)
    (churn / "inferenceservice.yaml").write_text(SERVICE)
    return tmp_path
