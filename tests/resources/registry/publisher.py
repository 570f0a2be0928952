"""Registers, mends and copies small versions: one JSON object per line in, `{"version"}` per line out."""

import contextlib
import json
import sys
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import infer_signature, set_signature
from mlflow.sklearn import log_model
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

FRAME = pd.DataFrame({"age": [30.0, float("nan"), 50.0], "plan": [1, 0, 1]})


def publish(
    model: str,
    described: bool = False,
    serialization: str = "skops",
    mend: str = "",
    copy: str = "",
    more: tuple[str, ...] = (),
) -> str:
    """Log and register; `described` versions have a signature and an input example, and need the columns `more`.

    Or give the version `mend` the signature that it lacks, where its artefact lies; or copy the version `copy`.
    """
    frame = FRAME.assign(**dict.fromkeys(more, 1.5))
    signature = infer_signature(frame, pd.DataFrame({"score": [0.1]}))
    if mend:
        set_signature(MlflowClient().get_model_version_download_uri(model, mend), signature)
        return mend
    if copy:
        return str(MlflowClient().copy_model_version(f"models:/{model}/{copy}", model).version)
    fitted = make_pipeline(SimpleImputer(), LinearRegression()).fit(frame, [0.0, 1.0, 0.0])
    extra: dict[str, Any] = {}
    if described or more:  # MLflow infers a signature from an example, unless it is told not to
        extra = {"signature": signature if described else False, "input_example": frame}
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
