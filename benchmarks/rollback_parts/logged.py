"""A real model version, small enough to be registered under many names."""


def logged(uri: str) -> dict[str, str]:
    """A small version that may be started, logged once for all models: what registers it under another name."""
    import mlflow
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from mlflow.sklearn import log_model
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"x": np.linspace(0.5, 1.5, 8)})
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        found = log_model(
            LinearRegression().fit(frame, frame["x"]),
            name="model",
            registered_model_name="logged",
            signature=infer_signature(frame, pd.DataFrame({"cost": [1.0]})),
            input_example=frame.head(2),
            serialization_format="skops",
            skops_trusted_types=["numpy.dtype"],
            pip_requirements=["scikit-learn"],
        )
    version = mlflow.MlflowClient().get_model_version("logged", found.registered_model_version)
    return {"source": str(version.source), "model_id": str(found.model_id)}
