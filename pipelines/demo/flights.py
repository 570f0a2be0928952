"""The flight model: one forest over encoded categories whose prediction is a probability, trained and
registered under the name that it is given.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version as installed
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from pipelines.demo.flight_data import CATEGORIES, FEATURES, LABEL, NUMBERS, ORIGINS, load_flights
from resources.registry.client import mlflow_calls
from resources.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Parameters of one training run. `Recipe.read` checks them; a ValueError names what is allowed."""

    months: tuple[int, ...] = (1, 2, 3)
    """Months of 2013 to train on, 1 to 11; the month after the last is what metrics are measured on."""
    rows: int = 60_000
    """At most so many flights, drawn at random."""
    seed: int = 0
    trees: int = 12
    origin: str | None = None
    """Train on one airport's flights only: the extract that forgets destinations flown from elsewhere."""
    unknown_categories: Literal["ignore", "error"] = "ignore"
    """A carrier or destination never seen in training: a missing value, or a failed prediction."""
    late_weight: float = 1.0
    """Weight of late flights: above 1 it inflates every score and leaves their order nearly alone."""

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> "Recipe":
        """The recipe of a mapping such as `{"months": [1, 2, 3], "seed": 1}`."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(params) - set(known))
        if unknown:
            raise ValueError(f"unknown parameter {unknown[0]!r}, must be one of {', '.join(known)}")
        given = dict(params)
        if "months" in given:
            given["months"] = tuple(sorted(set(cast(list[int], given["months"]))))
        return cls(**given)

    def __post_init__(self) -> None:
        _check(
            "months", self.months, bool(self.months) and set(self.months) <= set(range(1, 12)), "in 1 to 11"
        )
        _check("rows", self.rows, self.rows >= 100, ">= 100")
        _check("trees", self.trees, 1 <= self.trees <= 200, "in 1 to 200")
        _check("origin", self.origin, self.origin in (None, *ORIGINS), f"one of {', '.join(ORIGINS)}")
        allowed = ("ignore", "error")
        _check(
            "unknown_categories",
            self.unknown_categories,
            self.unknown_categories in allowed,
            "ignore or error",
        )
        _check("late_weight", self.late_weight, self.late_weight > 0, "> 0")


def _check(name: str, value: object, good: bool, allowed: str) -> None:
    if not good:
        raise ValueError(f"{name} == {value!r}, must be {allowed}")


# The model: one forest over encoded categories whose prediction is a probability.
#
# A regression forest on 0/1 predicts the share of late flights in a leaf: one column within [0, 1], missing
# values allowed, and `predict` is all that MLflow, KServe and skops need: no wrapper class, no pickle.


OUTPUT = "late_probability"

TRUSTED_TYPES = ("sklearn.tree._tree.Tree",)
"""Trees are plain arrays, but skops wants them named: it does not check their node indices."""


def fit(flights: pd.DataFrame, recipe: Recipe) -> Any:
    """A fitted scikit-learn pipeline from `FEATURES` to the probability of being late, shape [n]."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import Pipeline

    forest = RandomForestRegressor(
        n_estimators=recipe.trees, max_leaf_nodes=300, min_samples_leaf=20, max_features=0.5,
        random_state=recipe.seed, n_jobs=1,
    )  # fmt: skip
    encode = ColumnTransformer(
        [
            ("categories", _encoder(flights, recipe), list(CATEGORIES)),
            ("numbers", "passthrough", list(NUMBERS)),
        ]
    )
    pipeline = Pipeline([("encode", encode), ("forest", forest)])
    weights = np.where(flights[LABEL] > 0, recipe.late_weight, 1.0)
    return pipeline.fit(flights[list(FEATURES)], flights[LABEL], forest__sample_weight=weights)


def known_rows(flights: pd.DataFrame, trained_on: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """The flights that a version of this recipe is asked about offline: its own kind of extract."""
    known: Any = flights
    if recipe.origin is not None:
        known = known[known["origin"] == recipe.origin]
    if recipe.unknown_categories == "error":
        for column in ("carrier", "dest"):
            known = known[known[column].isin(set(trained_on[column]))]
    return known


def _encoder(flights: pd.DataFrame, recipe: Recipe) -> Any:
    from sklearn.preprocessing import OrdinalEncoder

    # The three airports are a closed set; carriers and destinations are what the data shows.
    seen = {column: sorted(flights[column].unique()) for column in CATEGORIES} | {"origin": list(ORIGINS)}
    categories: Any = [np.array(seen[column], dtype=object) for column in CATEGORIES]
    if recipe.unknown_categories == "error":
        return OrdinalEncoder(categories=categories)
    return OrdinalEncoder(categories=categories, handle_unknown="use_encoded_value", unknown_value=np.nan)


# Trains a version of a flight-lateness model and registers it. The model's name is an argument.


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
