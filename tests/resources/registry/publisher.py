"""Registers small versions: one JSON object per line in, `{"version"}` per line out."""

import contextlib
import json
import sys
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import infer_signature
from mlflow.sklearn import log_model
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

FRAME = pd.DataFrame({"age": [30.0, float("nan"), 50.0], "plan": [1, 0, 1]})


def publish(model: str, described: bool = False, serialization: str = "skops") -> str:
    """Log and register; `described` versions have a signature and an input example."""
    fitted = make_pipeline(SimpleImputer(), LinearRegression()).fit(FRAME, [0.0, 1.0, 0.0])
    extra: dict[str, Any] = {}
    if described:
        extra = {"signature": infer_signature(FRAME, pd.DataFrame({"score": [0.1]})), "input_example": FRAME}
    with mlflow.start_run():
        logged = log_model(
            fitted,
            name="model",
            registered_model_name=model,
            serialization_format=serialization,
            skops_trusted_types=["numpy.dtype"],
            pip_requirements=["scikit-learn"],
            **extra,
        )
    return str(logged.registered_model_version)


if __name__ == "__main__":
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            version = publish(**json.loads(line))
        print(json.dumps({"version": version}), flush=True)
