"""Windows of an invented prediction log."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

Window = Callable[..., pd.DataFrame]

START = datetime(2026, 3, 1, 8, tzinfo=UTC)


@pytest.fixture
def window() -> Window:
    def make(rows: int, seed: int, *, shift: float = 0.0) -> pd.DataFrame:
        """`shift` moves `features.distance` by so many standard deviations."""
        rng = np.random.default_rng(seed)
        return pd.DataFrame(
            {
                "features.distance": rng.normal(700 + 300 * shift, 300, rows),
                "features.hour": rng.integers(0, 24, rows),
                "features.carrier": rng.choice(["AA", "B6", "DL", "UA"], rows, p=[0.3, 0.3, 0.2, 0.2]),
                "outputs.score": rng.beta(2, 5, rows),
            }
        )

    return make


@pytest.fixture
def during() -> dict[str, datetime]:
    return {"window_start": START, "window_end": START + timedelta(hours=1)}
