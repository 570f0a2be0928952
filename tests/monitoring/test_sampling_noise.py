"""The floor of chance against direct simulation with scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from pipelines.monitoring.drift import FAMILY_WISE, noise_thresholds
from resources.checks.columns import prepare

DRAWS = 3000


def threshold(was, now):
    columns, _ = prepare(pd.DataFrame({"features.x": was}), pd.DataFrame({"features.x": now}), ["features.x"])
    (least,) = noise_thresholds(columns)
    return least


@pytest.mark.parametrize(("reference", "current", "times"), [(400, 400, 1), (3000, 300, 1), (400, 400, 25)])
def test_numbers(reference, current, times):
    """With `times` as many rows chance is simulated at the smaller size: it goes with the square root."""
    rng = np.random.default_rng(0)
    scores = [
        wasserstein_distance(a := rng.normal(5, 2, reference), rng.normal(5, 2, current)) / a.std()
        for _ in range(DRAWS)
    ]
    least = [
        threshold(rng.normal(5, 2, times * reference), rng.normal(5, 2, times * current)) for _ in range(4)
    ]
    expected = np.quantile(scores, 1 - FAMILY_WISE) / np.sqrt(times)
    assert np.mean(least) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("odd", ["outlier", "cauchy", "constant", "rare"])
def test_no_column_spoils_the_floor_of_another(odd):
    """Each moves only when it changes sides, which is far out: with a part in the one z it would blind the rest."""
    rng = np.random.default_rng(0)
    sizes = 4000, 40
    far = {
        "outlier": [np.where(np.arange(n) == n - 5, 1e9 * (n > 40), 1.0) for n in sizes],
        "cauchy": [rng.standard_cauchy(n) for n in sizes],
        "constant": [np.full(n, 3.0) for n in sizes],
        "rare": [np.where(np.arange(n) < 4, 1.0, np.nan) for n in sizes],
    }[odd]
    good = [{f"features.{c}": rng.normal(size=n) for c in "abc"} for n in sizes]
    both = [pd.DataFrame(side | {"features.far": x}) for side, x in zip(good, far, strict=True)]
    names = list(good[0])
    alone = noise_thresholds(prepare(pd.DataFrame(good[0]), pd.DataFrame(good[1]), names)[0])
    beside = noise_thresholds(prepare(*both, [*names, "features.far"])[0])
    assert beside[:3] == pytest.approx(alone, rel=0.25)
    assert all(np.isfinite(beside[:3]))


def test_categories():
    rng = np.random.default_rng(0)
    shares = [0.5, 0.3, 0.15, 0.05]
    least = threshold(rng.choice(list("abcd"), 2000, p=shares), rng.choice(list("abcd"), 500, p=shares))
    scores = [
        jensenshannon(rng.multinomial(2000, shares) / 2000, rng.multinomial(500, shares) / 500)
        for _ in range(DRAWS)
    ]
    assert least == pytest.approx(np.quantile(scores, 1 - FAMILY_WISE), rel=0.25)


def test_it_shrinks_with_the_square_root_of_the_rows():
    rng = np.random.default_rng(1)
    small, large = (threshold(rng.normal(size=n), rng.normal(size=n)) for n in (500, 50_000))
    assert small / large == pytest.approx(10, rel=0.35)


def test_more_columns_need_a_higher_threshold():
    rng = np.random.default_rng(2)
    was, now = (pd.DataFrame(rng.normal(size=(500, 20))).add_prefix("features.") for _ in range(2))
    columns, _ = prepare(was, now, list(was.columns))
    alone = [noise_thresholds([column])[0] for column in columns]
    assert np.mean(noise_thresholds(columns)) > 1.1 * np.mean(alone)
