"""Trains a version of a flight-lateness model and registers it. The model's name is an argument."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from typing import Any

import pandas as pd

from assets.training.flight_data import CATEGORIES, FEATURES, LABEL, load_flights
from assets.training.late_model import OUTPUT, TRUSTED_TYPES, fit, known_rows
from assets.training.recipe import Recipe
from resources.registry.mlflow_client import mlflow_calls
from resources.settings import Settings

_EXAMPLE_ROWS = 3
_REQUIRED = ("scikit-learn", "skops", "numpy", "pandas")


@dataclass(frozen=True, kw_only=True)
class TrainedVersion:
    """A version that is now in the registry, without an alias."""

    model: str
    version: str
    run_id: str
    metrics: Mapping[str, float]
    """`auc` and `log_loss` on the month after the training months, and `rows` trained on."""


def train(model: str, params: Mapping[str, Any] | None = None, *, uri: str | None = None) -> TrainedVersion:
    """Train with the parameters of `Recipe` and register the result as the next version of `model`.

    `uri` is the MLflow server; the settings' one if not given. Raises ValueError for bad parameters and
    `RegistryError` where the server cannot be reached or refuses.
    """
    recipe = Recipe.read(params or {})
    flights = _training_flights(recipe)
    pipeline = fit(flights, recipe)
    metrics = {"rows": float(len(flights)), **_metrics(pipeline, flights, recipe)}
    return _register(model, pipeline, flights, recipe, metrics, uri or Settings.from_environment().mlflow_uri)


def _training_flights(recipe: Recipe) -> pd.DataFrame:
    flights: Any = load_flights(recipe.months)
    if recipe.origin is not None:
        flights = flights[flights["origin"] == recipe.origin]
    return flights.sample(min(recipe.rows, len(flights)), random_state=recipe.seed).sort_index()


def _metrics(pipeline: Any, flights: pd.DataFrame, recipe: Recipe) -> dict[str, float]:
    from sklearn.metrics import log_loss, roc_auc_score

    following = known_rows(load_flights([max(recipe.months) + 1]), flights, recipe)
    scores = pipeline.predict(following[list(FEATURES)])
    return {
        "auc": float(roc_auc_score(following[LABEL], scores)),
        "log_loss": float(log_loss(following[LABEL], scores)),
    }


def _register(
    model: str,
    pipeline: Any,
    flights: Any,
    recipe: Recipe,
    metrics: Mapping[str, float],
    uri: str,
) -> TrainedVersion:
    import mlflow
    from mlflow.sklearn import log_model

    with mlflow_calls(uri, f"registering a version of {model}"), _run(model) as run:
        mlflow.log_params(asdict(recipe))
        mlflow.log_metrics(dict(metrics))
        logged = log_model(
            pipeline,
            name="model",
            registered_model_name=model,
            signature=_signature(),
            input_example=flights[list(FEATURES)].head(_EXAMPLE_ROWS),
            serialization_format="skops",
            skops_trusted_types=list(TRUSTED_TYPES),
            # Given, because working them out starts a second interpreter for several seconds.
            pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIRED],
        )
    return TrainedVersion(
        model=model, version=str(logged.registered_model_version), run_id=run.info.run_id, metrics=metrics
    )


def _run(experiment: str) -> Any:
    import mlflow

    mlflow.set_experiment(experiment)
    return mlflow.start_run()


def _signature() -> Any:
    """Every feature is required, but a number may be NaN: missing weather is no missing column."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs: Any = [ColSpec("string" if name in CATEGORIES else "double", name) for name in FEATURES]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec("double", OUTPUT)]))
