"""What a flights recipe can be told, checked before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from assets.training.flight_data import ORIGINS


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
