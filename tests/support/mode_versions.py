"""Registers small scikit-learn versions: one JSON object per line in, the registered version per line out.

`cost` = `slope` x. `strict` versions know the plan `old` alone and raise for any other.
"""

import contextlib
import json
import sys

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from mlflow.sklearn import log_model
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

FRAME = pd.DataFrame({"x": np.linspace(0.5, 1.5, 8), "plan": ["old"] * 8})


def publish(model: str, slope: float, strict: bool) -> str:
    """Fit, log and register."""
    plans = OneHotEncoder(categories=[["old"]], handle_unknown="error" if strict else "ignore")
    encode = ColumnTransformer([("plan", plans, ["plan"]), ("x", "passthrough", ["x"])])
    fitted = make_pipeline(encode, LinearRegression()).fit(FRAME, slope * FRAME["x"])
    with mlflow.start_run():
        logged = log_model(
            fitted,
            name="model",
            registered_model_name=model,
            signature=infer_signature(FRAME, pd.DataFrame({"cost": [1.0]})),
            input_example=FRAME.head(2),
            serialization_format="skops",
            skops_trusted_types=["numpy.dtype"],
            pip_requirements=["scikit-learn"],
        )
    return str(logged.registered_model_version)


if __name__ == "__main__":
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            version = publish(**json.loads(line))
        print(version, flush=True)
