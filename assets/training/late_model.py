"""The model: one forest over encoded categories whose prediction is a probability.

A regression forest on 0/1 predicts the share of late flights in a leaf: one column within [0, 1], missing
values allowed, and `predict` is all that MLflow, KServe and skops need: no wrapper class, no pickle.
"""

from typing import Any

import numpy as np
import pandas as pd

from assets.training.flight_data import CATEGORIES, FEATURES, LABEL, NUMBERS, ORIGINS
from assets.training.recipe import Recipe

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
