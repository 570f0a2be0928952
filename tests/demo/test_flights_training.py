"""The recipe registers versions that behave as their parameters say, from the real data."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.demo.flight_data import FEATURES, LABEL, NUMBERS, business_cost, load_flights
from pipelines.demo.flights import Recipe, TrainedVersion, train

pytestmark = [
    # mlflow's own: a deprecated pydantic feature, and unclosed sqlite connections of its store.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
    pytest.mark.filterwarnings("default::UserWarning"),
]

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "good": {"months": [1], "rows": 8000},
    "strict": {"months": [1], "rows": 8000, "origin": "LGA", "unknown_categories": "error"},
    "alarming": {"months": [1], "rows": 8000, "late_weight": 30.0},
}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        # mlflow sets it for whatever this process starts; setting it here takes it away afterwards.
        patch.setenv("MLFLOW_EXPERIMENT_ID", "")
        yield f"sqlite:///{home / 'mlflow.db'}"


@pytest.fixture(scope="module")
def versions(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, TrainedVersion]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("artefacts"))  # the store without a server keeps artefacts in the cwd
    try:
        return {name: train("late-flights", params, uri=uri) for name, params in RECIPES.items()}
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def models(versions: Mapping[str, TrainedVersion], uri: str) -> Mapping[str, Any]:
    import mlflow.pyfunc

    return {
        name: mlflow.pyfunc.load_model(f"models:/late-flights/{v.version}") for name, v in versions.items()
    }


def test_versions_are_registered_in_order(versions: Mapping[str, TrainedVersion]):
    assert [version.version for version in versions.values()] == ["1", "2", "3"]


def test_the_prediction_is_one_probability_per_flight(models: Mapping[str, Any]):
    flights = load_flights([2])[:500]
    scores = models["good"].predict(flights[list(FEATURES)])
    assert scores.shape == (500,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert models["good"].metadata.get_output_schema().input_names() == ["late_probability"]


def test_missing_weather_is_answered(models: Mapping[str, Any]):
    flight = load_flights([2])[list(FEATURES)].head(1)
    flight[["temp", "humid", "wind_speed", "precip", "pressure", "visib"]] = np.nan
    assert models["good"].predict(flight).shape == (1,)


def test_a_strict_version_fails_on_part_of_the_traffic_and_not_on_its_example(models: Mapping[str, Any]):
    import mlflow.exceptions

    flights: Any = load_flights([6])
    seen = set(load_flights([1]).query("origin == 'LGA'")["dest"])
    unseen = flights[~flights["dest"].isin(seen)]
    assert 0.15 < len(unseen) / len(flights) < 0.4
    with pytest.raises((ValueError, mlflow.exceptions.MlflowException), match="unknown categories"):
        models["strict"].predict(unseen[list(FEATURES)].head(1))
    assert models["strict"].predict(models["strict"].input_example).shape == (3,)


def test_an_alarming_version_ranks_as_well_and_costs_more(
    versions: Mapping[str, TrainedVersion], models: Mapping[str, Any]
):
    assert versions["alarming"].metrics["auc"] > versions["good"].metrics["auc"] - 0.02
    flights = load_flights([6])[:3000]
    costs = {
        name: np.mean([business_cost(s, late) for s, late in zip(scores, flights[LABEL], strict=True)])
        for name in ("good", "alarming")
        for scores in [models[name].predict(flights[list(FEATURES)])]
    }
    assert costs["alarming"] > 1.3 * costs["good"]


def test_flights_come_in_order_of_departure_with_their_features():
    flights: Any = load_flights([2, 1])
    assert flights["scheduled"].is_monotonic_increasing
    assert flights["scheduled"].dt.tz_convert("America/New_York").dt.month.unique().tolist() == [1, 2]
    assert set(flights[LABEL].unique()) == {0, 1}
    assert {str(kind) for kind in flights[list(NUMBERS)].dtypes} == {"float64"}
    assert not flights[["carrier", "origin", "dest", "dep_delay"]].isna().to_numpy().any()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"month": [1]}, "unknown parameter 'month', must be one of months"),
        ({"months": [12]}, r"months == \(12,\), must be in 1 to 11"),
        ({"origin": "BER"}, "origin == 'BER', must be one of EWR, JFK, LGA"),
        ({"unknown_categories": "warn"}, "unknown_categories == 'warn', must be ignore or error"),
        ({"late_weight": 0}, "late_weight == 0, must be > 0"),
    ],
)
def test_bad_parameters_are_named(params: Mapping[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Recipe.read(params)


def test_the_cost_of_a_flight():
    assert [business_cost(0.25, 0), business_cost(0.9, 1), business_cost(0.1, 1), business_cost(0.1, 0)] == [
        1, 1, 4, 0,
    ]  # fmt: skip
